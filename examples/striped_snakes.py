"""Images of striped snakes with their masks: a kind of object that nano was not made for, to fine-tune it on.

    python examples/striped_snakes.py FOLDER [--count 48] [--seed 0]

writes ``FOLDER/images/<number>.jpg`` and ``FOLDER/masks/<number>.png``, in which 0 is background and every other value
a snake. Snakes are bent, striped across, in two colours, and lie over surfaces and objects that are no snakes.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sam2fast.training.data.synthetic.scene import random_background
from sam2fast.training.data.synthetic.textures import random_colours

SIZE = (384, 288)  # (width, height)
MOST_SNAKES = 3
OVERSAMPLING = 2
STEPS = 160  # along a snake, at each of which it is a disc
# Of a snake, of which less than this share is seen, there is no mask.
LEAST_SEEN = 0.5
# How far apart the mean colours of the two kinds of stripes are at least, of 255 in the most different channel.
LEAST_CONTRAST = 70


def draw_image(rng: np.random.Generator) -> tuple[Image.Image, NDArray[np.uint8]]:
    """An RGB image, and its labels ``(H, W)``: 0 for the background, 1 to ``MOST_SNAKES`` for snakes."""
    image = random_background(rng, SIZE, None, 1.0)
    labels = np.zeros(SIZE[::-1], dtype=np.uint8)
    whole = []
    for label in range(1, int(rng.integers(1, MOST_SNAKES + 1)) + 1):
        surface, alpha = _draw_snake(rng)
        image.paste(surface, (0, 0), alpha)
        covered = np.asarray(alpha) > 127
        labels[covered] = label
        whole.append(covered.sum())
    for label, area in enumerate(whole, start=1):
        if (labels == label).sum() < LEAST_SEEN * area:
            labels[labels == label] = 0
    return image, labels


def write_images(folder: Path, count: int, seed: int) -> None:
    """``count`` images and their masks, the same ones for the same seed, whatever their number."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image, labels = draw_image(np.random.default_rng([seed, number]))
        image.save(folder / "images" / f"{number:03d}.jpg", quality=92)
        Image.fromarray(labels).save(folder / "masks" / f"{number:03d}.png")


def _draw_snake(rng: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """A snake's colours, RGB, and its alpha, both of the image's size."""
    width, height = (OVERSAMPLING * side for side in SIZE)
    length, thickness = rng.uniform(0.7, 1.3) * height, rng.uniform(0.045, 0.085) * height
    spine = _spine(rng, length, margin=thickness)
    along = np.linspace(0, 1, STEPS)
    radii = thickness * np.minimum(1, 0.25 + 2.5 * np.minimum(along, 1.4 - along))
    stripes = np.floor(along * length / (thickness * rng.uniform(0.7, 1.6))).astype(int) % 2
    colours = _two_colours(rng)
    surface, alpha = Image.new("RGB", (width, height)), Image.new("L", (width, height))
    on_surface, on_alpha = ImageDraw.Draw(surface), ImageDraw.Draw(alpha)
    for (x, y), radius, stripe in zip(spine, radii, stripes, strict=True):
        disc = (x - radius, y - radius, x + radius, y + radius)
        on_surface.ellipse(disc, fill=colours[stripe])
        on_alpha.ellipse(disc, fill=255)
    return surface.reduce(OVERSAMPLING), alpha.reduce(OVERSAMPLING)


def _spine(rng: np.random.Generator, length: float, margin: float) -> NDArray[np.float64]:
    """Points ``(STEPS, 2)`` of a winding line, x and y, moved into the image as far as it fits."""
    along = np.linspace(0, 1, STEPS)
    windings = rng.uniform(0.7, 1.8)
    heading = rng.uniform(0, 7) + rng.uniform(0.6, 1.3) * np.sin(2 * np.pi * windings * along + rng.uniform(0, 7))
    heading = heading + rng.uniform(-1, 1) * along
    steps = np.stack([np.cos(heading), np.sin(heading)], axis=1) * length / STEPS
    spine = np.cumsum(steps, axis=0)
    low, high = spine.min(axis=0), spine.max(axis=0)
    free = np.array(SIZE) * OVERSAMPLING - (high - low) - 2 * margin
    return spine - low + margin + free * rng.random(2)


def _two_colours(rng: np.random.Generator) -> list[tuple[int, int, int]]:
    while True:
        colours = random_colours(rng, 2)
        if np.abs(colours[0] - colours[1]).max() >= LEAST_CONTRAST:
            first, second = (tuple(colour.astype(int).tolist()) for colour in colours)
            return [first, second]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write_images(args.folder, args.count, args.seed)


if __name__ == "__main__":
    main()
