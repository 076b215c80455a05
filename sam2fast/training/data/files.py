"""Frames and masks of a video as files: which there are, in which order, and what is in them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import ImageOps

from sam2fast.picture_files import UNREADABLE, open_picture
from sam2fast.training.data.errors import BadSampleError

FRAME_SUFFIXES = (".jpg", ".jpeg", ".png")
MASK_SUFFIXES = (".png",)
DATASET_FILM_SUFFIXES = (".mp4",)

# A file's name as a number where it is one: "00012" and "00000012" are the same frame.
FrameKey: TypeAlias = int | str


def list_entries(folder: Path) -> Iterator[Path]:
    """What is in a folder, unsorted, without hidden files."""
    return (path for path in folder.iterdir() if not path.name.startswith("."))


def list_folders(folder: Path) -> list[Path]:
    """The folders in a folder, by name."""
    return sorted(path for path in list_entries(folder) if path.is_dir())


def has_files(folder: Path, suffixes: Sequence[str]) -> bool:
    """Whether there is such a file, without listing them all."""
    return any(path.suffix.lower() in suffixes for path in list_entries(folder))


def list_files(folder: Path, suffixes: Sequence[str]) -> dict[FrameKey, Path]:
    """Files of a folder by their frame: numbers in order, then names in order.

    Raises:
        BadSampleError: two files for one frame, or no such folder.
    """
    files: dict[FrameKey, Path] = {}
    try:
        paths = sorted(path for path in list_entries(folder) if path.suffix.lower() in suffixes)
    except OSError as error:
        raise BadSampleError(f"{folder}: {error.strerror or error}") from error
    for path in paths:
        key: FrameKey = int(path.stem) if path.stem.isdecimal() else path.stem
        if key in files:
            raise BadSampleError(f"{folder}: {files[key].name} and {path.name} are the same frame")
        files[key] = path
    return {key: files[key] for key in sorted(files, key=in_order)}


def in_order(key: FrameKey) -> tuple[bool, int, str]:
    """By which frames are sorted: numbers in order, then names in order."""
    return (True, 0, key) if isinstance(key, str) else (False, key, "")


def read_frame(path: Path, upright: bool = False) -> NDArray[np.uint8]:
    """A picture as ``(H, W, 3)`` RGB.

    Args:
        upright: turns it by its EXIF orientation, as predictors and evaluation do; else its pixels are taken as they
            lie, as in the original's data sets.

    Raises:
        BadSampleError: it cannot be read.
    """
    try:
        with open_picture(path) as image:
            return np.array((ImageOps.exif_transpose(image) if upright else image).convert("RGB"))
    except UNREADABLE as error:
        raise BadSampleError(f"{path}: {error}") from error


def read_frame_size(path: Path) -> tuple[int, int]:
    """A picture's (height, width) as its pixels lie, from its header alone.

    Raises:
        BadSampleError: it cannot be read.
    """
    try:
        with open_picture(path) as image:
            return image.height, image.width
    except UNREADABLE as error:
        raise BadSampleError(f"{path}: {error}") from error


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        BadSampleError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise BadSampleError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise BadSampleError(f"{path} is no JSON: {error}") from error


def read_labels(path: Path) -> NDArray[np.generic]:
    """A mask picture's indices or grey levels, as integers ``(H, W)``.

    Raises:
        BadSampleError: it cannot be read, or has colours instead.
    """
    try:
        with open_picture(path) as image:
            if image.mode == "1":
                return np.array(image.convert("L"))
            if image.mode not in ("P", "L", "I", "I;16"):
                raise BadSampleError(f"{path}: a mask must be a palette or a grey PNG, got mode {image.mode}")
            return np.array(image)
    except BadSampleError:
        raise
    except UNREADABLE as error:
        raise BadSampleError(f"{path}: {error}") from error


def labels_in(labels: NDArray[np.generic]) -> tuple[int, ...]:
    """The values but 0 that a mask picture has, rising."""
    # Counting is twice as fast as sorting, where there are few values.
    values = np.flatnonzero(np.bincount(labels.ravel())) if labels.dtype == np.uint8 else np.unique(labels)
    return tuple(int(i) for i in values if i != 0)


def check_size(path: Path, labels: NDArray[np.generic], size: tuple[int, int]) -> None:
    """Raises ``BadSampleError`` unless a mask of ``path`` has its frame's size (height, width)."""
    if labels.shape != size:
        raise BadSampleError(
            f"{path} has {labels.shape[1]}x{labels.shape[0]} pixels, its frame {size[1]}x{size[0]}: they must be equal"
        )


class Annotations(Protocol):
    """The true masks of a video."""

    def visible_objects(self, frame: FrameKey) -> tuple[int, ...]:
        """Ids of the objects with a mask in a frame, rising."""
        ...

    def read_masks(self, frame: FrameKey, object_ids: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
        """Masks ``(O, H, W)`` of a frame of ``size`` (height, width); empty for an object that is not in it.

        Raises:
            BadSampleError: a mask cannot be read, or is of another size.
        """
        ...


class PaletteAnnotations:
    """One PNG per frame; its indices are the objects' ids, 0 the background.

    As the official ``PalettisedPNGSegmentLoader``: every frame must have one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._files = folder, list_files(folder, MASK_SUFFIXES)

    def visible_objects(self, frame: FrameKey) -> tuple[int, ...]:
        """See :class:`Annotations`."""
        return labels_in(self._read(frame))

    def read_masks(self, frame: FrameKey, object_ids: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
        """See :class:`Annotations`."""
        labels = self._read(frame)
        check_size(self._files[frame], labels, size)
        return labels == np.array(object_ids)[:, None, None]

    def _read(self, frame: FrameKey) -> NDArray[np.generic]:
        if frame not in self._files:
            raise BadSampleError(f"{self._folder} has no PNG for frame {frame}")
        return read_labels(self._files[frame])


class PerObjectAnnotations:
    """One folder per object, with a PNG for each frame it is in; what is not 0 is the object.

    As the official ``MultiplePNGSegmentLoader``: without a PNG, the object is not visible.

    Args:
        folders: by object id.
    """

    def __init__(self, folders: Mapping[int, Path]) -> None:
        self._files = {i: list_files(folder, MASK_SUFFIXES) for i, folder in sorted(folders.items())}

    def visible_objects(self, frame: FrameKey) -> tuple[int, ...]:
        """See :class:`Annotations`."""
        return tuple(i for i, files in self._files.items() if frame in files and read_labels(files[frame]).any())

    def read_masks(self, frame: FrameKey, object_ids: Sequence[int], size: tuple[int, int]) -> NDArray[np.bool_]:
        """See :class:`Annotations`."""
        masks = np.zeros((len(object_ids), *size), dtype=np.bool_)
        for mask, i in zip(masks, object_ids, strict=True):
            path = self._files.get(i, {}).get(frame)
            if path is not None:
                labels = read_labels(path)
                check_size(path, labels, size)
                mask[:] = labels != 0
        return masks
