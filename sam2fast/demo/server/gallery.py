"""Synthetic videos of the gallery, so that a new server has something to show without a network."""

import os
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam2fast.demo.scene import draw_scene
from sam2fast.demo.server.video_files import DemoVideoWriter
from sam2fast.training.data.synthetic import SyntheticClips

RATE, FRAMES = 24, 96
STILL_LIFE = "01_still_life.mp4"
WIDTH, HEIGHT = 480, 320  # of the still life
ZOOM = (1.0, 0.72)  # share of the scene that the camera sees, at the beginning and at the end
# Synthetic clips whose labelled objects all stay visible: name, number of objects, seed, index.
SIDE, CLIPS = 320, (("02_stone.mp4", 2, 1, 8), ("03_gathering.mp4", 3, 2, 6))


def draw_gallery(folder: Path, workspace: Path) -> None:
    """Draws the missing videos, a second or two each; they appear together when all are finished.

    Args:
        folder: the gallery's folder.
        workspace: a folder on the same file system for unfinished files.
    """
    videos: dict[str, Callable[[], Iterable[NDArray[np.uint8]]]]
    videos = {STILL_LIFE: still_life, **{name: partial(_clip, *clip) for name, *clip in CLIPS}}
    with TemporaryDirectory(dir=workspace) as unfinished:
        missing = [name for name in videos if not (folder / name).exists()]
        for name in missing:
            _write(Path(unfinished) / name, videos[name]())
        for name in missing:
            os.replace(Path(unfinished) / name, folder / name)


def _write(file: Path, images: Iterable[NDArray[np.uint8]]) -> None:
    frames = list(images)
    height, width = frames[0].shape[:2]
    with DemoVideoWriter(file, height, width, Fraction(RATE)) as video:
        for image in frames:
            video.add(image)


def _clip(objects: int, seed: int, index: int) -> Iterable[NDArray[np.uint8]]:
    source = SyntheticClips(SIDE, FRAMES, max_objects=objects, length=50, motion=0.5, seed=seed)
    return source.sample(index, np.random.default_rng([seed, index])).frames


def still_life() -> Iterator[NDArray[np.uint8]]:
    """Frames ``(HEIGHT, WIDTH, 3)`` of a camera that sways over a still life and zooms in."""
    scene = draw_scene()
    for frame in range(FRAMES):
        progress = frame / (FRAMES - 1)
        share = ZOOM[0] + (ZOOM[1] - ZOOM[0]) * progress
        width, height = scene.width * share, scene.height * share
        x = (scene.width - width) * (0.5 + 0.4 * np.sin(2 * np.pi * progress))
        y = (scene.height - height) * 0.7
        seen = scene.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS, box=(x, y, x + width, y + height))
        yield np.asarray(seen)
