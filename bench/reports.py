"""Files of results, ``NAME-DATE.json``: what was measured, when, and on which machine; each is whole at any time."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sam2fast.io.atomic import written_whole


def report_path(folder: Path, name: str) -> Path:
    """Today's file."""
    return folder / f"{name}-{_today()}.json"


def write_report(folder: Path, name: str, /, *, machine: dict[str, Any], **content: Any) -> Path:
    """Writes today's file, its date first, and says where it is.

    Args:
        machine: what :func:`suite.machine.machine` says, or that and more: no file is without versions and commit.
    """
    path = report_path(folder, name)
    with written_whole(path) as file:
        file.write((json.dumps({"date": _today(), "machine": machine, **content}, indent=1) + "\n").encode())
    return path


def write_rows(
    folder: Path, name: str, rows: list[dict[str, Any]], key: Callable[[dict[str, Any]], Any], **content: Any
) -> Path:
    """The same, where rows of other keys that today's file has stay in it."""
    path, new = report_path(folder, name), [key(row) for row in rows]
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return write_report(folder, name, **content, rows=[*(row for row in before if key(row) not in new), *rows])


def _today() -> str:
    return datetime.date.today().isoformat()
