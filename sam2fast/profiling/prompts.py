"""Clicks for those who give none."""

import math


def scattered_points(count: int, height: int, width: int) -> list[tuple[float, float]]:
    """So many (x, y) in pixels, on a grid over the picture, away from its edges."""
    columns = math.ceil(math.sqrt(count * width / height))
    rows = math.ceil(count / columns)
    places = ((c, r) for r in range(rows) for c in range(columns))
    points = [((c + 0.5) * width / columns, (r + 0.5) * height / rows) for c, r in places]
    return points[:count]
