"""Polygons are the outlines of the pixels, for the libraries that people read them with."""

import cv2
import numpy as np
import pytest
import shapely
from pycocotools import mask as coco

from sam2fast.io.rle import encode_rle
from sam2fast.results.outlines import outlines
from sam2fast.results.polygons import Polygon, joined, largest_ring, polygons_of


def random_mask(seed: int) -> np.ndarray:
    """A few of these shapes on 1 to 300 pixels in each direction."""
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 301 if seed % 4 else 12, 2)
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), dtype=bool)

    def place() -> tuple[float, float, float]:
        return random.uniform(0, height), random.uniform(0, width), random.uniform(0, 60)

    for _ in range(random.integers(1, 7)):
        (cy, cx, size), (top, left, side) = place(), place()
        distance = np.hypot(y - cy, x - cx)
        thickness = random.integers(1, 5)
        square = (abs(y - top) <= side) & (abs(x - left) <= side)
        shapes = {
            "disc": distance <= size,
            "ring": abs(distance - size) <= thickness,
            "bar": (abs(y - cy) <= thickness / 2) & (abs(x - cx) <= size),
            "whisker": square | ((abs(y - top) < 1) & (abs(x - left) <= side + 20)),
            "diagonal": (abs(y - cy - (x - cx)) < thickness) & (distance < size),
            "touching": square | ((y > top + side) & (x > left + side) & (distance < 2 * size)),
            "frame": (y == 0) | (x == 0) | (y == height - 1) | (x == width - 1),
            "dust": random.random(mask.shape) < 0.001,
        }
        mask |= random.choice(list(shapes.values()))
    # Holes: near each other, near the border, and of single pixels.
    for _ in range(random.integers(0, 4)):
        cy, cx, size = place()
        mask &= (np.hypot(y - cy, x - cx) > size / 3) & (np.hypot(y - cy, x - cx - size) > size / 3)
    mask &= random.random(mask.shape) > random.choice([0, 0, 0.001 if seed % 4 else 0.3])
    return mask


@pytest.fixture(scope="module")
def masks() -> list[np.ndarray]:
    found = (random_mask(seed) for seed in range(300))
    return [mask for mask in found if mask.any()][:200]


def rings_of(parts: list[Polygon]) -> list[np.ndarray]:
    return [ring for part in parts for ring in (part.outer, *part.holes)]


def area_between(ring: np.ndarray) -> float:
    """Of a ring by its corners; positive if it is clockwise on the screen."""
    x, y = ring.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def test_outlines_of_random_masks(masks):
    assert len(masks) == 200 and min(mask.sum() for mask in masks) < 10
    for seed, mask in enumerate(masks):
        parts, area = polygons_of(encode_rle(mask), 0), mask.sum()
        found = shapely.MultiPolygon(parts)
        assert found.is_valid and found.area == area, (seed, shapely.is_valid_reason(found))
        assert all(area_between(part.outer) > 0 > max(map(area_between, part.holes), default=-1) for part in parts)
        areas = [[cv2.contourArea(ring.astype(np.int32)) for ring in (part.outer, *part.holes)] for part in parts]
        assert sum(2 * outer[0] - sum(outer) for outer in areas) == area, seed
        # With all rings in one, and with those of each part, as the formats have them.
        for shapes in ([joined(rings_of(parts))], [joined([part.outer, *part.holes]) for part in parts]):
            assert sum(map(area_between, shapes)) == area
            read = coco.merge(coco.frPyObjects([ring.ravel().astype(float).tolist() for ring in shapes], *mask.shape))
            np.testing.assert_array_equal(coco.decode(read) > 0, mask, str(seed))
            assert coco.area(read) == area


@pytest.mark.parametrize("tolerance", [0.5, 2.0, 20.0])
def test_simplified_polygons_of_random_masks(masks, tolerance):
    for seed, mask in enumerate(masks):
        exact, parts = outlines(mask), polygons_of(encode_rle(mask), tolerance)
        found = shapely.MultiPolygon(parts)
        assert found.is_valid, (seed, shapely.is_valid_reason(found))
        assert [len(part.holes) for part in parts] == [len(part.holes) for part in exact], seed
        assert abs(found.area - mask.sum()) <= 0.02 * mask.sum(), seed
        assert sum(map(area_between, rings_of(parts))) == pytest.approx(found.area)
        if mask.size < 10_000:
            distance = shapely.hausdorff_distance(found.boundary, shapely.MultiPolygon(exact).boundary)
            assert distance <= tolerance, seed


def drawn(*rows: str) -> np.ndarray:
    return np.array([[pixel == "#" for pixel in row] for row in rows])


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (drawn("...", "...", "..."), []),
        (drawn("#"), [[[[0, 0], [1, 0], [1, 1], [0, 1]]]]),
        (drawn("#.", ".#"), [[[[0, 0], [1, 0], [1, 1], [0, 1]]], [[[1, 1], [2, 1], [2, 2], [1, 2]]]]),
        (drawn("###", "#.#", "###"), [[[[0, 0], [3, 0], [3, 3], [0, 3]], [[1, 1], [1, 2], [2, 2], [2, 1]]]]),
        (  # the outline meets itself
            drawn("##.", "#.#", "###"),
            [[[[0, 0], [2, 0], [2, 1], [3, 1], [3, 3], [0, 3]], [[1, 1], [1, 2], [2, 2], [2, 1]]]],
        ),
        (  # holes meet
            drawn("####", "#.##", "##.#", "####"),
            [[[[0, 0], [4, 0], [4, 4], [0, 4]], [[1, 1], [1, 2], [2, 2], [2, 1]], [[2, 2], [2, 3], [3, 3], [3, 2]]]],
        ),
    ],
)
def test_outlines(mask, expected):
    found = [[part.outer.tolist(), *(hole.tolist() for hole in part.holes)] for part in outlines(mask)]
    assert found == expected


@pytest.mark.parametrize("tolerance", [-1.0, float("inf"), float("nan")])
def test_wrong_tolerances_are_refused(tolerance):
    with pytest.raises(ValueError, match="at least 0 pixels and finite"):
        polygons_of(encode_rle(np.eye(3)), tolerance)


@pytest.mark.parametrize("tolerance", [1.0, 5.0, 100.0])
@pytest.mark.parametrize(
    "mask",
    [np.ones((2, 50)), np.ones((1, 1)), np.ones((1, 30)), np.eye(12), np.hypot(*np.mgrid[-2:3, -2:3]) <= 2],
    ids=["bar", "pixel", "line", "diagonal", "disc"],
)
def test_thin_objects_stay(mask, tolerance):
    mask = np.pad(mask > 0, 5)
    found = shapely.MultiPolygon(polygons_of(encode_rle(mask), tolerance))
    assert found.is_valid and found.area == pytest.approx(mask.sum(), rel=0.02)


def test_the_largest_ring():
    """By its area rather than its number of corners or its box; holes do not count."""
    mask = np.zeros((40, 60), bool)
    mask[2:12, 3:18] = True
    mask[4:9, 5:15] = False
    mask[20:38, 20:22] = mask[36:38, 20:55] = True  # the largest box, and more corners
    assert largest_ring(encode_rle(mask), 0).tolist() == [[3, 2], [18, 2], [18, 12], [3, 12]]
    mask[0:12, 3:18] = False
    assert len(largest_ring(encode_rle(mask), 1.0)) == 6
