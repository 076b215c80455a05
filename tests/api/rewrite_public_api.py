"""Rewrites public_api.txt: ``python tests/api/rewrite_public_api.py``. Review the changes."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

from public_api import public_api  # noqa: E402

if __name__ == "__main__":
    (HERE / "public_api.txt").write_text(public_api(), encoding="utf-8")
