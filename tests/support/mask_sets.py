"""Random folders of true and predicted masks in the layouts of DAVIS and SA-V."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam2fast.io.label_maps import label_png

FRAMES = 9


def draw_labels(rng: np.random.Generator, size: tuple[int, int], ids: list[int], frames: int = FRAMES) -> np.ndarray:
    """Label maps ``(T, H, W)`` of boxes that wander, with ragged edges; later ids lie above earlier ones."""
    height, width = size
    out = np.zeros((frames, height, width), dtype=np.uint8)
    for i in ids:
        box = np.array([rng.integers(0, height // 2), rng.integers(0, width // 2)])
        extent = np.array([rng.integers(4, height // 2 + 4), rng.integers(4, width // 2 + 4)])
        for labels in out:
            box += rng.integers(-3, 4, 2)
            mask = np.zeros((height, width), dtype=bool)
            mask[max(box[0], 0) : max(box[0] + extent[0], 0), max(box[1], 0) : max(box[1] + extent[1], 0)] = True
            labels[mask & (rng.random(mask.shape) < 0.98)] = i
    return out


def predicted(rng: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    """The truth, shifted by a few pixels."""
    return np.stack([np.roll(labels, rng.integers(-2, 3, 2), axis=(0, 1)) for labels in truth])


def hard_case(seed: int = 0, size: tuple[int, int] = (48, 83)) -> tuple[np.ndarray, np.ndarray]:
    """A prediction and a truth in which objects come late, leave, are missed, and are invented."""
    rng = np.random.default_rng([seed, *size])
    truth = draw_labels(rng, size, [1, 2, 3, 4, 200])
    pred = predicted(rng, truth)
    truth[:3][truth[:3] == 2] = 0  # comes in frame 3, and is predicted from frame 2 on
    pred[:2][pred[:2] == 2] = 0
    truth[5:][truth[5:] == 3] = 0  # leaves, and is predicted until frame 6
    pred[7:][pred[7:] == 3] = 0
    truth[1:-1][truth[1:-1] == 4] = 0  # is there in the first and the last frame alone
    pred[4] = 0  # nothing at all
    pred[6, :5, :5], pred[7, 10:15, 10:20] = 7, 90  # there is no such thing
    return pred, truth


def write_davis(folder: Path, labels: np.ndarray) -> None:
    """A video: a PNG with all objects for each frame."""
    folder.mkdir(parents=True)
    for t, image in enumerate(labels):
        (folder / f"{t:05d}.png").write_bytes(label_png(image))


def write_sav(folder: Path, labels: np.ndarray, ids: list[int], value: int = 1) -> None:
    """A video: a folder for each object, a PNG for each annotated frame, here every fourth of the video."""
    for i in ids:
        (folder / f"{i:03d}").mkdir(parents=True)
        for t, image in enumerate(labels):
            (folder / f"{i:03d}" / f"{4 * t:05d}.png").write_bytes(label_png((image == i).astype(np.uint8) * value))


def write_sets(root: Path, layout: str) -> tuple[Path, Path]:
    """Truth and prediction of three videos of different sizes, with four objects, three and four."""
    truth, pred = root / "truth", root / "pred"
    for seed, size in enumerate([(48, 83), (50, 64), (33, 130)]):
        a, b = hard_case(seed, size)
        ids = [1, 2, 3, 200] if seed != 1 else [1, 2, 3]
        if seed == 1:
            a[a == 200], b[b == 200] = 0, 0
        if layout == "davis":
            write_davis(pred / f"video{seed}", a)
            write_davis(truth / f"video{seed}", b)
        else:
            # The object that only the first and the last frame show would be refused.
            write_sav(pred / f"video{seed}", a, ids)
            write_sav(truth / f"video{seed}", b, ids, value=255)
    return truth, pred


def cut(file: Path) -> None:
    """Leaves the first half of a file."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def save_colours(file: Path) -> None:
    Image.open(file).convert("RGB").save(file)


def move_below(root: Path, name: str) -> None:
    """Puts all that is in a folder into one inside it."""
    inner = root.with_name("moved")
    root.rename(inner)
    root.mkdir()
    shutil.move(inner, root / name)


def end_the_process(*_: Any, **__: Any) -> None:
    """In the place of work: as if the process ran out of memory."""
    os._exit(1)
