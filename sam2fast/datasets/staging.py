"""A video's files while they are written: it appears in the data set whole, or not at all."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType


class Stage:
    """A hidden folder in a data set's; what is left in it when the block is over is removed.

    Args:
        root: of the data set.
        name: of the video. What an interrupted run has left of the same video is removed first.
    """

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._folder = root, root / f".{name}.part"

    def __enter__(self) -> "Stage":
        remove(self._folder)
        self._folder.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        remove(self._folder)

    def file(self, place: str) -> Path:
        """Where to write the file that belongs to a place such as ``Annotations/bear/00000.png``; makes its folder."""
        path = self._folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def folder(self, place: str) -> Path:
        """Where to write the files of a folder; makes it."""
        path = self._folder / place
        path.mkdir(parents=True, exist_ok=True)
        return path

    def move(self, places: Sequence[str]) -> None:
        """Moves files and folders to their places, in this order: the last is what tells that the video is there."""
        remove(self._root / places[-1])
        for place in places:
            target = self._root / place
            remove(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            (self._folder / place).rename(target)


def remove(path: Path) -> None:
    """Removes a file or a folder with all in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
