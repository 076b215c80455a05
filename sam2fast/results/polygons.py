"""Converts masks to polygons: exact outlines, or outlines simplified by shapely."""

import math
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any

import numpy as np

from sam2fast.io.label_maps import row_major
from sam2fast.io.overlay import area_of
from sam2fast.io.rle import decode_rle
from sam2fast.results.outlines import Polygon, outlines
from sam2fast.utils.errors import requires

FINEST = 0.25  # smallest tolerance in pixels, since smaller tolerances remove no corner of an outline
MOST_CHANGE = 0.02  # maximum change of the area by simplification, as a fraction


def import_shapely() -> Any:
    """Returns the module ``shapely``. If the module is missing, the ``ImportError`` names the extra."""
    with requires("polygons with a tolerance need shapely: pip install 'sam2fast[polygons]'"):
        return import_module("shapely")


def polygons_of(rle: Mapping[str, Any], tolerance: float) -> list[Polygon]:
    """Returns the polygons of a mask, one for each part, or an empty list for an empty mask.

    Polygons are valid: rings neither cross nor touch themselves. With a tolerance of 0, the area of polygons equals the
    number of pixels. A larger tolerance removes corners, but no parts or holes. If the area of a part changes by more
    than 2 %, the tolerance of this part is halved.

    Args:
        rle: Compressed run lengths.
        tolerance: Maximum distance of a polygon from the outline, in pixels. 0 keeps all corners.

    Raises:
        ImportError: If shapely is not installed, and the tolerance is not 0.
        ValueError: If the tolerance is negative or not finite.
    """
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"the tolerance of polygons must be at least 0 pixels and finite, got {tolerance}")
    mask = decode_rle(rle)
    area = area_of(mask)
    if area is None:
        return []
    offset = area[1].start, area[0].start
    parts = [
        Polygon(outer + offset, [hole + offset for hole in holes]) for outer, holes in outlines(row_major(mask[area]))
    ]
    return _simplified(parts, tolerance) if tolerance else parts


def largest_ring(rle: Mapping[str, Any], tolerance: float) -> np.ndarray:
    """Returns the outer ring ``(K, 2)`` int64 of a non-empty mask's largest part, for formats with one ring per object.

    See :func:`polygons_of` for arguments and errors.
    """

    def area(ring: np.ndarray) -> int:
        x, y = ring.T
        return abs(int(x @ np.roll(y, 1) - y @ np.roll(x, 1)))

    return max((part.outer for part in polygons_of(rle, tolerance)), key=area)


def _simplified(parts: list[Polygon], tolerance: float) -> list[Polygon]:
    shapely = import_shapely()
    # Rings are created one by one. For all rings at once, the time would grow with the square of the number of rings.
    rings = np.array([shapely.linearrings(ring) for part in parts for ring in (part.outer, *part.holes)])
    counts = [1 + len(part.holes) for part in parts]
    first = np.cumsum([0, *counts])

    def assembled(rings: np.ndarray) -> Any:
        return np.array([shapely.Polygon(rings[i], rings[i + 1 : j]) for i, j in pairwise(first)])

    areas = shapely.area(assembled(rings))
    tolerances = np.full(len(parts), float(tolerance))
    while tolerances.any():
        simple = shapely.simplify(rings, np.repeat(tolerances, counts))
        polygons = assembled(simple)
        is_good = shapely.is_valid(polygons) & (abs(shapely.area(polygons) - areas) <= MOST_CHANGE * areas)
        if is_good.all() and shapely.multipolygons(polygons).is_valid:
            corners = [shapely.get_coordinates(ring)[:-1].astype(np.int64) for ring in simple]
            return [Polygon(corners[i], corners[i + 1 : j]) for i, j in pairwise(first)]
        tolerances[~is_good | is_good.all()] /= 2
        tolerances[tolerances < FINEST] = 0
    return parts


def joined(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Joins rings to a single ring ``(K, 2)``, for formats with one ring per object.

    Pairs of coincident lines, forth and back, link near corners of rings. Under the even-odd rule and the nonzero rule,
    holes are background.
    """
    path = rings[0]
    for ring in rings[1:]:
        there = 0
        for _ in range(2):
            here = _nearest(path, ring[there])
            there = _nearest(ring, path[here])
        detour = np.roll(ring, -there, axis=0)
        path = np.concatenate([path[: here + 1], detour, detour[:1], path[here:]])
    return path


def _nearest(corners: np.ndarray, point: np.ndarray) -> int:
    return int(((corners - point) ** 2).sum(1).argmin())
