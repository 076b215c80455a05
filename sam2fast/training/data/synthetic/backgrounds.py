"""What is behind everything: a photograph, or a drawn surface, room or clutter."""

import numpy as np
from PIL import Image

from sam2fast.training.data.synthetic.shapes import random_shape, rasterise
from sam2fast.training.data.synthetic.textures import Photograph, random_crop, random_texture


def random_background(
    rng: np.random.Generator, size: tuple[int, int], photograph: Photograph | None, procedural: float
) -> Image.Image:
    """An RGB picture of ``size`` (width, height).

    Args:
        photograph: draws photographs, where there are any.
        procedural: share of drawn ones where there are photographs.
    """
    if photograph is not None and rng.random() >= procedural:
        return random_crop(rng, photograph(rng), size)
    kind = rng.random()
    if kind < 0.4:
        return random_texture(rng, size)
    if kind < 0.7:
        return _room(rng, size)
    return _cluttered(rng, random_texture(rng, size), photograph)


def _room(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A wall, and a floor that recedes."""
    width, height = size
    picture, floor = random_texture(rng, size), random_texture(rng, size)
    horizon = round(height * rng.uniform(0.2, 0.7))
    depth = height - horizon
    # A point (x, y) below the horizon shows the floor's (x' / z, y' / z): z is 1 at the horizon, and at the lower edge
    # how much larger things look there.
    nearness = rng.uniform(2, 6)
    growth = (nearness - 1) / depth
    perspective = (1.0, width / 2 * growth, 0.0, 0.0, nearness * height / depth, 0.0, 0.0, growth)
    seen = floor.transform((width, depth), Image.Transform.PERSPECTIVE, perspective, Image.Resampling.BILINEAR)
    picture.paste(seen, (0, horizon))
    return picture


def _cluttered(rng: np.random.Generator, picture: Image.Image, photograph: Photograph | None) -> Image.Image:
    """Many shapes, of few surfaces."""
    surfaces = [random_texture(rng, picture.size, photograph=photograph) for _ in range(2)]
    longest = max(picture.size)
    for _ in range(rng.integers(4, 16)):
        alpha = rasterise(random_shape(rng), max(8, round(longest * rng.uniform(0.05, 0.3))))
        left, top = (round(rng.uniform(-0.1, 0.95) * side) for side in picture.size)
        surface = surfaces[rng.integers(2)]
        start = int(rng.integers(0, max(1, min(picture.size) - alpha.width)))
        piece = surface.crop((start, start, start + alpha.width, start + alpha.height))
        picture.paste(piece, (left, top), alpha)
    return picture
