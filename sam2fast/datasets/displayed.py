"""Converts boxes and masks to images as displayed, if files have the sizes and pixels that photographs store.

Cameras store unrotated pixels. The EXIF orientation states the rotation for display. Annotations here are in displayed
pixels. If width and height are exchanged, annotations in stored pixels are recognized by their size.

Common arguments are ``stated``, the (H, W) of the image in its annotations, ``size``, the (H, W) of the displayed
image, and ``image``, its file. Functions raise :class:`DatasetError` if the stated size is neither the displayed nor
the stored size, or if the image cannot be read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.dataset_files import DatasetError, read_orientation
from sam2fast.datasets.segmentations import decode_segmentation
from sam2fast.io.rle import encode_rle

Size: TypeAlias = tuple[int, int]  # height, width
BoxCorners: TypeAlias = tuple[float, float, float, float]  # x0, y0, x1, y1

# EXIF orientations that exchange width and height. Values: reverse rows, reverse columns, after transposing.
TURNS = {5: (False, False), 6: (False, True), 7: (True, True), 8: (True, False)}


def displayed_box(box: BoxCorners, stated: Size, size: Size, image: Path) -> BoxCorners:
    """Converts a box to pixels of the displayed image. The stated size may be a scaled size of the same ratio."""
    turn = turn_for_display(stated, size, image, may_scale=True)
    (x0, y0, x1, y1), (height, width) = box, stated
    if turn is not None:
        x0, y0, x1, y1, height, width = y0, x0, y1, x1, width, height
        if turn[0]:
            y0, y1 = height - y1, height - y0
        if turn[1]:
            x0, x1 = width - x1, width - x0
    down, across = size[0] / height, size[1] / width
    return x0 * across, y0 * down, x1 * across, y1 * down


def displayed_segmentation(segmentation: Any, stated: Any, size: Size, image: Path) -> Any:
    """Converts a segmentation to the displayed image. Run lengths of any other size are returned unchanged.

    Args:
        segmentation: polygons, which need pycocotools, or run lengths, in displayed or stored pixels.
        stated: (H, W) in the annotations, or (None, None).
    """
    turn = turn_for_display(stated, size, image)
    if isinstance(segmentation, Mapping):  # run lengths include their size
        is_stored = list(size) != segmentation.get("size") == list(size[::-1])
        turn = TURNS.get(read_orientation(image)) if is_stored else None
    if turn is None:
        return segmentation
    return encode_rle(turned(decode_segmentation(segmentation, (size[1], size[0])), turn))


def displayed_mask(mask: NDArray[np.bool_], size: Size, image: Path, name: str) -> NDArray[np.bool_]:
    """Rotates a mask ``(H, W)`` to the displayed image. The mask may have a scaled size of the same ratio.

    Args:
        name: Name of the mask in messages.
    """
    return turned(mask, turn_for_display(mask.shape, size, image, may_scale=True, what=f"{name} is"))


def turned(mask: NDArray[np.bool_], turn: tuple[bool, bool] | None) -> NDArray[np.bool_]:
    """Applies a rotation of :data:`TURNS` to a mask ``(H, W)``. None is no rotation."""
    return mask if turn is None else np.flip(mask.T, tuple(axis for axis in (0, 1) if turn[axis]))


def turn_for_display(
    stated: Any, size: Size, image: Path, may_scale: bool = False, what: str = "its annotations are"
) -> tuple[bool, bool] | None:
    """Returns the rotation in :data:`TURNS` for the stated size (``may_scale``: ratio), or None for no rotation.

    ``what`` names the annotations and ends with a verb, for messages.
    """
    if stated in (size, (None, None)):
        return None
    turn, stored = TURNS.get(read_orientation(image)), (size[1], size[0])
    if turn is not None and stated == stored:
        return turn
    if may_scale and has_same_ratio(stated, size):
        return None
    if may_scale and turn is not None and has_same_ratio(stated, stored):
        return turn
    height, width = stated
    raise DatasetError(
        f"{image} is displayed with {size[1]}x{size[0]} pixels, but {what} for {width}x{height}; expected "
        f"{'the same ratio' if may_scale else 'this size'}"
    )


def has_same_ratio(one: Size, other: Size) -> bool:
    """Returns True if two sizes have the same ratio, up to rounding by a pixel."""
    return abs(one[0] * other[1] - one[1] * other[0]) < max(sum(one), sum(other))
