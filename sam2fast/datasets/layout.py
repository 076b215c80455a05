"""Interface of all data set layouts, and the staging folder with which a video is written atomically."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar, NamedTuple

from sam2fast.datasets.annotations import VideoAnnotations, metadata_file
from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.datasets.frame_files import FrameFiles
from sam2fast.datasets.palette_masks import REFUSE
from sam2fast.downloads.digests import digest_of
from sam2fast.io.atomic import beside, remove
from sam2fast.io.made_from import are_whole, files_below, is_whole

MANUAL, AUTO = MASKLETS = ("manual", "auto")


@dataclass(frozen=True)
class Settings:
    """Options for reading and writing.

    Attributes:
        masklets: one of SA-V's two files per video, ``manual`` or ``auto``.
        rate: interval of annotated frames in SA-V: every ``rate``-th frame of the video.
        overlaps: treatment of overlapping masks in palette images, see
            :func:`~sam2fast.datasets.palette_masks.paint`.
    """

    masklets: str = MANUAL
    rate: int = 4
    overlaps: str = REFUSE


class Written(NamedTuple):
    """Files written for a video."""

    paths: Sequence[str]  # paths in the data set; the last one marks the video as complete
    lost: Mapping[str, Sequence[int]]  # objects that lost pixels to other objects, by frame
    numbers: Mapping[int, int] = MappingProxyType({})  # numbers of objects in the files that differ from the ids


class StagingFolder:
    """Hidden folder for a video in a data set. The folder is removed at the end of the context."""

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._folder = root, beside(root / name)

    def __enter__(self) -> "StagingFolder":
        self._folder.mkdir(parents=True)
        return self

    def __exit__(self, *error: object) -> None:
        remove(self._folder)

    def file(self, relative: str) -> Path:
        """Returns the temporary path of a file such as ``Annotations/bear/00000.png``, and creates its folder."""
        path = self._folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def folder(self, relative: str) -> Path:
        """Creates a temporary folder and returns its path."""
        path = self._folder / relative
        path.mkdir(parents=True, exist_ok=True)
        return path

    def move(self, paths: Sequence[str]) -> None:
        """Moves files and folders to the data set in the given order. The last path marks the video as complete."""
        remove(self._root / paths[-1])
        for path in paths:
            target = self._root / path
            remove(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            (self._folder / path).rename(target)


@dataclass(frozen=True)
class Layout(ABC):
    """Data set in one layout.

    Methods raise :class:`DatasetError` if files are missing or damaged, or the folder is not in this layout.

    Attributes:
        root: folder of the data set.
        name: name of the layout.
        frames_folder: folder of the frames, ``<frames_folder>/<video>/<frame>.jpg``.
        first_id: smallest object id of the layout, 0 or 1; in :class:`VideoAnnotations` it is 1.
        keeps_videos: True if the layout stores video files, so that frames need not be extracted.
    """

    root: Path
    settings: Settings = field(default_factory=Settings)

    name: ClassVar[str]
    frames_folder: ClassVar[str]
    first_id: ClassVar[int]
    keeps_videos: ClassVar[bool]

    @abstractmethod
    def videos(self) -> list[str]:
        """Returns the sorted names of the videos that have annotations."""

    @abstractmethod
    def open(self, name: str) -> VideoAnnotations:
        """Returns the annotations of a video."""

    @abstractmethod
    def frame_files(self, name: str) -> FrameFiles:
        """Returns the existing files with the frames of a video."""

    @abstractmethod
    def masks_at(self, name: str) -> Path:
        """Returns the path of the file or folder for a video's masks. The path need not exist."""

    def files(self, name: str) -> list[Path]:
        """Returns all existing files of a video: masks, metadata and frames."""
        masks, facts, frames = self.masks_at(name), metadata_file(self.root, name), self.frame_files(name)
        paths = files_below(masks) if masks.is_dir() else [masks]
        paths += [*frames.images.values(), *filter(None, [frames.video]), facts]
        return [path for path in paths if path.is_file()]

    def has(self, name: str, count: int | None = None) -> bool:
        """Returns True if the video has masks and complete files, whose number is ``count`` if known."""
        return is_whole(self.masks_at(name)) and are_whole(self.files(name), count)

    def digests(self, name: str, with_frames: bool) -> dict[str, str]:
        """Returns digests of a video's masks and frames for :mod:`sam2fast.io.made_from`."""
        masks, facts, frames = self.masks_at(name), metadata_file(self.root, name), self.frame_files(name)
        digests = {"mask_content": digest_of(masks, files_below(masks) if masks.is_dir() else None)}
        if facts.is_file():
            digests["fact_content"] = digest_of(facts)
        if with_frames and frames.video is not None:
            digests["video_content"] = digest_of(frames.video)
        elif with_frames and frames:
            images = list(frames.images.values())
            digests["video_content"] = digest_of(images[0].parent, images)
        return digests

    @abstractmethod
    def write(self, video: VideoAnnotations, stage: StagingFolder) -> Written:
        """Writes a video's masks and metadata. One frame is in memory at a time.

        Raises:
            DatasetError: If the layout cannot store the masks, or a mask cannot be read.
        """

    def finish(self) -> None:  # noqa: B027  (most layouts have no such files)
        """Writes files about all videos, after the last video is written."""


def refuse_unknown(names: Sequence[str], known: Sequence[str], what: str, file: Path) -> None:
    """Raises ``DatasetError`` if the video's metadata file does not list a name. Such a metadata file is outdated."""
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise DatasetError(
            f"{file} does not list {what} {unknown[0]}; if the masks were changed since, remove that file"
        )
