"""The files in a folder."""

import os
from pathlib import Path


def files_of(folder: Path) -> dict[str, bytes]:
    """Contents of all files in a folder, by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def names(folder: Path) -> list[str]:
    """What is directly in a folder, sorted."""
    return sorted(os.listdir(folder))
