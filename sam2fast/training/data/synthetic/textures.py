"""Textures: grey values mapped to random colors, or crops of photographs."""

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
Photograph = Callable[[np.random.Generator], Image.Image]

NOISE_SIDE, NOISE_COUNT = 384, 10


def random_texture(
    rng: np.random.Generator, size: tuple[int, int], near: Floats | None = None, photograph: Photograph | None = None
) -> Image.Image:
    """Draws a random texture as an RGB image of ``size`` (width, height).

    Args:
        near: colors ``(N, 3)`` to which the texture stays close, for camouflaged objects.
        photograph: function that draws a photograph, or None. If ``photograph`` is given, the texture is often a crop
            of a photograph.
    """
    if photograph is not None and near is None and rng.random() < 0.45:
        return random_crop(rng, photograph(rng), size)
    return paint(field(rng, size), ramp(rng, random_colours(rng, int(rng.integers(2, 6)), near)))


def random_crop(rng: np.random.Generator, image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Crops the image at random, flips it with probability 0.5 and resizes it to ``size`` (width, height)."""
    largest = min(image.width / size[0], image.height / size[1])
    # Limits the scale from below, because small crops would be blurred when enlarged.
    scale = largest * rng.uniform(min(1.0, 0.8 / largest), 1)
    # Clamps the crop's size, because rounding may make the largest crop larger than the image.
    width, height = min(size[0] * scale, image.width), min(size[1] * scale, image.height)
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    filter = Image.Resampling.BILINEAR
    crop = image.resize(size, filter, (left, top, left + width, top + height), reducing_gap=1.5)
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop


def paint(grey: Image.Image, colours: NDArray[np.uint8]) -> Image.Image:
    """Replaces the grey values of an L image by the colors of a table ``(256, 3)``."""
    image = grey.copy()
    image.putpalette(colours.tobytes())
    return image.convert("RGB")


def random_colours(rng: np.random.Generator, count: int, near: Floats | None = None) -> Floats:
    """Draws colors ``(count, 3)`` in [0, 255]: vivid, dull or grey, sometimes of one hue."""
    if near is not None:
        return np.clip(near[rng.integers(len(near), size=count)] + rng.normal(0, 14, (count, 3)), 0, 255)
    hue = rng.random() + rng.choice([0.03, 0.15, 1.0]) * rng.random(count)
    saturation = rng.choice([0.05, 0.35, 0.6, 1.0]) * rng.random(count) ** 0.7
    value = rng.uniform(0.05, 1, count) ** rng.choice([0.6, 1.0, 1.6])
    distance = np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    rgb = value[:, None] * (1 - saturation[:, None] * (1 - np.clip(distance, 0, 1)))
    return (255 * rgb).astype(np.float32)


def ramp(rng: np.random.Generator, colours: Floats) -> NDArray[np.uint8]:
    """Returns a color table ``(256, 3)`` for grey values. ``colours`` are interpolated or used in steps."""
    grey = np.arange(256)
    stops = np.sort(rng.uniform(20, 236, len(colours)))
    if rng.random() < 0.45:
        return colours[np.searchsorted(stops[1:], grey)].astype(np.uint8)
    return np.stack([np.interp(grey, stops, channel) for channel in colours.T], axis=1).astype(np.uint8)


def field(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Draws an L image of ``size`` (width, height) with noise, stripes, checks, dots, rings or a gradient."""
    draw = rng.random()
    if draw < 0.35:
        return noise(rng, size)
    # ``u`` and ``v`` are coordinates (H, W) along two random perpendicular axes, about in [-0.5, 0.5].
    angle, longest = rng.uniform(0, 7), max(size)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x = (np.arange(size[0], dtype=np.float32) - size[0] / 2)[None] / np.float32(longest)
    y = (np.arange(size[1], dtype=np.float32) - size[1] / 2)[:, None] / np.float32(longest)
    u, v = cos * x + sin * y, cos * y - sin * x
    frequency = float(np.exp(rng.uniform(np.log(1.5), np.log(14))))
    phase = rng.uniform(0, 7)
    rough = rng.choice([0.0, 0.0, 0.15, 0.5])
    values: NDArray[np.floating]
    if rough:
        u = u + np.asarray(noise(rng, size), dtype=np.float32) * np.float32(rough / 255)
    if draw < 0.55:
        values = _wave(u * frequency + phase)
    elif draw < 0.68:
        values = 255 * ((np.floor(u * frequency) + np.floor(v * frequency)) % 2)
    elif draw < 0.78:
        values = _wave(u * frequency) * _wave(v * frequency) / 255
    elif draw < 0.88:
        values = _wave(np.hypot(u - rng.uniform(-0.5, 0.5), v) * frequency + phase)
    else:
        values = 255 * (0.5 + 0.7 * u)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def noise(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Draws fractal noise as an L image. The graininess of the noise is random."""
    bank = _noise_bank()
    image = bank[rng.integers(len(bank))]
    longest = max(size)
    scale = NOISE_SIDE / longest * rng.uniform(0.15, 1) ** 1.5
    width, height = size[0] * scale, size[1] * scale
    left, top = rng.uniform(0, NOISE_SIDE - width), rng.uniform(0, NOISE_SIDE - height)
    crop = image.resize(size, Image.Resampling.BILINEAR, (left, top, left + width, top + height))
    return crop.transpose(Image.Transpose(int(rng.integers(7)))) if size[0] == size[1] else crop


def _wave(x: NDArray[np.floating]) -> NDArray[np.floating]:
    return 127.5 + 127.5 * np.sin(2 * np.pi * x)


@cache
def _noise_bank() -> list[Image.Image]:
    """Returns L images of fractal noise, which are computed once per process from a fixed seed."""
    rng = np.random.default_rng(20)
    bank = []
    for i in range(NOISE_COUNT):
        slope = np.linspace(0.35, 0.85, NOISE_COUNT)[i]
        total = np.zeros((NOISE_SIDE, NOISE_SIDE), dtype=np.float32)
        for octave in range(1, 9):
            side = 3 * 2 ** (octave - 1)
            coarse = Image.fromarray(rng.normal(size=(side, side)).astype(np.float32))
            total += slope**octave * np.asarray(coarse.resize((NOISE_SIDE,) * 2, Image.Resampling.BICUBIC))
        # Replaces noise values by ranks, so that all grey values are equally frequent.
        ranks = np.empty(total.size, dtype=np.float32)
        ranks[np.argsort(total, axis=None)] = np.linspace(0, 255, total.size)
        bank.append(Image.fromarray(ranks.reshape(total.shape).astype(np.uint8)))
    return bank
