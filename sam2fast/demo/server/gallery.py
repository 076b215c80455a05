"""The first videos of a gallery: a real one from the package, and synthetic ones that are drawn."""

import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sam2fast.demo.bouncing_balls import draw_bouncing_balls
from sam2fast.demo.rolling_ball import draw_rolling_ball
from sam2fast.demo.scene import draw_scene
from sam2fast.demo.server.video_files import DemoVideoWriter
from sam2fast.io.atomic import atomic_path

_log = logging.getLogger(__name__)

RATE, FRAMES = 24, 96
BALL_RATE, BALL_FRAMES = 15, 60  # of the rolling ball, which takes longest to draw
MEDIA = Path(__file__).parents[1] / "media"
FLOWER = "00_flower.mp4"  # the first of the list
STILL_LIFE = "01_still_life.mp4"
WIDTH, HEIGHT = 480, 320  # of the still life
ZOOM = (1.0, 0.72)  # share of the scene that the camera sees, at the beginning and at the end


def begin_gallery(folder: Path, workspace: Path) -> None:
    """Adds the real video to a gallery that has no others, and draws the synthetic ones in a thread, in a few seconds.

    Args:
        folder, workspace: as for :func:`fill_gallery`.

    Raises:
        OSError: the real video cannot be copied.
    """
    if any(file.name != FLOWER for file in folder.rglob("*.mp4")):
        return
    _copy_flower(folder, workspace)

    def draw() -> None:
        try:
            _draw(folder, workspace)
        except OSError as error:
            _log.warning("the gallery's other videos cannot be drawn: %s", error)

    threading.Thread(target=draw, name="gallery", daemon=True).start()


def fill_gallery(folder: Path, workspace: Path) -> None:
    """Adds missing videos to a folder. ``workspace`` is on its file system, for unfinished files."""
    _copy_flower(folder, workspace)
    _draw(folder, workspace)


def _copy_flower(folder: Path, workspace: Path) -> None:
    target = folder / FLOWER
    if not target.exists():
        with atomic_path(target, workspace) as partial:
            shutil.copyfile(MEDIA / "flower.mp4", partial)


def _draw(folder: Path, workspace: Path) -> None:
    videos: dict[str, tuple[Callable[[], Iterable[NDArray[np.uint8]]], int]] = {
        STILL_LIFE: (still_life, RATE),
        "02_rolling_ball.mp4": (lambda: draw_rolling_ball(BALL_FRAMES).frames, BALL_RATE),
        "03_bouncing_balls.mp4": (lambda: draw_bouncing_balls(3 * FRAMES // 4), RATE),
    }
    with TemporaryDirectory(dir=workspace) as unfinished:
        missing = [name for name in videos if not (folder / name).exists()]
        for name in missing:
            draw, rate = videos[name]
            frames = list(draw())
            height, width = frames[0].shape[:2]
            with DemoVideoWriter(Path(unfinished) / name, height, width, Fraction(rate)) as video:
                for image in frames:
                    video.add(image)
        for name in missing:
            os.replace(Path(unfinished) / name, folder / name)


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
