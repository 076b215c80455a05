"""A synthetic video of three beach balls that bounce through a room and pass in front of each other."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sam2fast.demo.canvas import TILT, Canvas, blurred
from sam2fast.demo.rolling_ball import HEIGHT, WEDGES, WIDTH, Wedges, draw_ball, draw_room

GRAIN = 0.01  # standard deviation of the noise of the camera


class Ball(NamedTuple):
    """A ball: its size and colours, where it begins and ends, and its bounces.

    Attributes:
        ground: y of the point where it touches the table.
        bounces: number of bounces in the video.
        phase: the share of the first bounce that is over when the video begins.
        rise: the height of a bounce in pixels.
    """

    radius: float
    wedges: Wedges
    start: float
    end: float
    ground: float
    bounces: float
    phase: float
    rise: float


BALLS = (  # from the back to the front
    Ball(30, ((0.16, 0.46, 0.70), (0.93, 0.93, 0.90)), 400, 90, 212, 4.5, 0.3, 96),
    Ball(38, WEDGES, 70, 390, 246, 3.5, 0.6, 130),
    Ball(48, ((0.20, 0.56, 0.28), (0.98, 0.82, 0.24)), 330, 190, 296, 2.5, 0.1, 84),
)


def draw_bouncing_balls(frames: int) -> Iterator[NDArray[np.uint8]]:
    """Frames ``(320, 480, 3)`` of the whole video, however many they are; every call draws the same."""
    rng = np.random.default_rng(5)
    room = Canvas.of_size(WIDTH, HEIGHT)
    draw_room(room, rng)
    for time in np.linspace(0, 1, frames):
        canvas = Canvas(room.pixels.copy(), room.x, room.y)
        for ball in BALLS:
            _draw_bouncing(canvas, ball, float(time))
        noisy = canvas.finished() + rng.normal(0, GRAIN, (HEIGHT, WIDTH, 1))
        yield (255 * np.clip(noisy, 0, 1)).round().astype(np.uint8)


def _draw_bouncing(canvas: Canvas, ball: Ball, time: float) -> None:
    radius, x = ball.radius, ball.start + (ball.end - ball.start) * time
    bounce = (time * ball.bounces + ball.phase) % 1
    height = ball.rise * 4 * bounce * (1 - bounce)
    across, shift = radius * (1 - 0.3 * height / ball.rise), 0.5 * height
    ground = canvas.part(x + shift - 1.5 * radius, ball.ground - radius, x + shift + 1.5 * radius, ball.ground + radius)
    shade = blurred(ground.ellipse(x + shift, ball.ground - 0.1 * radius, across, across * TILT), 4 + 0.05 * height)
    ground.blend((0.10, 0.05, 0.03), (0.6 - 0.35 * height / ball.rise) * shade)
    draw_ball(canvas, (x, ball.ground - radius - height), radius, ball.wedges, x / radius)
