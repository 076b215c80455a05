"""Smooth random motion of objects and the camera, as affine matrices."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def wander(rng: np.random.Generator, times: Floats, amplitude: float, speed: float) -> Floats:
    """Returns values ``(N,)`` of an oscillation that is 0 at time 0 and changes by about ``speed`` per unit of time."""
    total = np.zeros_like(times)
    for share in (0.75, 0.25):
        frequency = speed / max(amplitude, 1e-6) * rng.uniform(0.7, 1.4) * (0.5 / share)
        phase = rng.uniform(0, 2 * np.pi)
        total += share * amplitude * (np.sin(frequency * times + phase) - np.sin(phase))
    return total


def affine(scale: Floats, angle: Floats, stretch: Floats, shear: Floats, x: Floats, y: Floats) -> Floats:
    """Returns matrices ``(N, 2, 3)`` that stretch and shear, scale, rotate and then translate points."""
    cos, sin, wide, high = np.cos(angle) * scale, np.sin(angle) * scale, np.exp(stretch), np.exp(-stretch)
    rows = [
        [cos * wide, cos * wide * shear - sin * high, x],
        [sin * wide, sin * wide * shear + cos * high, y],
    ]
    return np.stack([np.stack(row, axis=1) for row in rows], axis=1)


def object_path(rng: np.random.Generator, times: Floats, start: Floats, size: int) -> Floats:
    """Returns matrices ``(N, 2, 3)`` from pixels of a sprite to pixels of the scene.

    Args:
        times: times ``(N,)`` in frames, multiplied by the factor of speeds. If all times are 0, the object is still.
        start: position ``(2,)`` of the object at time 0, in pixels of the scene.
        size: side of the frame in pixels. Speeds and distances of the object are proportional to ``size``.
    """
    still = np.zeros_like(times)
    speed = size * min(0.09, float(np.exp(rng.normal(np.log(0.013), 0.9))))
    draw = rng.random()
    x = y = still
    if draw > 0.12:
        x, y = (wander(rng, times, size * rng.uniform(0.1, 0.5), speed * rng.uniform(0.3, 1)) for _ in range(2))
    if draw > 0.9:
        # Adds a path on which the object leaves the frame and comes back.
        direction, reach = rng.uniform(0, 2 * np.pi), size * rng.uniform(0.9, 1.3)
        away = reach * np.sin(np.pi * np.minimum(1, times / rng.uniform(5, 16))) ** 2
        x, y = x + away * np.cos(direction), y + away * np.sin(direction)
    angle, scale, stretch, shear = still, still, still, still
    if rng.random() < 0.65:
        angle = wander(rng, times, rng.uniform(0.1, 1), rng.uniform(0.01, 0.06))
    elif rng.random() < 0.3:
        angle = rng.uniform(-0.2, 0.2) * times
    if rng.random() < 0.6:
        scale = wander(rng, times, rng.uniform(0.05, 0.25), rng.uniform(0.005, 0.04))
    if rng.random() < 0.3:
        stretch = wander(rng, times, rng.uniform(0.02, 0.12), rng.uniform(0.01, 0.05))
        shear = wander(rng, times, rng.uniform(0.05, 0.2), rng.uniform(0.01, 0.06))
    angle = angle + rng.normal(0, 0.3)
    return affine(np.exp(scale), angle, stretch, shear, start[0] + x, start[1] + y)


def passing_path(rng: np.random.Generator, times: Floats, size: int) -> Floats:
    """Returns matrices ``(N, 2, 3)`` of an object that enters the frame and crosses the frame in a straight line."""
    direction = rng.uniform(0, 2 * np.pi)
    forward = size * np.array([np.cos(direction), np.sin(direction)])
    through = size * (0.5 + rng.uniform(-0.25, 0.25, 2))
    progress = times / rng.uniform(4, 14) - 1
    still = np.zeros_like(times)
    angle = still + rng.uniform(0, 2 * np.pi)
    x, y = through[:, None] + forward[:, None] * progress
    return affine(still + 1, angle, still, still, x, y)


def meeting_places(rng: np.random.Generator, times: Floats, count: int, reach: float, size: int) -> Floats:
    """Returns the positions ``(count, N, 2)`` of objects that start on a circle and meet in the circle's centre.

    By the last of ``times``, the objects have either passed one another or turned back at the meeting point.

    Args:
        reach: longest side of each object in pixels. ``reach`` determines the radius of the circle.
    """
    centre = size * rng.uniform(0.35, 0.65, 2)
    radius = min(0.45 * size, reach * rng.uniform(0.5, 0.8) / np.sin(np.pi / count))
    progress = times.clip(0) / max(times[-1], 1e-6)
    if rng.random() < 0.3:
        progress = 0.46 * (1 - np.abs(2 * progress - 1))
    angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(count) / count
    left = 1 - 2 * progress ** rng.uniform(0.8, 1.25, (count, 1)) * rng.uniform(0.8, 1.2, (count, 1))
    beside = rng.normal(0, 0.15, (count, 1)) * reach * np.sin(np.pi * progress)
    x, y = np.cos(angles)[:, None], np.sin(angles)[:, None]
    return centre + np.stack([radius * left * x - beside * y, radius * left * y + beside * x], axis=2)


def camera_path(rng: np.random.Generator, times: Floats, size: int) -> Floats:
    """Returns matrices ``(N, 2, 3)`` from the scene to the frame. The matrix for time 0 is the identity."""
    still = np.zeros_like(times)
    x, y, zoom, angle = still, still, still, still
    if rng.random() < 0.6:
        speed = size * min(0.04, np.exp(rng.normal(np.log(0.008), 0.8)))
        x, y = (wander(rng, times, size * rng.uniform(0.05, 0.25), speed * rng.uniform(0.2, 1)) for _ in range(2))
    if rng.random() < 0.4:
        zoom = wander(rng, times, rng.uniform(0.03, 0.15), rng.uniform(0.003, 0.02))
    if rng.random() < 0.25:
        angle = wander(rng, times, rng.uniform(0.02, 0.1), rng.uniform(0.005, 0.02))
    if rng.random() < 0.15:
        x, y = (v + wander(rng, times, size * rng.uniform(0.002, 0.01), size * 0.03) for v in (x, y))
    # Makes the camera rotate and zoom about the frame's centre.
    turn = affine(np.exp(zoom), angle, still, still, still, still)
    centre = np.full(2, size / 2)
    turn[:, :, 2] = np.stack([x, y], axis=1) + (np.eye(2) - turn[:, :, :2]) @ centre
    return turn


def compose(outer: Floats, inner: Floats) -> Floats:
    """Returns matrices ``(N, 2, 3)`` that apply ``inner``, then ``outer``."""
    product = outer[:, :, :2] @ inner
    product[:, :, 2] += outer[:, :, 2]
    return product


@dataclass(frozen=True)
class Warp:
    """Deformation of an image by travelling waves. The waves' amplitudes are fractions of the image's longer side."""

    height: Floats  # (2,) amplitudes of the waves in x and y
    waves: Floats  # (2, 2): waves per longer side of the image, by displaced axis and by direction
    phase: Floats  # (2,) phases of the waves in x and y
    speed: float  # phase velocity of the waves, in radians per unit of time

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Warp":
        """Returns a small random deformation of an image."""
        height = rng.uniform(-0.06, 0.06, 2)
        return cls(height, rng.normal(0, 0.9, (2, 2)), rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.05, 0.5))

    def shift(self, x: Floats, y: Floats, side: float, time: float) -> tuple[Floats, Floats]:
        """Returns the coordinates of points of the image, displaced by the waves."""
        moved = []
        for i, value in enumerate((x, y)):
            wave = 2 * np.pi * (self.waves[i, 0] * x + self.waves[i, 1] * y) / side
            moved.append(value + self.height[i] * side * np.sin(wave + self.phase[i] + self.speed * time))
        return moved[0], moved[1]
