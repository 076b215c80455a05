"""Smooth random movement of things and of the camera, as matrices."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def wander(rng: np.random.Generator, times: Floats, amplitude: float, speed: float) -> Floats:
    """Values ``(N,)`` that swing about, 0 at time 0, changing by about ``speed`` per unit of time (N times)."""
    total = np.zeros_like(times)
    for share in (0.75, 0.25):
        frequency = speed / max(amplitude, 1e-6) * rng.uniform(0.7, 1.4) * (0.5 / share)
        phase = rng.uniform(0, 2 * np.pi)
        total += share * amplitude * (np.sin(frequency * times + phase) - np.sin(phase))
    return total


def affine(scale: Floats, angle: Floats, stretch: Floats, shear: Floats, x: Floats, y: Floats) -> Floats:
    """Matrices ``(N, 2, 3)`` that stretch and shear, scale, turn and then move points."""
    cos, sin, wide, high = np.cos(angle) * scale, np.sin(angle) * scale, np.exp(stretch), np.exp(-stretch)
    rows = [
        [cos * wide, cos * wide * shear - sin * high, x],
        [sin * wide, sin * wide * shear + cos * high, y],
    ]
    return np.stack([np.stack(row, axis=1) for row in rows], axis=1)


def thing_path(rng: np.random.Generator, times: Floats, start: Floats, size: int) -> Floats:
    """Matrices ``(N, 2, 3)`` from a thing's own pixels to the scene's.

    Args:
        times: in frames, stretched by the speed that was asked for; all 0 gives a still thing.
        start: ``(2,)`` where it is at time 0.
        size: of the frame, the measure of distances.
    """
    still = np.zeros_like(times)
    speed = size * min(0.09, float(np.exp(rng.normal(np.log(0.013), 0.9))))
    kind = rng.random()
    x = y = still
    if kind > 0.12:
        x, y = (wander(rng, times, size * rng.uniform(0.1, 0.5), speed * rng.uniform(0.3, 1)) for _ in range(2))
    if kind > 0.9:
        # Out of the frame and back.
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
    """Matrices ``(N, 2, 3)`` of a thing that crosses the frame in a straight line, from outside it."""
    direction = rng.uniform(0, 2 * np.pi)
    forward = size * np.array([np.cos(direction), np.sin(direction)])
    through = size * (0.5 + rng.uniform(-0.25, 0.25, 2))
    progress = times / rng.uniform(4, 14) - 1
    still = np.zeros_like(times)
    angle = still + rng.uniform(0, 2 * np.pi)
    x, y = through[:, None] + forward[:, None] * progress
    return affine(still + 1, angle, still, still, x, y)


def camera_path(rng: np.random.Generator, times: Floats, size: int) -> Floats:
    """Matrices ``(N, 2, 3)`` from the scene to the frame; at time 0 nothing is changed."""
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
    # About the frame's centre rather than its corner.
    turn = affine(np.exp(zoom), angle, still, still, still, still)
    centre = np.full(2, size / 2)
    turn[:, :, 2] = np.stack([x, y], axis=1) + (np.eye(2) - turn[:, :, :2]) @ centre
    return turn


def after(outer: Floats, inner: Floats) -> Floats:
    """The matrices ``(N, 2, 3)`` that apply ``inner``, then ``outer``."""
    product = outer[:, :, :2] @ inner
    product[:, :, 2] += outer[:, :, 2]
    return product


@dataclass(frozen=True)
class Warp:
    """A picture bent along waves that travel across it; lengths are shares of its longer side."""

    height: Floats  # (2,) of the wave in x and y
    waves: Floats  # (2, 2): for x and y, waves along the picture's two sides
    phase: Floats  # (2,)
    speed: float  # radians per unit of time

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Warp":
        """A gentle one."""
        height = rng.uniform(-0.06, 0.06, 2)
        return cls(height, rng.normal(0, 0.9, (2, 2)), rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.05, 0.5))

    def shift(self, x: Floats, y: Floats, side: float, time: float) -> tuple[Floats, Floats]:
        """Points of the picture moved by the waves."""
        moved = []
        for i, value in enumerate((x, y)):
            wave = 2 * np.pi * (self.waves[i, 0] * x + self.waves[i, 1] * y) / side
            moved.append(value + self.height[i] * side * np.sin(wave + self.phase[i] + self.speed * time))
        return moved[0], moved[1]
