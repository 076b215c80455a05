"""The interface of all data set layouts, and the staging folder by which a video is written atomically."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol

from sam2fast.datasets.annotations import VideoAnnotations
from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.datasets.frame_files import FrameFiles
from sam2fast.datasets.palette_masks import REFUSE

MANUAL, AUTO = MASKLETS = ("manual", "auto")


@dataclass(frozen=True)
class Settings:
    """Options for reading and writing.

    Attributes:
        masklets: which of SA-V's two files per video, ``manual`` or ``auto``.
        rate: in SA-V, every ``rate``-th frame of the video is annotated.
        overlaps: how palette images treat overlapping masks, see :func:`~sam2fast.datasets.palette_masks.paint`.
    """

    masklets: str = MANUAL
    rate: int = 4
    overlaps: str = REFUSE


class Written(NamedTuple):
    """The files written for a video."""

    paths: Sequence[str]  # in the data set; the last one marks the video as complete
    lost: Mapping[str, Sequence[int]]  # objects that lost pixels to others, by frame


class StagingFolder:
    """A hidden temporary folder in a data set, removed at the end of the ``with`` block.

    Args:
        root: the data set's folder.
        name: of the video. Leftovers of an interrupted run on the same video are removed first.
    """

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._folder = root, root / f".{name}.part"

    def __enter__(self) -> "StagingFolder":
        remove(self._folder)
        self._folder.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        remove(self._folder)

    def file(self, relative: str) -> Path:
        """The temporary path of a file such as ``Annotations/bear/00000.png``; creates its folder."""
        path = self._folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def folder(self, relative: str) -> Path:
        """The temporary path of a folder; creates it."""
        path = self._folder / relative
        path.mkdir(parents=True, exist_ok=True)
        return path

    def move(self, paths: Sequence[str]) -> None:
        """Moves files and folders into the data set, in this order: the last one marks the video as complete."""
        remove(self._root / paths[-1])
        for path in paths:
            target = self._root / path
            remove(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            (self._folder / path).rename(target)


def remove(path: Path) -> None:
    """Removes a file or a whole folder, if it exists."""
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
        """The options that the data set was opened with."""
        ...

    @property
    def name(self) -> str:
        """The name of the layout."""
        ...

    @property
    def frames_folder(self) -> str:
        """The folder of the frames, which are ``<frames_folder>/<video>/<frame>.jpg``."""
        ...

    @property
    def first_id(self) -> int:
        """The smallest object id of the layout, 0 or 1; in :class:`VideoAnnotations` it is 1."""
        ...

    @property
    def keeps_videos(self) -> bool:
        """Whether the layout stores video files, so that their frames need not be extracted."""
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
        """The files with the frames of a video, if they exist.

        Raises:
            DatasetError: two files are the same frame.
        """
        ...

    def has(self, name: str) -> bool:
        """Whether the data set has this video, completely written."""
        ...

    def write(self, video: VideoAnnotations, stage: StagingFolder) -> Written:
        """Writes a video's masks and metadata; one frame is in memory at a time.

        Raises:
            DatasetError: the layout cannot store the masks, or a mask cannot be read.
            OSError: a file cannot be written.
        """
        ...

    def finish(self) -> None:
        """Writes files about all videos, after the last one was written."""
        ...


@dataclass(frozen=True)
class LayoutFolder:
    """The common base class of the layouts."""

    root: Path
    settings: Settings = field(default_factory=Settings)

    def finish(self) -> None:
        """See :class:`Layout`."""


def refuse_unknown(found: Sequence[str], known: Sequence[str], what: str, file: Path) -> None:
    """Raises ``DatasetError`` for files that the video's metadata file does not list, since it would be outdated."""
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise DatasetError(
            f"{file} does not list {what} {unknown[0]}; if the masks were changed since, remove that file"
        )
