"""Files of data sets: lists folders, orders frames, and reads images, masks and JSON.

Every function raises :class:`DatasetError` if a file or folder is unreadable or not as described. Imports neither torch
nor other modules that are slow to load, because :mod:`sam2fast.evaluation.folders` starts many processes.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from sam2fast.io.image_files import as_rgb, read_header, read_if_pillow_fails, read_image, read_image_size
from sam2fast.io.image_names import name_key
from sam2fast.io.images import IMAGE_READ_ERRORS, number_in_name, open_image
from sam2fast.io.tiff_header import ORIENTATION
from sam2fast.utils.errors import FixableError


class DatasetError(FixableError, ValueError):
    """Raised if a file, folder or sample of a data set cannot be used. Training replaces samples with this error."""


class OverlapError(DatasetError):
    """Raised if masks overlap, but the layout stores one object per pixel."""


FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")
MASK_SUFFIXES = (".png",)
VIDEO_SUFFIXES = (".mp4",)
# Pillow modes of images whose pixel values are ids.
LABEL_MODES = ("1", "L", "P", "I", "I;16", "I;16B")
WHITE = 255
LEAST_GREYS = 3  # number of different values of a soft edge, as in a mask scaled by a half
# Maximum value of labels up to which comparing labels with each value is faster than counting values.
FEW = 16

# Number in a frame's name, or the name if the name is not a number: "00012" and "00000012" are the same frame.
FrameKey: TypeAlias = int | str
Labels: TypeAlias = NDArray[np.integer[Any]]  # (H, W)


def frame_key(name: str) -> FrameKey:
    """Returns the key of a frame: the number in the frame's name, or the name if the name is not a number.

    See also :func:`~sam2fast.io.image_names.name_key`.
    """
    return int(name) if name.isdecimal() else name_key(name)


def frame_order(key: FrameKey) -> tuple[bool, int | Decimal, str]:
    """Returns the sort key of a frame: numbers in order, also those with a fraction, then names in order."""
    number = number_in_name(key) if isinstance(key, str) else key
    return (True, 0, str(key)) if number is None else (False, number, "")


def list_entries(folder: Path) -> Iterator[Path]:
    """Yields the entries of a folder, unsorted, without hidden entries."""
    return (path for path in folder.iterdir() if not path.name.startswith("."))


def list_folders(folder: Path, expected: str = "") -> list[Path]:
    """Returns the subfolders of a folder, sorted by name. Errors mention the ``expected`` content."""
    try:
        return sorted(path for path in list_entries(folder) if path.is_dir())
    except OSError as error:
        expectation = f"; expected {expected}" if expected else ""
        raise DatasetError(f"{folder}: {error.strerror or error}{expectation}") from error


def object_folders(folder: Path, expected: str = "<object>/<frame>.png") -> dict[int, Path]:
    """Returns object folders by object number, the folder's name. Raises an error if a number occurs twice."""
    folders: dict[int, Path] = {}
    for path in list_folders(folder, expected):
        number = object_number(path)
        if number in folders:
            raise DatasetError(f"{path}: another folder is the same object, {folders[number].name}")
        folders[number] = path
    return dict(sorted(folders.items()))


def object_number(folder: Path) -> int:
    """Returns the object number in the name of an object's folder."""
    if not (folder.name.isascii() and folder.name.isdecimal()):
        raise DatasetError(f"{folder}: the folder of an object must be named by a number, such as 003")
    return int(folder.name)


def has_files(folder: Path, suffixes: Sequence[str]) -> bool:
    """Returns True if a folder has a file with one of these suffixes. Stops at the first such file."""
    return any(path.suffix.lower() in suffixes for path in list_entries(folder))


def list_files(folder: Path, suffixes: Sequence[str] = MASK_SUFFIXES) -> dict[FrameKey, Path]:
    """Returns the files of a folder by frame, in :func:`frame_order`, one per frame."""
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
    return {key: files[key] for key in sorted(files, key=frame_order)}


def read_frame(path: Path, upright: bool = False) -> NDArray[np.uint8]:
    """Reads an image as ``(H, W, 3)`` RGB. Values of more than 8 bits are scaled like in predictors.

    Args:
        upright: If True, applies the EXIF orientation, like predictors and evaluation. Otherwise, pixels are as stored,
            like in official data sets.
    """
    with _as_dataset_error(path, "an image"):
        return as_rgb(image := read_image(path, upright=upright), image.own_scale())


def read_frame_size(path: Path) -> tuple[int, int]:
    """Returns the stored (height, width) of an image, from the file's header."""
    with _as_dataset_error(path, "an image"):
        width, height = read_image_size(path)
        return height, width


def read_orientation(path: Path) -> int:
    """Returns the EXIF orientation of an image, from the file's header: 1 if it is displayed as stored."""
    with _as_dataset_error(path, "an image"):
        if header := read_header(path):
            return header.images[0].first(ORIENTATION, 1)
    with _opened(path) as image:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))


@contextmanager
def _opened(path: Path, expected: str = "an image") -> Iterator[Image.Image]:
    """Opens an image file. Converts read errors inside the context to ``DatasetError``."""
    with _as_dataset_error(path, expected), open_image(path) as image:
        yield image


@contextmanager
def _as_dataset_error(path: Path, expected: str) -> Iterator[None]:
    try:
        yield
    except DatasetError:
        raise
    except IMAGE_READ_ERRORS as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise DatasetError(f"{path} cannot be read as {expected}: {why}") from error


def read_json(path: Path) -> Any:
    """Reads the content of a JSON file."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is not JSON: {error}") from error


def read_labels(path: Path, size: tuple[int, ...] | None = None, other: str = "its frame") -> Labels:
    """Reads palette indices or grey levels ``(H, W)`` of a mask image. ``other`` names the source of ``size``."""
    return _read_mask(path, size, other)[0]


def read_object_ids(
    path: Path, size: tuple[int, int] | None = None, other: str = "its frame", ignored: Collection[int] = ()
) -> Labels:
    """Reads an image of object ids like :func:`read_labels`. White masks on black with soft edges are an error, because
    each grey value would be an object.

    Args:
        ignored: values that are not objects.
    """
    labels, mode = _read_mask(path, size, other)
    if mode == "L" and WHITE not in ignored and labels.max(initial=0) == WHITE:
        *greys, white = np.bincount(labels.ravel())[1:]
        values = np.count_nonzero(greys)
        if values >= LEAST_GREYS and white > sum(greys):
            raise DatasetError(
                f"{path} is white with {values} grey values, as in soft edges, and each value would be an object; make "
                "pixels black or white, or store object ids as indices of a palette image"
            )
    return labels


def _read_mask(path: Path, size: tuple[int, ...] | None, other: str) -> tuple[Labels, str]:
    """Returns the labels, and Pillow's mode of the image."""
    with _as_dataset_error(path, "a mask"):
        stored = read_if_pillow_fails(path)
    if stored is not None:
        if stored.values.dtype.kind not in "iu" or stored.values.ndim > 2 or stored.bands[1] > 1:
            raise DatasetError(f"{path}: a mask must have one band of integers")
        return _checked(stored.values, path, size, other), "I"
    with _opened(path, "a mask") as image:
        if image.mode not in LABEL_MODES:
            raise DatasetError(f"{path}: a mask must be a palette or a grey PNG, got mode {image.mode}")
        if image.mode == "1":  # Pillow's array of bools has bytes other than 0 and 1
            labels: Labels = (np.asarray(image.convert("L")) > 0).view(np.uint8)
        else:
            labels = np.asarray(image)
            labels = labels.astype(labels.dtype.newbyteorder("="), copy=False)
    return _checked(labels, path, size, other), image.mode


def _checked(labels: Labels, path: Path, size: tuple[int, ...] | None, other: str) -> Labels:
    if labels.dtype.kind == "i" and (least := labels.min()) < 0:
        raise DatasetError(f"{path}: values of a mask must be 0 or greater, got {least}")
    if size is not None and labels.shape != size:
        height, width = labels.shape
        raise DatasetError(f"{path} has {width}x{height} pixels, {other} {size[1]}x{size[0]}: they must be equal")
    return labels


def labels_in(labels: Labels) -> tuple[int, ...]:
    """Returns the nonzero values of a mask, ascending."""
    if labels.dtype.kind == "u" and (highest := int(labels.max(initial=0))) <= FEW:
        return tuple(i for i in range(1, highest + 1) if i == highest or (labels == i).any())
    # For uint8, counting is twice as fast as sorting.
    values = np.flatnonzero(np.bincount(labels.ravel())) if labels.dtype == np.uint8 else np.unique(labels)
    return tuple(int(i) for i in values if i)
