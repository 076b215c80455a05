"""Prompts and sessions that SAM 2's relatives are compared with: one object, or all prompted on the same frames."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from moving_shapes import jpeg_folder
from PIL import Image

from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.utils.testing import relative_error

TOLERANCE = 1e-4
FRAMES = 9  # all 7 memories are in use on the last frame
CLICKS, LABELS = np.array([[140, 110], [30.5, 40], [150, 128.25]], np.float32), np.array([1, 0, 1], np.int32)
BOX = np.array([20, 100, 120, 240], np.float32)

# For models of 512 pixels.
PROMPTS = {
    "one click": {"point_coords": CLICKS[:1], "point_labels": LABELS[:1]},
    "clicks": {"point_coords": CLICKS, "point_labels": LABELS},
    "box": {"box": BOX},
    "mask": {"mask_input": np.random.default_rng(2).standard_normal((1, 128, 128)).astype(np.float32)},
}


def clip(frames: int = FRAMES) -> list[np.ndarray]:
    """A disc that moves over a drifting smooth random image, as ``(240, 320, 3)`` uint8."""
    coarse = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize((480, 480), Image.Resampling.BICUBIC))
    y, x = np.mgrid[:240, :320]
    images = []
    for t in range(frames):
        frame = image[3 * t : 3 * t + 240, 5 * t : 5 * t + 320].copy()
        frame[np.hypot(x - 140 - 4 * t, y - 115 + 3 * t) < 40] = (220, 60, 40)
        images.append(frame)
    return images


def write_clip(folder: Path, frames: int = FRAMES) -> Path:
    """Writes the clip as JPEG files."""
    return jpeg_folder(folder, clip(frames))


def one_click(predictor: Any, state: Any) -> Iterator[tuple[Any, ...]]:
    yield predictor.add_new_points_or_box(state, 0, 1, points=CLICKS[:1], labels=LABELS[:1])
    yield from predictor.propagate_in_video(state)


def a_mask(predictor: Any, state: Any) -> Iterator[tuple[Any, ...]]:
    yield predictor.add_new_mask(state, 0, 1, np.hypot(*np.mgrid[-115:125, -140:180]) < 40)
    yield from predictor.propagate_in_video(state)


def two_frames(predictor: Any, state: Any) -> Iterator[tuple[Any, ...]]:
    yield predictor.add_new_points_or_box(state, 0, 1, points=CLICKS, labels=LABELS)
    yield predictor.add_new_points_or_box(state, 5, 1, points=CLICKS[:1], labels=LABELS[:1])
    yield from predictor.propagate_in_video(state)


def two_objects(predictor: Any, state: Any) -> Iterator[tuple[Any, ...]]:
    yield predictor.add_new_points_or_box(state, 4, 1, points=CLICKS, labels=LABELS)
    yield predictor.add_new_points_or_box(state, 4, 2, box=BOX)
    yield from predictor.propagate_in_video(state)
    yield from predictor.propagate_in_video(state, reverse=True)


SCENARIOS = [one_click, a_mask, two_frames, two_objects]


def compare_images(ours: SAM2ImagePredictor, theirs: Any, prompt: dict[str, np.ndarray], multimask: bool) -> None:
    """Masks, scores and low-resolution logits of the clip's first frame."""
    for predictor in (ours, theirs):
        predictor.set_image(clip(1)[0])
    results = [p.predict(**prompt, multimask_output=multimask, return_logits=True) for p in (ours, theirs)]
    for actual, expected in zip(*results, strict=True):
        assert relative_error(torch.from_numpy(expected), torch.from_numpy(actual)) <= TOLERANCE


def compare_videos(ours: Any, theirs: Any, video: Path, scenario: Any, frames: int = FRAMES) -> None:
    """Masks of every frame; no object may be absent."""
    runs = []
    for predictor in (ours, theirs):
        predictor.fill_hole_area = 0
        runs.append(list(scenario(predictor, predictor.init_state(str(video)))))
    assert len(runs[0]) == len(runs[1]) >= frames
    for actual, expected in zip(*runs, strict=True):
        assert actual[0] == expected[0] and list(actual[1]) == list(expected[1])
        assert relative_error(expected[2], actual[2]) <= TOLERANCE
    assert min(float((expected[2] > 0).float().mean()) for expected in runs[1]) > 0
