"""Frames of films as JPEG files, as a job for a :class:`~sam2fast.parallel.runners.Runner`.

Follows the official ``training/scripts/sav_frame_extraction_submitit.py``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.files import VIDEO_SUFFIXES
from sam2fast.datasets.frame_files import QUALITY, write_frames
from sam2fast.datasets.staging import Stage


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
