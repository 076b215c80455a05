"""Clicks and boxes as clients send them, checked before the model sees them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from sam2fast.demo.server.errors import BadInputError

BACKGROUND, FOREGROUND, BOX_FIRST, BOX_LAST = 0, 1, 2, 3
MOST_POINTS = 256  # of one object on one frame
MARGIN = 0.1  # how far beyond the picture a point may lie, as a share of its side


class Points(NamedTuple):
    """Points (x, y) as shares of the picture's width and height, and what each of them says."""

    points: list[list[float]]
    labels: list[int]


def check_points(points: Sequence[Sequence[float]], labels: Sequence[int], before: int = 0) -> Points:
    """The points of a click, as they are.

    Args:
        points: pairs in [0, 1].
        labels: for each 1, it is on the object; 0, it is not; or 2 and 3 in this order for the first two, which are
            the upper left and the lower right corner of a box.
        before: how many points these are added to.

    Raises:
        BadInputError: they have no meaning; says which and why.
    """
    if len(points) != len(labels):
        raise BadInputError(f"there are {len(points)} points and {len(labels)} labels; expected one label per point")
    if len(points) + before > MOST_POINTS:
        raise BadInputError(f"{len(points) + before} points are too many; an object may have {MOST_POINTS} on a frame")
    for point in points:
        if len(point) != 2:
            raise BadInputError(f"a point has {len(point)} numbers; expected [x, y]")
        if not all(math.isfinite(value) and -MARGIN <= value <= 1 + MARGIN for value in point):
            raise BadInputError(
                f"the point [{point[0]:g}, {point[1]:g}] is not in the picture; expected shares of its width and "
                "height, from 0 to 1"
            )
    for label in labels:
        if label not in (BACKGROUND, FOREGROUND, BOX_FIRST, BOX_LAST):
            raise BadInputError(f"there is no label {label}; expected 1, 0, or 2 and 3 for a box's corners")
    _check_box(points, labels, before)
    return Points([list(point) for point in points], list(labels))


def _check_box(points: Sequence[Sequence[float]], labels: Sequence[int], before: int) -> None:
    corners = [place for place, label in enumerate(labels) if label in (BOX_FIRST, BOX_LAST)]
    if not corners:
        return
    if corners != [0, 1] or list(labels[:2]) != [BOX_FIRST, BOX_LAST]:
        raise BadInputError("a box is one pair of labels, 2 and 3, before all other points")
    if before:
        raise BadInputError("a box cannot join earlier points, it comes before them; send all with clearOldPoints")
    (x0, y0), (x1, y1) = points[0], points[1]
    if x1 <= x0 or y1 <= y0:
        raise BadInputError("the box has its corners the wrong way round; expected the upper left one first")
