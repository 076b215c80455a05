"""Videos from one layout to another, and frames of video files as JPEG, as jobs for a runner.

See :class:`~sam2fast.deploy.parallel.runners.Runner`. Frames are extracted as by the official
``training/scripts/sav_frame_extraction_submitit.py``.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sam2fast.datasets.annotations import VideoAnnotations, first_difference
from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.files import VIDEO_SUFFIXES
from sam2fast.datasets.frame_files import QUALITY, FrameFiles, bring_frames, write_frames
from sam2fast.datasets.layout import Layout, Settings, Stage
from sam2fast.datasets.layouts import open_layout

ALL, ANNOTATED, NONE = PICTURES = ("all", "annotated", "none")


@dataclass(frozen=True)
class Place:
    """A data set, as another process can open it."""

    root: Path
    layout: str
    settings: Settings

    def open(self) -> Layout:
        """See :func:`~sam2fast.datasets.layouts.open_layout`."""
        return open_layout(self.root, self.layout, self.settings)


@dataclass(frozen=True)
class ConvertJob:
    """One video to convert.

    Attributes:
        pictures: which come along: ``all``, ``annotated`` (those of annotated frames) or ``none``.
        check: read all masks back and compare.
    """

    source: Place
    target: Place
    video: str
    pictures: str = ALL
    check: bool = False


class Converted(NamedTuple):
    """What became of a video."""

    frames: int  # that are annotated
    objects: int
    has_pictures: bool  # in the source
    lost: Mapping[str, Sequence[int]]  # objects that lost pixels to others in palette pictures, by frame


def convert_video(_: Any, job: ConvertJob) -> Converted:
    """Converts a video. In the target it appears whole or not at all.

    Args:
        _: what a runner has built; not used.

    Raises:
        DatasetError: files are missing or damaged, or the target's layout cannot hold the masks.
        OSError, VideoError, ImportError: see :func:`~sam2fast.datasets.frame_files.bring_frames`.
    """
    source, target = job.source.open(), job.target.open()
    video = source.open(job.video)
    with Stage(target.root, video.name) as stage:
        files = source.frame_files(video.name)
        pictures = [] if job.pictures == NONE else _pictures(files, target, video, stage, job)
        written = target.write(video, stage)
        stage.move([*pictures, *written.places])
    if job.check and not written.lost:
        difference = first_difference(video, target.open(video.name))
        if difference is not None:
            raise DatasetError(f"what was written is not what was read: {difference}")
    return Converted(len(video.frames), len(video.objects), bool(files), written.lost)


def _pictures(files: FrameFiles, target: Layout, video: VideoAnnotations, stage: Stage, job: ConvertJob) -> list[str]:
    """Brings the pictures; where they belong."""
    if not files:
        return []
    if files.film is not None and target.keeps_films and job.pictures == ALL:
        place = f"{video.name}{files.film.suffix}"
        shutil.copyfile(files.film, stage.file(place))
        return [place]
    place = f"{target.frames_folder}/{video.name}"
    bring_frames(files, stage.folder(place), video.frames if job.pictures == ANNOTATED else None)
    return [place]


def no_model(device: str) -> None:
    """What a runner builds for jobs that need no model."""


@dataclass(frozen=True)
class ExtractJob:
    """One film.

    Attributes:
        out: frames go to ``<out>/<name of the film>/<number in the film>.jpg``.
        rate: every ``rate``-th frame is taken, from the first on.
        quality: of JPEG.
    """

    film: Path
    out: Path
    rate: int = 4
    quality: int = QUALITY

    @property
    def name(self) -> str:
        """Of the film, and of its folder."""
        return self.film.stem

    def is_done(self) -> bool:
        """Whether the folder is there; it appears when it is complete."""
        return (self.out / self.name).is_dir()


def list_films(folder: Path) -> list[Path]:
    """The films right in a folder, and in the folders in it, sorted by name.

    Raises:
        DatasetError: no such folder, or no films in it.
    """
    if not folder.is_dir():
        raise DatasetError(f"no folder {str(folder)!r} of films")
    files = [
        path for pattern in ("*", "*/*") for suffix in VIDEO_SUFFIXES for path in folder.glob(f"{pattern}{suffix}")
    ]
    films = [path for path in files if path.is_file() and not path.name.startswith(".")]
    if not films:
        raise DatasetError(f"no films ({', '.join(VIDEO_SUFFIXES)}) in {folder} or in the folders in it")
    return sorted(films, key=lambda path: (path.name, str(path)))


def extract_frames(_: Any, job: ExtractJob) -> int:
    """Writes the frames of a film. Their folder appears complete or not at all.

    Args:
        _: what a runner has built; not used.

    Returns:
        How many frames were written.

    Raises:
        OSError: a file cannot be read or written.
        VideoError, ImportError: the film is damaged or cut short, or PyAV is not installed.
    """
    with Stage(job.out, job.name) as stage:
        count = write_frames(job.film, stage.folder(job.name), lambda index: index % job.rate == 0, job.quality)
        stage.move([job.name])
    return count
