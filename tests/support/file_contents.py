"""The files in a folder."""

import os
from pathlib import Path


def files_of(folder: Path, pattern: str = "*") -> dict[str, bytes]:
    """Returns the contents of the files in a folder that match the pattern, by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob(pattern)) if p.is_file()}


def names(folder: Path) -> list[str]:
    """What is directly in a folder, sorted, except records of written files."""
    return sorted(name for name in os.listdir(folder) if not name.endswith(".files.json"))
