"""Polygons of masks, by OpenCV."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from sam2fast.io.overlay import area_of
from sam2fast.io.rle import decode_rle
from sam2fast.mask_formats.layers import row_major

CORNERS = 3  # minimum of a polygon


class Polygon(NamedTuple):
    """A connected part of a mask. Corners ``(K, 2)`` are x, y of pixels that are part of the mask."""

    outer: np.ndarray
    holes: list[np.ndarray]


def import_opencv() -> Any:
    """The module ``cv2``.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return import_module("cv2")
    except ImportError as error:
        raise ImportError("polygons need OpenCV: pip install 'sam2fast[polygons]'") from error


def polygons_of(rle: Mapping[str, Any], tolerance: float) -> list[Polygon]:
    """The outlines of a mask; parts of fewer than three corners, such as single pixels, are left out.

    Args:
        rle: compressed run lengths.
        tolerance: largest distance of a polygon from the outline, in pixels; 0 keeps every corner.

    Raises:
        ImportError: OpenCV is not installed.
    """
    cv2 = import_opencv()
    mask = decode_rle(rle)
    area = area_of(mask)
    if area is None:
        return []
    offset = area[1].start, area[0].start
    pixels = row_major(mask[area]).view(np.uint8)
    contours, hierarchy = cv2.findContours(pixels, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=offset)
    outlines = [cv2.approxPolyDP(contour, tolerance, True)[:, 0] for contour in contours]
    parents = hierarchy[0, :, 3]  # of holes; -1 for parts
    parts = {i: Polygon(outline, []) for i, outline in enumerate(outlines) if parents[i] < 0 and _is_polygon(outline)}
    for outline, parent in zip(outlines, parents.tolist(), strict=True):
        if parent in parts and _is_polygon(outline):
            parts[parent].holes.append(outline)
    return list(parts.values())


def joined(outlines: Sequence[np.ndarray]) -> np.ndarray:
    """One closed outline ``(K, 2)`` through all, for formats that have one for an object.

    Outlines are linked by lines of no width, there and back, between their nearest corners. Holes become background
    by the even-odd rule.
    """
    path = outlines[0]
    for outline in outlines[1:]:
        distances = ((path[:, None] - outline) ** 2).sum(-1)
        here, there = np.unravel_index(distances.argmin(), distances.shape)
        detour = np.roll(outline, -there, axis=0)
        path = np.concatenate([path[: here + 1], detour, detour[:1], path[here:]])
    return path


def _is_polygon(outline: np.ndarray) -> bool:
    return len(outline) >= CORNERS
