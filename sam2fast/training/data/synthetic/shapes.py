"""Random shapes: blobs, stars, polygons, rings, branched shapes, tubes and clusters."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Points = NDArray[np.float64]  # (N, 2) x, y in [0, 1]

# Factor by which shapes are drawn larger before pixels are averaged. The alpha of an edge pixel is thus the covered
# fraction of the pixel.
OVERSAMPLING = 3
MARGIN = 0.04  # width of the empty border, as a fraction of the side


@dataclass(frozen=True)
class Stroke:
    """Filled polygon. If ``width`` is positive, the stroke is a thick line with round ends instead."""

    points: Points
    width: float = 0.0
    is_hole: bool = False


Shape = list[Stroke]


def random_shape(rng: np.random.Generator) -> Shape:
    """Returns a random shape that fills the unit square except for a margin."""
    makers: tuple[Callable[[np.random.Generator], Shape], ...] = (
        _blob, _blob, _star, _polygon, _ellipse, _box, _ring, _branches, _worm, _cluster
    )  # fmt: skip
    return fit(makers[rng.integers(len(makers))](rng))


def fit(shape: Shape) -> Shape:
    """Translates and scales the shape into the unit square with a margin. The shape's proportions do not change."""
    low = np.min([(stroke.points - stroke.width / 2).min(axis=0) for stroke in shape], axis=0)
    high = np.max([(stroke.points + stroke.width / 2).max(axis=0) for stroke in shape], axis=0)
    scale = (1 - 2 * MARGIN) / (high - low).max()
    offset = 0.5 - scale * (low + high) / 2
    return [Stroke(scale * s.points + offset, scale * s.width, s.is_hole) for s in shape]


def coverage(shape: Shape) -> float:
    """Returns the fraction of the unit square that the shape covers, accurate to about 0.01."""
    return max(0.01, float(np.asarray(_draw(shape, 64)).mean()) / 255)


def rasterise(shape: Shape, side: int) -> Image.Image:
    """Draws the shape's alpha as an L image of ``side`` x ``side`` pixels."""
    return _draw(shape, side * OVERSAMPLING).reduce(OVERSAMPLING)


def _draw(shape: Shape, side: int) -> Image.Image:
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    for stroke in shape:
        points = (stroke.points * side).ravel().tolist()
        value = 0 if stroke.is_hole else 255
        if stroke.width:
            width = max(1.0, stroke.width * side)
            draw.line(points, fill=value, width=round(width), joint="curve")
            for x, y in stroke.points[[0, -1]] * side:
                draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=value)
        else:
            draw.polygon(points, fill=value)
    return image


def _angles(count: int) -> NDArray[np.float64]:
    return np.linspace(0, 2 * np.pi, count, endpoint=False, dtype=np.float64)


def _around(angles: NDArray[np.float64], radius: NDArray[np.float64] | float, aspect: float = 1.0) -> Points:
    return 0.5 + 0.5 * np.stack([radius * np.cos(angles), aspect * radius * np.sin(angles)], axis=1)


def _rotated(points: Points, angle: float) -> Points:
    cos, sin = np.cos(angle), np.sin(angle)
    return (points - 0.5) @ np.array([[cos, sin], [-sin, cos]]) + 0.5


def _wavy(rng: np.random.Generator, roughness: float) -> Points:
    """Returns a closed curve around the centre. The radius of the curve is a sum of a few waves."""
    angles = _angles(72)
    waves = np.arange(1, 8)
    heights = roughness * rng.normal(size=7) / waves
    radius = 1 + (heights * np.cos(angles[:, None] * waves + rng.uniform(0, 7, 7))).sum(axis=1)
    aspect = np.exp(-abs(rng.normal(0, 0.5)))
    return _rotated(_around(angles, np.maximum(radius, 0.15), aspect), rng.uniform(0, 7))


def _blob(rng: np.random.Generator) -> Shape:
    return [Stroke(_wavy(rng, rng.uniform(0.1, 0.55)))]


def _star(rng: np.random.Generator) -> Shape:
    spikes = int(rng.integers(3, 12))
    radius = np.tile([1.0, rng.uniform(0.25, 0.8)], spikes) * rng.uniform(0.8, 1.2, 2 * spikes)
    return [Stroke(_around(_angles(2 * spikes) + rng.uniform(0, 7), radius))]


def _polygon(rng: np.random.Generator) -> Shape:
    angles = np.sort(_angles(count := int(rng.integers(3, 8))) + rng.uniform(-0.35, 0.35, count))
    return [Stroke(_around(angles + rng.uniform(0, 7), rng.uniform(0.55, 1, count)))]


def _ellipse(rng: np.random.Generator) -> Shape:
    return [Stroke(_rotated(_around(_angles(60), 1.0, rng.uniform(0.25, 1)), rng.uniform(0, 7)))]


def _box(rng: np.random.Generator) -> Shape:
    """Returns a rectangle with more or less rounded corners."""
    angles = _angles(64)
    power = rng.choice([0.1, 0.3, 0.6])
    square = np.stack([f(angles) for f in (np.cos, np.sin)], axis=1)
    points = 0.5 + 0.5 * np.sign(square) * np.abs(square) ** power * [1, rng.uniform(0.12, 1)]
    return [Stroke(_rotated(points, rng.uniform(0, 7)))]


def _ring(rng: np.random.Generator) -> Shape:
    outer = _wavy(rng, rng.uniform(0, 0.25))
    if rng.random() < 0.6:
        return [Stroke(outer), Stroke(0.5 + (outer - 0.5) * rng.uniform(0.35, 0.8), is_hole=True)]
    holes = []
    for _ in range(rng.integers(1, 5)):
        centre = rng.uniform(0.3, 0.7, 2)
        holes.append(Stroke(centre + rng.uniform(0.06, 0.2) * (_wavy(rng, 0.2) - 0.5), is_hole=True))
    return [Stroke(outer), *holes]


def _branches(rng: np.random.Generator) -> Shape:
    shape: Shape = []
    spread = rng.uniform(0.3, 0.8)

    def grow(start: NDArray[np.float64], angle: float, length: float, width: float, depth: int) -> None:
        bend = rng.normal(0, 0.25)
        middle = start + length / 2 * np.array([np.cos(angle), np.sin(angle)])
        end = middle + length / 2 * np.array([np.cos(angle + bend), np.sin(angle + bend)])
        shape.append(Stroke(np.stack([start, middle, end]), width))
        if depth:
            for side in (-1, 1) if rng.random() < 0.8 else (-1, 0, 1):
                branch_angle = angle + bend + side * spread * rng.uniform(0.6, 1.4)
                grow(end, branch_angle, length * rng.uniform(0.5, 0.9), width * rng.uniform(0.55, 0.85), depth - 1)

    grow(np.array([0.5, 0.5]), rng.uniform(0, 7), 0.4, rng.uniform(0.06, 0.2), int(rng.integers(1, 4)))
    return shape


def _worm(rng: np.random.Generator) -> Shape:
    """Returns a bent tube that tapers or swells."""
    t = np.linspace(0, 1, 24)
    heading = rng.uniform(0, 7) + np.cumsum(rng.normal(0, 0.12, 24)) + rng.uniform(-3, 3) * t
    spine = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0) / 24
    width = rng.uniform(0.04, 0.14) * (0.4 + np.sin(np.pi * (0.1 + 0.8 * t)) * rng.uniform(0.3, 1.2))
    normal = np.stack([-np.sin(heading), np.cos(heading)], axis=1) * width[:, None]
    # Draws one quadrilateral per segment, because a polygon around a self-intersecting spine would have holes.
    quads = zip(spine - normal, spine + normal, (spine + normal)[1:], (spine - normal)[1:], strict=False)
    ends = [Stroke(np.stack([spine[i], spine[i] + 1e-3]), 2 * width[i]) for i in (0, -1)]
    return [Stroke(np.stack(quad)) for quad in quads] + ends


def _cluster(rng: np.random.Generator) -> Shape:
    """Returns a shape of two to five overlapping blobs and boxes."""
    shape: Shape = []
    centre = np.array([0.5, 0.5])
    for _ in range(rng.integers(2, 6)):
        piece = _wavy(rng, rng.uniform(0, 0.3)) if rng.random() < 0.7 else _box(rng)[0].points
        radius = rng.uniform(0.2, 0.5)
        shape.append(Stroke(centre + radius * (piece - 0.5)))
        angle = rng.uniform(0, 7)
        centre = centre + 0.4 * radius * np.array([np.cos(angle), np.sin(angle)])
    return shape
