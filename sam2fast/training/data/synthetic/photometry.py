"""What the camera does to the light: exposure, colour, blur, noise and compression."""

from functools import cache
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

NOISE_LEVELS = (1.5, 2.5, 4.0, 6.0, 9.0, 13.0)  # standard deviations
# How much larger than a frame the tile is that noise is cut from.
NOISE_SLACK = 64


class Photometry:
    """One clip's treatment, the same for all its frames of ``size`` pixels but for noise and a slow drift."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self._gain = 1 + rng.normal(0, 0.1) + rng.normal(0, 0.04, 3)
        self._offset = rng.normal(0, 8) + rng.normal(0, 4, 3)
        self._drift = rng.normal(0, 0.08) if rng.random() < 0.4 else 0.0
        self._flicker = rng.uniform(0.03, 0.6), rng.uniform(0, 7)  # radians per frame, phase
        self._blur = rng.uniform(0.3, 1.1) * size / 256 if rng.random() < 0.15 else 0.0
        self._quality = int(rng.integers(15, 85)) if rng.random() < 0.25 else None
        self._noise: NDArray[np.int16] | None = None
        if rng.random() < 0.45:
            self._noise = _noise_tile(size + NOISE_SLACK, NOISE_LEVELS[rng.integers(len(NOISE_LEVELS))])

    def develop(self, frame: Image.Image, time: float, rng: np.random.Generator) -> NDArray[np.uint8]:
        """The pixels ``(S, S, 3)`` of a frame that was taken at this time."""
        if self._blur:
            frame = frame.filter(ImageFilter.GaussianBlur(self._blur))
        rate, phase = self._flicker
        change = 1 + self._drift * (np.sin(rate * time + phase) - np.sin(phase))
        values = np.arange(256)
        curves = [128 + (values - 128) * gain * change + self._offset[i] for i, gain in enumerate(self._gain)]
        frame = frame.point(np.clip(np.concatenate(curves), 0, 255).astype(np.uint8).tolist())
        pixels = np.asarray(frame)
        if self._noise is not None:
            top, left = rng.integers(0, len(self._noise) - frame.width, 2)
            noise = self._noise[top : top + frame.height, left : left + frame.width]
            pixels = np.clip(pixels + noise, 0, 255).astype(np.uint8)
        return pixels if self._quality is None else _compressed(pixels, self._quality)


def _compressed(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


@cache
def _noise_tile(side: int, level: float) -> NDArray[np.int16]:
    """Normal noise ``(side, side, 3)``, made once, always the same: a random piece of it is as good as new noise."""
    noise = np.random.default_rng(5).standard_normal((side, side, 3), dtype=np.float32)
    return np.round(level * noise).astype(np.int16)
