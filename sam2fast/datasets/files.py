"""The files of data sets: which there are, in which order, and what is in them.

Neither torch nor anything else that is slow to load is needed, as :mod:`sam2fast.evaluation.folders` starts many
processes.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sam2fast.datasets.errors import DatasetError
from sam2fast.io.images import UNREADABLE, open_picture

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")
MASK_SUFFIXES = (".png",)
VIDEO_SUFFIXES = (".mp4",)
# Modes of images whose values are ids; colours are none.
LABEL_MODES = ("1", "L", "P", "I", "I;16")
# Values up to this are searched for one by one, which is faster than counting all values.
FEW = 16

# A file's name as a number where it is one: "00012" and "00000012" are the same frame.
FrameKey: TypeAlias = int | str
Labels: TypeAlias = NDArray[np.integer[Any]]  # (H, W)


def frame_key(name: str) -> FrameKey:
    """What identifies a frame: its number, where its name is one."""
    return int(name) if name.isdecimal() else name


def in_order(key: FrameKey) -> tuple[bool, int, str]:
    """By which frames are sorted: numbers in order, then names in order."""
    return (True, 0, key) if isinstance(key, str) else (False, key, "")


def list_entries(folder: Path) -> Iterator[Path]:
    """What is in a folder, unsorted, without hidden files."""
    return (path for path in folder.iterdir() if not path.name.startswith("."))


def list_folders(folder: Path, expected: str = "") -> list[Path]:
    """The folders in a folder, by name.

    Raises:
        DatasetError: it cannot be read; says what is expected in it.
    """
    try:
        return sorted(path for path in list_entries(folder) if path.is_dir())
    except OSError as error:
        expectation = f"; expected {expected}" if expected else ""
        raise DatasetError(f"{folder}: {error.strerror or error}{expectation}") from error


def object_folders(folder: Path, expected: str = "<object>/<frame>.png") -> dict[int, Path]:
    """The folders of objects in a folder, by their number, which is their name.

    Raises:
        DatasetError: it cannot be read, a name is no number, or two folders are the same object.
    """
    folders: dict[int, Path] = {}
    for path in list_folders(folder, expected):
        number = object_number(path)
        if number in folders:
            raise DatasetError(f"{path}: another folder is the same object, {folders[number].name}")
        folders[number] = path
    return dict(sorted(folders.items()))


def object_number(folder: Path) -> int:
    """The number of the object that a folder is for.

    Raises:
        DatasetError: its name is no number.
    """
    if not folder.name.isdecimal():
        raise DatasetError(f"{folder}: the folder of an object must be named by a number, such as 003")
    return int(folder.name)


def has_files(folder: Path, suffixes: Sequence[str]) -> bool:
    """Whether there is such a file, without listing them all."""
    return any(path.suffix.lower() in suffixes for path in list_entries(folder))


def list_files(folder: Path, suffixes: Sequence[str] = MASK_SUFFIXES) -> dict[FrameKey, Path]:
    """Files of a folder by their frame: numbers in order, then names in order.

    Raises:
        DatasetError: two files for one frame, or no such folder.
    """
    files: dict[FrameKey, Path] = {}
    try:
        paths = sorted(path for path in list_entries(folder) if path.suffix.lower() in suffixes)
    except OSError as error:
        raise DatasetError(f"{folder}: {error.strerror or error}") from error
    for path in paths:
        key = frame_key(path.stem)
        if key in files:
            raise DatasetError(f"{folder}: {files[key].name} and {path.name} are the same frame")
        files[key] = path
    return {key: files[key] for key in sorted(files, key=in_order)}


def read_frame(path: Path, upright: bool = False) -> NDArray[np.uint8]:
    """An image as ``(H, W, 3)`` RGB.

    Args:
        upright: rotates it by its EXIF orientation, as predictors and evaluation do; otherwise the pixels are as the
            file has them, as in the original's data sets.

    Raises:
        DatasetError: it cannot be read.
    """
    with _opened(path) as image:
        return np.array((ImageOps.exif_transpose(image) if upright else image).convert("RGB"))


def read_frame_size(path: Path) -> tuple[int, int]:
    """The (height, width) of an image's pixels as the file has them, from its header alone.

    Raises:
        DatasetError: it cannot be read.
    """
    with _opened(path) as image:
        return image.height, image.width


@contextmanager
def _opened(path: Path, expected: str = "an image") -> Iterator[Image.Image]:
    """An image in a file, closed afterwards; what cannot be read of it within the block is a ``DatasetError``."""
    try:
        with open_picture(path) as image:
            yield image
    except DatasetError:
        raise
    except UNREADABLE as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DatasetError(f"{path} cannot be read as {expected}: {why}") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DatasetError: it cannot be read, or is no JSON; names the file.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is no JSON: {error}") from error


def read_labels(path: Path, size: tuple[int, int] | None = None, other: str = "its frame") -> Labels:
    """A mask image's palette indices or grey levels as integers ``(H, W)``; 0 and 1 of one with a bit per pixel.

    Args:
        size: (height, width) that it must have.
        other: what has that size, for the message.

    Raises:
        DatasetError: it cannot be read, has colours instead, or is of another size.
    """
    with _opened(path, "a mask") as image:
        if image.mode not in LABEL_MODES:
            raise DatasetError(f"{path}: a mask must be a palette or a grey PNG, got mode {image.mode}")
        if image.mode == "1":  # as bools, Pillow's array holds other bytes than 0 and 1
            labels: Labels = (np.asarray(image.convert("L")) > 0).view(np.uint8)
        else:
            labels = np.asarray(image)
    if size is not None and labels.shape != size:
        height, width = labels.shape
        raise DatasetError(f"{path} has {width}x{height} pixels, {other} {size[1]}x{size[0]}: they must be equal")
    return labels


def labels_in(labels: Labels) -> tuple[int, ...]:
    """The values but 0 that a mask has, rising."""
    if labels.dtype.kind == "u" and (highest := int(labels.max(initial=0))) <= FEW:
        return tuple(i for i in range(1, highest + 1) if i == highest or (labels == i).any())
    # Counting is twice as fast as sorting, where there are few values.
    values = np.flatnonzero(np.bincount(labels.ravel())) if labels.dtype == np.uint8 else np.unique(labels)
    return tuple(int(i) for i in values if i)
