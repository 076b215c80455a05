"""Draws coloured discs on a noisy grey background."""

import numpy as np

SIZE = 192, 256  # rows and columns of the images
RED, BLUE = (220, 30, 30), (30, 60, 220)


def disc(x: int, y: int, radius: int) -> np.ndarray:
    rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


def painted(*shapes: tuple[np.ndarray, tuple[int, int, int]]) -> np.ndarray:
    """Returns a grey image with masks in colours."""
    noise = np.random.default_rng(0).normal(0, 6, (*SIZE, 3))
    image = np.full((*SIZE, 3), 120.0)
    for mask, colour in shapes:
        image[mask] = colour
    return (image + noise).clip(0, 255).astype(np.uint8)
