"""Masks of a frame as one palette picture, and back."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.annotations import Masks
from sam2fast.datasets.errors import DatasetError, OverlapError
from sam2fast.rle import RLE, decode_rle, encode_rle
from sam2fast.training.data.errors import BadSampleError
from sam2fast.training.data.files import read_labels
from sam2fast.training.data.synthetic.davis import MOST_OBJECTS

# Which object a pixel shows that several have.
REFUSE, SMALLER_ID, LARGER_AREA = OVERLAPS = ("refuse", "smaller-id", "larger-area")


def indices_of(objects: Sequence[int], name: str) -> dict[int, int]:
    """The palette index of each object: its id, or, where an id is above 255, its position from 1.

    Raises:
        DatasetError: more objects than a palette has room for.
    """
    if len(objects) > MOST_OBJECTS:
        raise DatasetError(
            f"{name} has {len(objects)} objects, a palette picture has room for {MOST_OBJECTS}; "
            "the layout sav-png has no such limit"
        )
    if all(1 <= number <= MOST_OBJECTS for number in objects):
        return {number: number for number in objects}
    return {number: index for index, number in enumerate(objects, 1)}


def paint(
    masks: Masks, size: tuple[int, int], indices: Mapping[int, int], overlaps: str, where: str
) -> tuple[NDArray[np.uint8], list[int]]:
    """A picture ``(H, W)`` of palette indices, and which objects lost pixels to others.

    Args:
        overlaps: ``smaller-id`` or ``larger-area`` gives a pixel of several objects to one of them, of equally large
            ones to the smaller id; ``refuse`` raises.
        where: names the frame.

    Raises:
        OverlapError: masks overlap, and that is refused; names the objects.
        DatasetError: a mask is damaged, or of another size.
    """
    pixels = {number: decode_mask(rle, size, f"{where}, object {number}") for number, rle in masks.items()}
    labels, taken, losers = np.zeros(size, dtype=np.uint8), np.zeros(size, dtype=bool), []
    for number in _by_rank(pixels, overlaps):
        mask = pixels[number]
        hidden = mask & taken
        if hidden.any():
            losers.append(number)
            mask &= ~taken
        labels[mask] = indices[number]
        taken |= mask
    if losers and overlaps == REFUSE:
        overlapping = _overlapping(masks, size, losers[0])
        raise OverlapError(
            f"{where}: objects {', '.join(map(str, overlapping))} overlap, and a palette picture has one object at "
            f"each pixel; choose --overlaps {SMALLER_ID} or {LARGER_AREA}, which loses pixels, or a layout that keeps "
            "them (sav, sav-png, coco-jsonl)"
        )
    return labels, sorted(losers)


def _by_rank(pixels: Mapping[int, NDArray[np.bool_]], overlaps: str) -> list[int]:
    if overlaps != LARGER_AREA:
        return sorted(pixels)
    return sorted(pixels, key=lambda number: (-int(pixels[number].sum()), number))


def _overlapping(masks: Masks, size: tuple[int, int], loser: int) -> list[int]:
    """An object and those that lie on it."""
    mask = decode_rle(masks[loser])
    return sorted([loser, *(n for n, rle in masks.items() if n != loser and (decode_rle(rle) & mask).any())])


def decode_mask(rle: RLE, size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """A mask ``(H, W)``.

    Raises:
        DatasetError: the run lengths are damaged, or of another size; the message begins with ``where``.
    """
    try:
        mask = decode_rle(rle)
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{where}: {error}") from error
    if mask.shape != size:
        raise DatasetError(f"{where}: the mask is {mask.shape[0]}x{mask.shape[1]}, the video {size[0]}x{size[1]}")
    return mask


def read_picture(path: Path, size: tuple[int, int] | None = None) -> NDArray[np.generic]:
    """The indices ``(H, W)`` of a mask picture.

    Raises:
        DatasetError: it is missing, cannot be read, has colours instead, or is not of ``size``.
    """
    try:
        labels = read_labels(path)
    except BadSampleError as error:
        raise DatasetError(str(error)) from error
    if size is not None and labels.shape != size:
        raise DatasetError(
            f"{path} is {labels.shape[0]}x{labels.shape[1]}, other masks of the video {size[0]}x{size[1]}"
        )
    return labels


def objects_in(labels: NDArray[np.generic]) -> list[int]:
    """The indices that a picture has, without 0."""
    values = np.flatnonzero(np.bincount(labels.ravel())) if labels.dtype == np.uint8 else np.unique(labels)
    return [int(value) for value in values if value != 0]


def masks_in(labels: NDArray[np.generic], indices: Mapping[int, int]) -> dict[int, RLE]:
    """Run lengths of these objects, without a pixel for those that the picture does not show."""
    return {number: encode_rle(labels == index) for number, index in indices.items()}
