"""A canvas for flat shapes and surfaces of revolution, lit from the upper left."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Point: TypeAlias = tuple[float, float]
Colour: TypeAlias = tuple[float, float, float] | np.ndarray

SCALE = 2  # supersampling: drawn at twice the size, then reduced, which smooths edges
TILT = 0.24  # height by width of a horizontal circle, seen slightly from above
LIGHT = np.array([-0.62, 0.52, 0.59], dtype=np.float32)  # to the right, up, towards the viewer
HALFWAY = np.array([-0.36, 0.34, 0.87], dtype=np.float32)  # between light and viewer: the normal of highlights
UPRIGHT = (0.0, 1.0)
SHADOW = (0.75, -0.10)  # offset of the shadow of a point one pixel above the table: right, up


@dataclass
class Canvas:
    """Colours ``pixels (h, w, 3)`` in [0, 1] with their image coordinates ``x`` and ``y`` ``(h, w)``."""

    pixels: np.ndarray
    x: np.ndarray
    y: np.ndarray

    @classmethod
    def of_size(cls, width: int, height: int) -> "Canvas":
        """A black canvas for an image of ``width`` by ``height`` pixels."""
        x, y = np.meshgrid(*(((np.arange(n * SCALE) + 0.5) / SCALE).astype(np.float32) for n in (width, height)))
        return cls(np.zeros((*x.shape, 3), dtype=np.float32), x, y)

    def part(self, x0: float, y0: float, x1: float, y1: float) -> "Canvas":
        """A view of the canvas between these coordinates; drawing on it changes the canvas."""
        rows, columns = _between(self.y[:, 0], y0, y1), _between(self.x[0], x0, x1)
        return Canvas(self.pixels[rows, columns], self.x[rows, columns], self.y[rows, columns])

    def finished(self) -> np.ndarray:
        """The finished image ``(H, W, 3)``, reduced to its size."""
        height, width = (side // SCALE for side in self.x.shape)
        return self.pixels.reshape(height, SCALE, width, SCALE, 3).mean(axis=(1, 3))

    def blend(self, colour: Colour, cover: np.ndarray) -> None:
        """Blends one colour, or one per pixel, over the canvas with the opacity ``cover (h, w)`` in [0, 1]."""
        self.pixels += cover[..., None] * (np.asarray(colour, dtype=np.float32) - self.pixels)

    def ellipse(self, cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
        """Coverage ``(h, w)`` of an ellipse."""
        return ((self.x - cx) / rx) ** 2 + ((self.y - cy) / ry) ** 2 <= 1

    def box(self, x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
        """Coverage ``(h, w)`` of an axis-aligned rectangle."""
        return (self.x >= x0) & (self.x < x1) & (self.y >= y0) & (self.y < y1)

    def polygon(self, corners: Sequence[Point]) -> np.ndarray:
        """Coverage ``(h, w)`` of a polygon."""
        stencil, points = self._stencil(corners)
        ImageDraw.Draw(stencil).polygon(points, fill=1)
        return np.asarray(stencil, dtype=np.float32)

    def line(self, points: Sequence[Point], width: float) -> np.ndarray:
        """Coverage ``(h, w)`` of a line through ``points``."""
        stencil, points = self._stencil(points)
        ImageDraw.Draw(stencil).line(points, fill=1, width=round(width * SCALE), joint="curve")
        return np.asarray(stencil, dtype=np.float32)

    def _stencil(self, points: Sequence[Point]) -> tuple[Image.Image, list[Point]]:
        left, top = float(self.x[0, 0]), float(self.y[0, 0])
        return Image.new("L", self.x.shape[::-1]), [((x - left) * SCALE, (y - top) * SCALE) for x, y in points]

    def clouds(self, rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
        """Smooth noise ``(h, w, 1)`` in about [0, 1], interpolated from a grid of ``rows`` by ``columns``."""
        noise = Image.fromarray(rng.random((rows, columns), dtype=np.float32))
        return np.asarray(noise.resize(self.x.shape[::-1], Image.Resampling.BICUBIC))[..., None]


def blurred(cover: np.ndarray, radius: float) -> np.ndarray:
    """``cover`` with soft edges; ``radius`` is in pixels of the image."""
    image = Image.fromarray((255 * cover.astype(np.float32)).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.GaussianBlur(radius * SCALE)), dtype=np.float32) / 255


def curve(start: Point, bend: Point, end: Point) -> list[Point]:
    """Points on a quadratic Bezier curve."""
    t = np.linspace(0, 1, 24)[:, None]
    points = (1 - t) ** 2 * np.array(start) + 2 * t * (1 - t) * np.array(bend) + t**2 * np.array(end)
    return [(float(x), float(y)) for x, y in points]


def lit(normal: np.ndarray, colour: Colour, gloss: float) -> np.ndarray:
    """Colours ``(h, w, 3)`` of surfaces with these normals: daylight, light reflected by the table, a highlight."""
    normal = normal / np.linalg.norm(normal, axis=-1, keepdims=True)
    daylight = 0.32 + 0.08 * normal[..., 1:2] + 0.74 * np.clip(normal @ LIGHT, 0, None)[..., None]
    from_table = np.clip(0.35 - normal[..., 1:2] + 0.4 * normal[..., :1], 0, None) * np.array((0.16, 0.10, 0.06))
    highlight = gloss * np.clip(normal @ HALFWAY, 0, None)[..., None] ** 40
    return np.asarray(colour) * (daylight + from_table) + highlight


@dataclass
class SurfaceOfRevolution:
    """A surface of revolution that stands on the table.

    Args:
        foot: the centre of its foot.
        section: (height, radius) in pixels from the foot up, joined by a smooth curve.
    """

    foot: Point
    section: Sequence[Point]

    def __post_init__(self) -> None:
        knots, values = np.array(self.section, dtype=np.float64).T
        slopes = np.gradient(values, knots)
        self.heights = np.arange(0, knots[-1], 0.5)
        i = np.searchsorted(knots, self.heights, side="right") - 1
        step = np.diff(knots)[i]
        t = (self.heights - knots[i]) / step
        # Cubic Hermite interpolation: a kink in the section would show as a seam in the light.
        self.radii = (
            (1 + 2 * t) * (1 - t) ** 2 * values[i]
            + t * (1 - t) ** 2 * step * slopes[i]
            + t**2 * (3 - 2 * t) * values[i + 1]
            + t**2 * (t - 1) * step * slopes[i + 1]
        )

    def surroundings(self, canvas: Canvas) -> Canvas:
        """The part of the canvas that the surface covers."""
        (x, y), reach = self.foot, self.radii.max() + 2
        return canvas.part(x - reach, y - self.heights[-1] - TILT * reach, x + reach, y + TILT * reach)

    def cover(self, canvas: Canvas) -> np.ndarray:
        """The pixels that the surface covers, bool ``(h, w)``."""
        return self._rings(canvas, UPRIGHT) >= 0

    def cast_shadow(self, canvas: Canvas) -> None:
        """Darkens the table behind the surface, most of all at its foot."""
        (x, y), reach = self.foot, 1.15 * np.interp(2, self.heights, self.radii)
        canvas.blend((0.10, 0.05, 0.03), 0.55 * blurred(self._rings(canvas, SHADOW) >= 0, 6))
        canvas.blend((0.07, 0.03, 0.02), 0.6 * blurred(canvas.ellipse(x + 5, y + 1, reach, reach * TILT), 4))

    def draw(self, canvas: Canvas, colour: Colour, gloss: float) -> None:
        """Draws the surface; ``colour`` is one colour, or ``(h, w, 3)`` for the pixels of ``canvas``."""
        ring = self._rings(canvas, UPRIGHT)
        across = np.clip((canvas.x - self.foot[0]) / self.radii[ring], -1, 1)
        up = -np.gradient(self.radii, self.heights)[ring]
        canvas.blend(lit(np.stack([across, up, np.sqrt(1 - across**2)], axis=-1), colour, gloss), ring >= 0)

    def open_mouth(self, canvas: Canvas, rim: Colour, inside: Colour, filling: Colour) -> None:
        """Replaces the closed top by a rim, the inside and the filling."""
        (x, foot), radius = self.foot, self.radii[-1]
        y = foot - self.heights[-1]
        canvas.blend(rim, canvas.ellipse(x, y, radius, radius * TILT))
        mouth = canvas.ellipse(x, y + 0.5, radius - 4, (radius - 4) * TILT)
        canvas.blend(inside, mouth)
        canvas.blend(filling, mouth & canvas.ellipse(x, y + 6, radius - 4, (radius - 4) * TILT))

    def _rings(self, canvas: Canvas, rise: Point) -> np.ndarray:
        """The index of the topmost circle at each pixel ``(h, w)``, or -1; ``rise``: offset per pixel of height."""
        ring = np.full(canvas.x.shape, -1)
        for i, (height, radius) in enumerate(zip(self.heights, self.radii, strict=True)):
            x, y = self.foot[0] + rise[0] * height, self.foot[1] - rise[1] * height
            rows = _between(canvas.y[:, 0], y - radius * TILT, y + radius * TILT)
            columns = _between(canvas.x[0], x - radius, x + radius)
            dx, dy = canvas.x[rows, columns] - x, canvas.y[rows, columns] - y
            ring[rows, columns][dx**2 + (dy / TILT) ** 2 <= radius**2] = i
        return ring


def _between(coordinates: np.ndarray, low: float, high: float) -> slice:
    """The slice of ascending ``coordinates`` in [low, high)."""
    first, last = np.searchsorted(coordinates, (low, high))
    return slice(int(first), int(last))
