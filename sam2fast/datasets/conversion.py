"""Jobs for a runner that convert videos between layouts, or extract frames of video files as JPEG.

See :class:`~sam2fast.deploy.parallel.runners.Runner`. Frames are extracted like in the official
``training/scripts/sav_frame_extraction_submitit.py``.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sam2fast.datasets.annotations import VideoAnnotations, first_difference
from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.datasets.frame_files import QUALITY, FrameFiles, copy_frames, write_frames
from sam2fast.datasets.layout import Layout, StagingFolder
from sam2fast.downloads.digests import digest_of
from sam2fast.io.images import VIDEO_SUFFIXES, files_of_kind
from sam2fast.io.made_from import are_whole, files_below

ALL, ANNOTATED, NONE = IMAGES = ("all", "annotated", "none")


@dataclass(frozen=True)
class ConvertJob:
    """One video to convert. If ``check`` is True, all masks are read back and compared."""

    source: Layout
    target: Layout
    video: str
    images: str = ALL
    check: bool = False

    @property
    def files(self) -> list[Path]:
        """Returns the existing files of the video in the target."""
        return self.target.files(self.video)

    def is_done(self, count: int | None) -> bool:
        """Returns True if the target has the video with complete files; see :meth:`Layout.has`."""
        return self.target.has(self.video, count)

    def made_from(self) -> dict[str, str]:
        """Returns the path and digests of the video; see :mod:`sam2fast.io.made_from`."""
        digests = self.source.digests(self.video, with_frames=self.images != NONE)
        return {"video_path": os.path.realpath(self.source.masks_at(self.video)), **digests}


class Converted(NamedTuple):
    """Result for one video."""

    frames: int  # number of annotated frames
    objects: int
    has_images: bool  # True if the source has its frames
    lost: Mapping[str, Sequence[int]]  # objects that lost pixels to other objects in label images, by frame
    numbers: Mapping[Any, int]  # number of each id in the written files; empty if ids are kept


def convert_video(_: Any, job: ConvertJob) -> Converted:
    """Converts a video atomically. Raises DatasetError, VideoError or ImportError if a file or layout is unusable."""
    source, target = job.source, job.target
    video = source.open(job.video)
    with StagingFolder(target.root, video.name) as stage:
        files = source.frame_files(video.name)
        images = [] if job.images == NONE else _copy_images(files, target, video, stage, job)
        written = target.write(video, stage)
        stage.move([*images, *written.paths])
    if job.check and not written.lost:
        difference = first_difference(video, target.open(video.name))
        if difference is not None:
            raise DatasetError(f"the written masks differ from those that were read: {difference}")
    names, numbers = video.facts.get("ids", {}), {}  # track's names of objects, see json_lines
    if names or written.numbers:
        numbers = {names.get(str(i), i): written.numbers.get(i, i) + target.first_id - 1 for i in video.objects}
    return Converted(len(video.frames), len(video.objects), bool(files), written.lost, numbers)


def _copy_images(
    files: FrameFiles, target: Layout, video: VideoAnnotations, stage: StagingFolder, job: ConvertJob
) -> list[str]:
    """Copies the frames to the staging folder. Returns the paths of the frames in the data set."""
    if not files:
        return []
    if files.video is not None and target.keeps_videos and job.images == ALL:
        path = f"{video.name}{files.video.suffix}"
        shutil.copyfile(files.video, stage.file(path))
        return [path]
    path = f"{target.frames_folder}/{video.name}"
    copy_frames(files, stage.folder(path), video.frames if job.images == ANNOTATED else None)
    return [path]


def no_model(device: str) -> None:
    """Does nothing; serves as the ``build`` function of a runner for jobs without a model."""


@dataclass(frozen=True)
class ExtractJob:
    """Extraction of every ``rate``-th frame of a video as ``<out>/<video>/<number>.jpg``, with quality 1 to 100."""

    video: Path
    out: Path
    rate: int = 4
    quality: int = QUALITY

    @property
    def name(self) -> str:
        """Returns the name of the video, which is also the name of its folder of frames."""
        return self.video.stem

    @property
    def files(self) -> list[Path]:
        """Returns the existing frames."""
        return files_below(self.out / self.name)

    def is_done(self, count: int | None) -> bool:
        """Returns True if the folder of frames exists with complete files, whose number is ``count`` if known."""
        return are_whole(self.files, count)

    def made_from(self) -> dict[str, str]:
        """Returns the path and digest of the video; see :mod:`sam2fast.io.made_from`."""
        return {"video_path": os.path.realpath(self.video), "video_content": digest_of(self.video)}


def list_videos(folder: Path) -> tuple[list[Path], list[Path]]:
    """Returns sorted visible and hidden videos of a folder and its subfolders. Raises DatasetError without any."""
    if not folder.is_dir():
        raise DatasetError(f"no folder {str(folder)!r} of videos")
    paths = sorted([*folder.glob("*"), *folder.glob("*/*")], key=lambda path: (path.name, str(path)))
    videos, hidden = files_of_kind(paths)
    if not videos:
        raise DatasetError(f"no videos ({', '.join(VIDEO_SUFFIXES)}) in {folder} or in the folders in it")
    return videos, hidden


def extract_frames(_: Any, job: ExtractJob) -> int:
    """Writes a video's frames to a folder atomically. Returns the number of files. Raises VideoError or ImportError."""
    with StagingFolder(job.out, job.name) as stage:
        count = write_frames(job.video, stage.folder(job.name), lambda index: index % job.rate == 0, job.quality)
        stage.move([job.name])
    return count
