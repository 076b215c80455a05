"""What every layout of a data set can do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from sam2fast.datasets.annotations import VideoAnnotations
from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.frame_files import FrameFiles
from sam2fast.datasets.palette_masks import REFUSE
from sam2fast.datasets.staging import Stage

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
