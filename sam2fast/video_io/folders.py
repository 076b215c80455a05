"""Which files of a folder are frames, and in which order."""

import os
import re
from pathlib import Path

from sam2fast.video_io.errors import NoFramesError, VideoError

JPEG_SUFFIXES = (".jpg", ".jpeg", ".JPG", ".JPEG")  # the original's list
# The first of these that a folder has any of are its frames; so what the original sees is what it sees here.
CHOICES = (JPEG_SUFFIXES, (".jpg", ".jpeg"), (".png",), (".webp",))


def frame_files(folder: Path) -> list[Path]:
    """The frames of a folder in their order: JPEG files, or if it has none PNG files, or if it has none WebP files.

    Names that are all integers are ordered as such; others naturally, ``frame_2`` before ``frame_10``. Hidden files do
    not count.

    Raises:
        NoFramesError: there are none.
        VideoError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            # A link to nothing is kept: a frame that is missing should be missed.
            names = [entry.name for entry in entries if not entry.name.startswith(".") and not _is_folder(entry)]
    except OSError as error:
        raise VideoError(f"the folder {folder} cannot be read: {error.strerror}") from error
    paths = next(filter(None, (_with_suffix(folder, names, choice) for choice in CHOICES)), [])
    if not paths:
        raise NoFramesError(
            f"no images found in {folder}; expected JPEG, PNG or WebP files, such as 00000.jpg, 00001.jpg, ..."
        )
    by_number = all(_is_integer(path.stem) for path in paths)
    return sorted(paths, key=_number if by_number else _natural)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle is like one to nothing
        return False


def _with_suffix(folder: Path, names: list[str], suffixes: tuple[str, ...]) -> list[Path]:
    paths = [folder / name for name in names]
    if suffixes is JPEG_SUFFIXES:
        return [path for path in paths if path.suffix in suffixes]
    return [path for path in paths if path.suffix.lower() in suffixes]


def _is_integer(stem: str) -> bool:
    try:
        int(stem)
    except ValueError:
        return False
    return True


def _number(path: Path) -> tuple[int, str]:
    return int(path.stem), path.name


def _natural(path: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"([0-9]+)", path.stem)  # text and digits in turn, so that like is compared with like
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], path.name
