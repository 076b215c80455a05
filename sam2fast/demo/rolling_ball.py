"""A short synthetic video with ground truth: a beach ball rolls behind a vase, and a mug slides into view."""

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sam2fast.datasets.clip import Clip
from sam2fast.demo.canvas import SCALE, SHADOW, TILT, Canvas, SurfaceOfRevolution, blurred, lit

WIDTH, HEIGHT = 480, 320
TABLE = 170  # y of the table's far edge
OBJECTS = ("ball", "vase", "mug")

Wedges: TypeAlias = tuple[tuple[float, float, float], tuple[float, float, float]]
RADIUS = 40  # of the ball
WEDGES = ((0.90, 0.20, 0.16), (0.95, 0.66, 0.22))
GLAZE, CLAY = (0.13, 0.42, 0.50), (0.98, 0.80, 0.30)
VASE = SurfaceOfRevolution(
    (240, 262), ((0, 24), (6, 31), (34, 47), (66, 54), (98, 47), (124, 28), (142, 18), (156, 18), (168, 26))
)
MUG = ((0, 27), (5, 32), (18, 35), (46, 35), (72, 35))
# x of the mug's foot at the beginning and the end, and the share of the video's length in which it moves.
MUG_MOTION = {"left": ((-80, 110), (0.6, 0.85)), "right": ((540, 360), (0.4, 0.7)), "start": ((360, 360), (0, 1))}


def draw_rolling_ball(frames: int = 32, mug_from: Literal["left", "right", "start"] = "left") -> Clip:
    """Draws the video; every call returns the same.

    Args:
        frames: number of frames T; with fewer frames the objects move further per frame.
        mug_from: from the left, the mug appears after the ball and far from it. From the right, it appears while the
            ball is hidden, where the ball will reappear, so that it may be mistaken for the ball. From the start, it
            stands there already.

    Returns:
        Frames ``(T, 320, 480, 3)`` and masks ``(T, 3, 320, 480)`` of the visible part of each of ``OBJECTS``; the
        ball is hidden in the middle of the video.
    """
    (outside, inside), (start, end) = MUG_MOTION[mug_from]
    rng = np.random.default_rng(11)
    room = Canvas.of_size(WIDTH, HEIGHT)
    draw_room(room, rng)
    VASE.cast_shadow(room.part(150, 200, 440, 300))
    front = Canvas(room.pixels.copy(), room.x, room.y)
    _draw_vessel(front, VASE, GLAZE, gloss=0.8)
    vase = VASE.cover(front)
    images, masks = [], []
    for t in np.linspace(0, 1, frames):
        canvas = Canvas(room.pixels.copy(), room.x, room.y)
        ball = _draw_ball(canvas, 52 + 376 * float(t), 203)
        canvas.pixels[vase] = front.pixels[vase]
        mug = np.zeros_like(vase)
        body = SurfaceOfRevolution((float(np.interp(t, (start, end), (outside, inside))), 290), MUG)
        if -body.radii.max() < body.foot[0] < WIDTH + body.radii.max():
            body.cast_shadow(canvas.part(body.foot[0] - 80, 240, body.foot[0] + 160, HEIGHT))
            _draw_vessel(canvas, body, CLAY, gloss=0.4)
            mug = body.cover(canvas)
        noisy = canvas.finished() + rng.normal(0, 0.01, (HEIGHT, WIDTH, 1))
        images.append((255 * np.clip(noisy, 0, 1)).round().astype(np.uint8))
        # Pixels of the image are covered by more than half.
        seen = np.stack([ball & ~vase & ~mug, vase & ~mug, mug]).reshape(3, HEIGHT, SCALE, WIDTH, SCALE)
        masks.append(seen.mean(axis=(2, 4)) > 0.5)
    return Clip(np.array(images), np.array(masks))


def draw_room(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draws a wall and a table."""
    wall = np.array((0.80, 0.84, 0.84)) * (0.97 + 0.06 * canvas.clouds(rng, 30, 45))
    canvas.pixels[:] = wall * (1.06 - 0.22 * canvas.x[..., None] / WIDTH)
    table = canvas.part(0, TABLE, WIDTH, HEIGHT)
    grain = 0.6 * table.clouds(rng, 60, 5) + 0.4 * table.clouds(rng, 160, 20)
    table.pixels[:] = np.array((0.72, 0.54, 0.36)) * (0.86 + 0.26 * grain)
    edge = canvas.part(0, TABLE - 8, WIDTH, TABLE + 8)
    edge.blend((0.30, 0.20, 0.13), 0.6 * blurred(edge.box(0, TABLE - 1, WIDTH, TABLE + 1), 1.5))


def _draw_vessel(canvas: Canvas, vessel: SurfaceOfRevolution, colour: tuple[float, float, float], gloss: float) -> None:
    """Draws a vase or mug with an open mouth, without its shadow."""
    part, light = vessel.surroundings(canvas), np.array(colour)
    vessel.draw(part, colour, gloss)
    vessel.open_mouth(part, rim=0.3 + 0.7 * light, inside=0.5 * light, filling=0.3 * light)


def _draw_ball(canvas: Canvas, x: float, y: float) -> NDArray[np.bool_]:
    """Draws the ball with its centre at (x, y), rotated as far as it has rolled; returns the pixels that it covers."""
    ground = canvas.part(x - 60, y, x + 100, y + 70)
    shade = ground.ellipse(x + SHADOW[0] * RADIUS, y + 0.9 * RADIUS, RADIUS, RADIUS * TILT)
    ground.blend((0.10, 0.05, 0.03), 0.5 * blurred(shade, 5))
    draw_ball(canvas, (x, y), RADIUS, WEDGES, x / RADIUS)
    return canvas.ellipse(x, y, RADIUS, RADIUS)


def draw_ball(canvas: Canvas, centre: tuple[float, float], radius: float, wedges: Wedges, angle: float) -> None:
    """Draws a ball with six wedges of two colours, rotated by ``angle``, without its shadow."""
    x, y = centre
    part = canvas.part(x - radius, y - radius, x + radius, y + radius)
    right, up = (part.x - x) / radius, (y - part.y) / radius
    normal = np.stack([right, up, np.sqrt(np.clip(1 - right**2 - up**2, 0.01, None))], axis=-1)
    wedge = np.floor((np.arctan2(up, right) + angle) / (np.pi / 3)).astype(int) % 2
    part.blend(lit(normal, np.array(wedges)[wedge], gloss=0.5), right**2 + up**2 <= 1)
