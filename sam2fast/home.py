"""Paths below a home directory, which not every process has."""

import os
from pathlib import Path

# Where nothing is and nothing can be made, with a reason that can be read in messages.
NOWHERE = Path(os.devnull, "no home directory")


def expanded(path: str | Path) -> Path:
    """A path with ``~`` filled in. Without a home directory, as of an unknown user, nothing is found below it."""
    path = Path(path)
    try:
        return path.expanduser()
    except RuntimeError:
        return NOWHERE.joinpath(*path.parts[1:])
