"""Files of results, ``NAME-DATE.json``: what was measured, when, and on which machine. They are written atomically."""

import datetime
import json
import re
from pathlib import Path
from typing import Any

from sam2fast.io.atomic import atomic_write


def write_report(folder: Path, name: str, /, *, machine: dict[str, Any], **content: Any) -> Path:
    """Writes today's file, its date first, and says where it is.

    Args:
        machine: what :func:`suite.machine.machine` says, or that and more: no file is without versions and commit.
    """
    today = datetime.date.today().isoformat()
    path = folder / f"{name}-{today}.json"
    write_json(path, {"date": today, "machine": machine, **content})
    return path


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as file:
        file.write(text.encode())


def file_name(device: str) -> str:
    """The name of a device as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
