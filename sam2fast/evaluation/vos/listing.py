"""Lists the videos of a folder, with numbers of frames and digests of their files."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sam2fast.datasets.dataset_files import DatasetError, list_entries
from sam2fast.downloads.digests import digest_of
from sam2fast.io.file_records import file_sha256
from sam2fast.io.images import is_video_file


class Inputs(NamedTuple):
    """Input files of a video's result: number of frames and digests."""

    frames: int  # number of frame files, or number of frames in the video file's header; 0 if unknown
    digests: dict[str, str]  # digests of the files, with the keys video_content and mask_content


def videos_in(folder: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Returns paths of frame folders, then of video files, by name, and a message for each ambiguous name."""
    videos: dict[str, Path] = {}
    ambiguous: dict[str, str] = {}
    for path in sorted(list_entries(folder), key=lambda path: (not path.is_dir(), path.name)):
        name = path.name if path.is_dir() else path.stem
        if path.is_dir() or is_video_file(path.name) and name not in videos:
            videos[name] = path
        elif is_video_file(path.name) and not videos[name].is_dir():
            ambiguous.setdefault(name, f"{videos[name]} and {path.name} have the same name")
    return {name: path for name, path in sorted(videos.items()) if name not in ambiguous}, ambiguous


def listed_names(file: Path) -> list[str]:
    """Reads distinct names from a file, one per line. Raises OSError, or DatasetError for invalid text or names."""
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file} is not UTF-8 text: {error}") from error
    names = list(dict.fromkeys(line for line in lines if line))
    for name in names:
        if Path(name).name != name or name.startswith("."):
            raise DatasetError(f"{file}: {name!r} is not a video name; expected one per line, without folders")
    return names


def inputs_of(video: Path, masks: Path) -> Inputs:
    """Returns the inputs of a video without decoding it. Raises OSError, VideoError, or ImportError without PyAV."""
    from sam2fast.video_io.sources import frame_files

    files = frame_files(video) if video.is_dir() else [video]
    of_masks = json.dumps([[name, file_sha256(file)] for name, file in _masks(masks)])
    digests = {
        "video_content": digest_of(video, files),
        "mask_content": hashlib.sha256(of_masks.encode()).hexdigest(),
    }
    return Inputs(len(files) if video.is_dir() else _count_video_frames(video), digests)


def _masks(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields the names relative to ``folder`` and the paths of all PNGs in a folder and its subfolders."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from ((f"{entry.name}/{name}", file) for name, file in _masks(Path(entry.path)))
            elif entry.name.lower().endswith(".png"):
                yield entry.name, Path(entry.path)


def _count_video_frames(video: Path) -> int:
    from sam2fast.video_io import VideoError, read_frames
    from sam2fast.video_io.video_types import PROBE_SIZE

    try:
        with read_frames(str(video), PROBE_SIZE) as reader:
            return reader.count or 0
    except VideoError:
        return 0  # tracking reports the error
