"""Lists the videos of a folder, with their numbers of frames and digests of their files."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sam2fast.datasets.dataset_files import DatasetError, list_entries

VIDEO_FILE_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".avi", ".webm")
PROBE_SIZE = 32  # side of frames that are opened only to be counted


class Inputs(NamedTuple):
    """The inputs that the result of a video depends on, besides settings and model."""

    frames: int  # number of files, or as the container's header states; 0 if unknown
    digest: str  # SHA-256 of names and sizes of the frames, and of the masks with their names


def video_names(videos: Path) -> list[str]:
    """The sorted names of the folders and video files in a folder, without suffix."""
    found = (path for path in list_entries(videos) if path.is_dir() or path.suffix.lower() in VIDEO_FILE_SUFFIXES)
    return sorted({path.name if path.is_dir() else path.stem for path in found})


def listed_names(file: Path) -> list[str]:
    """The names in a file, one per line, without duplicates.

    Raises:
        OSError, UnicodeDecodeError: the file cannot be read.
        DatasetError: a line is no name of a video.
    """
    lines = (line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines())
    names = list(dict.fromkeys(line for line in lines if line))
    for name in names:
        if Path(name).name != name or name.startswith("."):
            raise DatasetError(f"{file}: {name!r} is no name of a video; expected one per line, without folders")
    return names


def find_video(videos: Path, name: str) -> Path:
    """The folder of a video's frames, or its video file if there is no folder.

    Raises:
        FileNotFoundError: there is neither.
    """
    if (videos / name).is_dir():
        return videos / name
    for suffix in VIDEO_FILE_SUFFIXES:
        if (videos / f"{name}{suffix}").is_file():
            return videos / f"{name}{suffix}"
    raise FileNotFoundError(f"there is no folder {videos / name}, and no {name}.mp4 or other video file")


def inputs_of(video: Path, masks: Path) -> Inputs:
    """The inputs of a video; nothing is decoded.

    Raises:
        OSError, VideoError: the video or its masks cannot be read.
        ImportError: a video file without PyAV.
    """
    from sam2fast.video_io.sources import frame_files

    # Of frames names and sizes, for a data set has many; masks are few, and small files of the same size are common.
    digest = hashlib.sha256()
    for name, file in _files(video):
        digest.update(f"{name} {file.stat().st_size}\n".encode(errors="surrogateescape"))
    for name, file in _files(masks):
        content = file.read_bytes()
        digest.update(f"masks {name} {len(content)}\n".encode(errors="surrogateescape") + content)
    frames = len(frame_files(video)) if video.is_dir() else _count_video_frames(video)
    return Inputs(frames, digest.hexdigest())


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    """Yields a file with its name, or all files in a folder and its subfolders with their names there."""
    if not path.is_dir():
        yield path.name, path
        return
    with os.scandir(path) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from ((f"{entry.name}/{name}", file) for name, file in _files(Path(entry.path)))
            else:
                yield entry.name, Path(entry.path)


def _count_video_frames(video: Path) -> int:
    from sam2fast.video_io import VideoError, read_frames

    try:
        with read_frames(str(video), PROBE_SIZE) as reader:
            return reader.count or 0
    except VideoError:
        return 0  # tracking will report the error
