"""Traces exact outlines of a mask along the corners of its pixels."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class Polygon(NamedTuple):
    """Outline of a 4-connected part of a mask: pixels of the part are connected by sides, not only by corners.

    A ring ``(K, 2)`` int64 contains corners (x, y) of pixels, from 0 to the mask's width and height. The first corner
    is not repeated. On the screen, the outer ring is clockwise, and holes are counterclockwise. Rings do not cross.
    Different rings may only touch at points.
    """

    outer: np.ndarray
    holes: list[np.ndarray]


def outlines(mask: np.ndarray) -> list[Polygon]:
    """Returns the parts of a bool mask ``(H, W)``, from top to bottom. The total area equals the number of pixels."""
    padded = np.pad(mask, 1)
    nw, ne, sw, se = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    crosses = (nw == se) & (ne == sw) & (nw != ne)  # two pixels touch only at a corner: two corners at one position
    y, x = np.nonzero(crosses | (nw ^ ne ^ sw ^ se))
    copies = 1 + crosses[y, x]
    y, x = np.repeat(y, copies), np.repeat(x, copies)
    if not len(y):
        return []
    places = y * padded.shape[1] + x
    # In each row, pairs of successive corners are the ends of horizontal edges. In each column, pairs of successive
    # corners are the ends of vertical edges. Of two corners at one position, the first corner ends the edge on the
    # left, and the second corner begins the edge on the right. If the upper pixel is on the left, the first corner ends
    # the edge above.
    second = np.append(False, places[1:] == places[:-1])
    order = np.lexsort((second ^ ne[y, x], y, x))
    tops, bottoms = order[0::2], order[1::2]
    following = np.empty_like(order)
    following[tops], following[bottoms] = bottoms, tops
    lefts = np.arange(0, len(order), 2)
    inside = se[y, x]
    rightwards = inside[lefts]  # edges to the right, with the mask below
    following[lefts[rightwards]] = lefts[rightwards] + 1
    following[lefts[~rightwards] + 1] = lefts[~rightwards]

    rings = sorted(_simple_rings(following.tolist(), places.tolist()))  # sorted by the first corner of each ring
    is_hole = [not inside[ring[0]] for ring in rings]
    corners = np.stack([x, y], 1)
    parts = {i: Polygon(corners[ring], []) for i, ring in enumerate(rings) if not is_hole[i]}
    if len(parts) < len(rings):
        number = np.empty_like(order)
        for i, ring in enumerate(rings):
            number[ring] = i
        # Ring of each vertical edge. To the left of the pixel above a hole's first corner, the nearest edge belongs to
        # the hole's part.
        sides = np.full((mask.shape[0], mask.shape[1] + 1), -1)
        lengths = y[bottoms] - y[tops]
        rows = np.arange(lengths.sum()) + np.repeat(y[tops] - np.cumsum(lengths) + lengths, lengths)
        sides[rows, np.repeat(x[tops], lengths)] = np.repeat(number[tops], lengths)
        owners = list(range(len(rings)))
        for i, ring in enumerate(rings):
            if is_hole[i]:
                row = sides[y[ring[0]] - 1, : x[ring[0]] + 1]
                owners[i] = owners[row[row >= 0][-1]]
                parts[owners[i]].holes.append(corners[ring])
    return list(parts.values())


def _simple_rings(following: list[int], places: list[int]) -> Iterator[list[int]]:
    """Yields rings, each from its smallest corner. A ring that visits a position twice is split at this position."""
    visited = bytearray(len(following))
    for first in range(len(following)):
        path: list[int] = []
        positions: dict[int, int] = {}
        corner = first
        while not visited[corner]:
            visited[corner] = True
            place = places[corner]
            if place in positions:
                begin = positions[place]
                ring = path[begin:]
                for other in ring:
                    del positions[places[other]]
                del path[begin:]
                yield _from_smallest(ring)
            positions[place] = len(path)
            path.append(corner)
            corner = following[corner]
        if path:
            yield _from_smallest(path)


def _from_smallest(ring: list[int]) -> list[int]:
    begin = ring.index(min(ring))
    return ring[begin:] + ring[:begin]
