"""Polygons, as COCO's files have them, to run lengths."""

from collections.abc import Sequence
from typing import Any

from sam2fast.io.rle import RLE

CORNERS = 3  # that a polygon has at least
# How many times the picture's sides a corner may lie outside: pycocotools walks along each edge, however long it is.
MOST_OUTSIDE = 1


def rasterise_polygons(polygons: Sequence[Any], size: tuple[int, int]) -> RLE:
    """Run lengths of the pixels that are inside any of the polygons, as ``pycocotools.mask.frPyObjects`` fills them.

    Args:
        polygons: lists of x, y, x, y, ... in pixels, as read from JSON.
        size: (height, width) of the picture.

    Raises:
        ValueError: there is no polygon, one has fewer than three corners or something else than numbers, or corners far
            outside the picture.
        ImportError: pycocotools is not installed.
    """
    if not isinstance(polygons, list | tuple):
        raise ValueError(f"expected a list of polygons, got {type(polygons).__name__}")
    if not polygons:
        raise ValueError("there is no polygon")
    height, width = size
    for polygon in polygons:
        _check(polygon, height, width)
    try:
        from pycocotools import mask as coco  # type: ignore[import-untyped]
    except ImportError as error:
        raise ImportError("polygons need pycocotools: pip install 'sam2fast[eval]'") from error

    merged = coco.merge(coco.frPyObjects(polygons, height, width))
    return {"size": [height, width], "counts": merged["counts"].decode("ascii")}


def _check(polygon: Any, height: int, width: int) -> None:
    is_flat = isinstance(polygon, list) and all(isinstance(value, int | float) for value in polygon)
    if not is_flat or len(polygon) < 2 * CORNERS or len(polygon) % 2:
        raise ValueError("a polygon must be a list of numbers x, y, x, y, ... of at least three corners")
    for values, side in ((polygon[::2], width), (polygon[1::2], height)):
        low, high = -MOST_OUTSIDE * side, (1 + MOST_OUTSIDE) * side
        if not all(low <= value <= high for value in values):  # NaN is not
            raise ValueError("a polygon has corners far outside the picture")
