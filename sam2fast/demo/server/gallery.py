"""The gallery's films, drawn here, so that there is something to click on without a network."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam2fast.demo.scene import draw_scene
from sam2fast.demo.server.film_writer import FilmWriter
from sam2fast.training.data.synthetic import SyntheticClips

RATE, FRAMES = 24, 96
STILL_LIFE = "01_still_life.mp4"
WIDTH, HEIGHT = 480, 320  # of the still life
ZOOM = (1.0, 0.72)  # share of the picture that the camera sees, at first and in the end
# Clips of the synthetic factory in which everything that is labelled stays in view: name, objects, seed, which clip.
SIDE, CLIPS = 320, (("02_stone.mp4", 2, 1, 8), ("03_gathering.mp4", 3, 2, 6))


def draw_gallery(folder: Path) -> None:
    """Draws the films that are not there; a second or two each."""
    if not (folder / STILL_LIFE).exists():
        with FilmWriter(folder / STILL_LIFE, HEIGHT, WIDTH, Fraction(RATE)) as film:
            for picture in still_life():
                film.add(picture)
    for name, objects, seed, index in CLIPS:
        if not (folder / name).exists():
            source = SyntheticClips(SIDE, FRAMES, max_objects=objects, length=50, motion=0.5, seed=seed)
            clip = source.sample(index, np.random.default_rng([seed, index]))
            with FilmWriter(folder / name, SIDE, SIDE, Fraction(RATE)) as film:
                for picture in clip.frames:
                    film.add(picture)


def still_life() -> Iterator[NDArray[np.uint8]]:
    """Frames ``(HEIGHT, WIDTH, 3)`` of a camera that sways over a drawn table and comes nearer."""
    scene = draw_scene()
    for frame in range(FRAMES):
        progress = frame / (FRAMES - 1)
        share = ZOOM[0] + (ZOOM[1] - ZOOM[0]) * progress
        width, height = scene.width * share, scene.height * share
        x = (scene.width - width) * (0.5 + 0.4 * np.sin(2 * np.pi * progress))
        y = (scene.height - height) * 0.7
        seen = scene.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS, box=(x, y, x + width, y + height))
        yield np.asarray(seen)
