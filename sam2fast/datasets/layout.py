"""What every layout of a data set can do, and how the files of a video are written: all of them, or none."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol

from sam2fast.datasets.annotations import VideoAnnotations
from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.frame_files import FrameFiles
from sam2fast.datasets.palette_masks import REFUSE

MANUAL, AUTO = MASKLETS = ("manual", "auto")


@dataclass(frozen=True)
class Settings:
    """How to read and write.

    Attributes:
        masklets: which of SA-V's two files of a video, ``manual`` or ``auto``.
        rate: of SA-V, every how many frames of the film are annotated.
        overlaps: what becomes of them in palette pictures, see :func:`~sam2fast.datasets.palette_masks.paint`.
    """

    masklets: str = MANUAL
    rate: int = 4
    overlaps: str = REFUSE


class Written(NamedTuple):
    """What was written of a video."""

    places: Sequence[str]  # to be moved; the last one tells that the video is there
    lost: Mapping[str, Sequence[int]]  # objects that lost pixels to others, by frame


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


class Layout(Protocol):
    """A data set in one layout."""

    @property
    def root(self) -> Path:
        """The data set's folder."""
        ...

    @property
    def settings(self) -> Settings:
        """How masks are read and written, as it was opened with."""
        ...

    @property
    def name(self) -> str:
        """Of the layout."""
        ...

    @property
    def frames_folder(self) -> str:
        """Where pictures are, ``<frames_folder>/<video>/<frame>.jpg``."""
        ...

    @property
    def first_id(self) -> int:
        """The least id that an object has in the layout; in :class:`VideoAnnotations` it is 1."""
        ...

    @property
    def keeps_films(self) -> bool:
        """Whether films are part of the layout, so that they need not become pictures."""
        ...

    def videos(self) -> list[str]:
        """The names of the videos that have annotations, sorted.

        Raises:
            DatasetError: the folder is not in this layout.
        """
        ...

    def open(self, name: str) -> VideoAnnotations:
        """The annotations of a video.

        Raises:
            DatasetError: files are missing or damaged.
        """
        ...

    def frame_files(self, name: str) -> FrameFiles:
        """The pictures of a video, if they are there.

        Raises:
            DatasetError: two of them are the same frame.
        """
        ...

    def has(self, name: str) -> bool:
        """Whether this video was written."""
        ...

    def write(self, video: VideoAnnotations, stage: Stage) -> Written:
        """Writes a video's masks and facts, one frame in memory at a time.

        Raises:
            DatasetError: the layout cannot hold them, or a mask cannot be read.
            OSError: a file cannot be written.
        """
        ...

    def finish(self) -> None:
        """Writes what tells of all videos, when the last one is there."""
        ...


@dataclass(frozen=True)
class LayoutFolder:
    """What the layouts have in common."""

    root: Path
    settings: Settings = field(default_factory=Settings)

    def finish(self) -> None:
        """See :class:`Layout`."""


def refuse_unknown(found: Sequence[str], known: Sequence[str], what: str, facts: Path) -> None:
    """Raises ``DatasetError`` for files that a video's facts do not tell of, as the facts would be wrong."""
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise DatasetError(
            f"{facts} does not tell of {what} {unknown[0]}; if the masks were changed since, remove that file"
        )
