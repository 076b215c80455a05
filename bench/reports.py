"""Files of results, ``NAME-DATE.json``: what was measured, when, and on which machine; each is whole at any time."""

import datetime
import json
from pathlib import Path
from typing import Any

from sam2fast.io.atomic import atomic_write


def report_path(folder: Path, name: str) -> Path:
    """Today's file."""
    return folder / f"{name}-{_today()}.json"


def write_report(folder: Path, name: str, /, *, machine: dict[str, Any], **content: Any) -> Path:
    """Writes today's file, its date first, and says where it is.

    Args:
        machine: what :func:`suite.machine.machine` says, or that and more: no file is without versions and commit.
    """
    path = report_path(folder, name)
    with atomic_write(path) as file:
        file.write((json.dumps({"date": _today(), "machine": machine, **content}, indent=1) + "\n").encode())
    return path


def _today() -> str:
    return datetime.date.today().isoformat()
