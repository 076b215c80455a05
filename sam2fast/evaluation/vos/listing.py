"""Which videos there are, how long they are, and whether they have changed."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.files import list_entries
from sam2fast.io.atomic import read_limited

FILM_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm")
PROBE_SIZE = 32  # of frames that are opened only to know how many there are


class Inputs(NamedTuple):
    """What a video's result depends on besides settings and model."""

    frames: int  # as far as the container says; 0 if it does not
    digest: str  # SHA-256 of names and sizes of all files of the video and its masks


def video_names(videos: Path) -> list[str]:
    """The folders and video files in a folder, by name; a file's is without suffix.

    Raises:
        OSError: the folder cannot be read.
    """
    found = (path for path in list_entries(videos) if path.is_dir() or path.suffix.lower() in FILM_SUFFIXES)
    return sorted({path.name if path.is_dir() else path.stem for path in found})


def listed_names(file: Path) -> list[str]:
    """The names in a file, one on each line, each once.

    Raises:
        OSError, UnicodeDecodeError: it cannot be read.
        DatasetError: a line is no name.
    """
    lines = (line.strip() for line in read_limited(file).decode().splitlines())
    names = list(dict.fromkeys(line for line in lines if line))
    for name in names:
        if Path(name).name != name or name.startswith("."):
            raise DatasetError(f"{file}: {name!r} is no name of a video; expected one on each line, without folders")
    return names


def find_video(videos: Path, name: str) -> Path:
    """The folder of a video's frames or, if there is none, its file.

    Raises:
        FileNotFoundError: there is neither.
    """
    if (videos / name).is_dir():
        return videos / name
    for suffix in FILM_SUFFIXES:
        if (videos / f"{name}{suffix}").is_file():
            return videos / f"{name}{suffix}"
    raise FileNotFoundError(f"there is no folder {videos / name}, and no {name}.mp4 or other video file")


def inputs_of(video: Path, masks: Path) -> Inputs:
    """Looks at a video and its masks without decoding them.

    Raises:
        OSError, VideoError: they cannot be read.
        ImportError: a video file, and PyAV is not installed.
    """
    from sam2fast.video_io.folders import frame_files

    digest = hashlib.sha256()
    for line in (*_files(video), "masks", *_files(masks)):
        digest.update(f"{line}\n".encode(errors="surrogateescape"))
    frames = len(frame_files(video)) if video.is_dir() else _frames_of_film(video)
    return Inputs(frames, digest.hexdigest())


def _files(path: Path) -> Iterator[str]:
    """Name and size of a file, or of all files in a folder and its folders."""
    if not path.is_dir():
        yield f"{path.name} {path.stat().st_size}"
        return
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from (f"{entry.name}/{line}" for line in _files(Path(entry.path)))
            else:
                yield f"{entry.name} {entry.stat().st_size}"


def _frames_of_film(video: Path) -> int:
    from sam2fast.video_io import VideoError, read_frames

    try:
        with read_frames(str(video), PROBE_SIZE) as reader:
            return reader.count or 0
    except VideoError:
        return 0  # which tracking will tell
