"""A change of the public API changes public_api.txt, so that a review sees it."""

import re
from pathlib import Path

from public_api import MODULES, public_api

ROOT = Path(__file__).parents[2]
IMPORT = re.compile(r"^ *from (sam2fast[\w.]*) import ([\w, ]+)$", re.MULTILINE)


def test_public_names_and_signatures_are_unchanged():
    """After an intended change: ``python tests/api/rewrite_public_api.py``."""
    assert public_api() == (ROOT / "tests/api/public_api.txt").read_text(encoding="utf-8")


def test_imports_of_the_documents_are_promised():
    documents = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    documents.remove(ROOT / "docs" / "read_the_core.md")  # it looks inside, and says that what it names may change
    used = {module for path in documents for module, _ in IMPORT.findall(path.read_text(encoding="utf-8"))}
    assert len(used) > 10
    # Not importable here: tests/clients/test_cvat.py has the names.
    assert {module for module in used if module not in MODULES} == {"sam2fast.integrations.cvat"}
