"""A short video of two moving things, with the truth about both, and how a model tracks them."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.training.data.clip import Clip
from sam2fast.training.data.synthetic import SyntheticClips

FRAMES, SIZE = 40, 480
SEED = 94
ATTEMPTS = 200
# What makes a clip worth showing: areas as shares of the frame's, in the first and in every frame; the way as one of
# its side.
LEAST_FIRST_AREA, LEAST_AREA, LEAST_WAY = 0.02, 0.005, 0.1


class Task(NamedTuple):
    """What to track, as a user would say it in the first frame; pixels."""

    point: tuple[int, int]  # a click (x, y) on the first thing
    box: tuple[int, int, int, int]  # around the second thing, XYXY


def make_clip() -> Clip:
    """The synthetic factory's first clip that shows two things all the time, both on the move; always the same one.

    It is chosen by the truth alone: no model is asked what it can track.
    """
    source = SyntheticClips(SIZE, FRAMES, max_objects=2, length=ATTEMPTS, seed=SEED)
    clips = (source.sample(index, np.random.default_rng(SEED)) for index in range(ATTEMPTS))
    return next(clip for clip in clips if _is_worth_showing(clip.masks))


def _is_worth_showing(masks: NDArray[np.bool_]) -> bool:
    area = masks.mean(axis=(2, 3))  # (T, O)
    if area.shape[1] != 2 or area[0].min() < LEAST_FIRST_AREA or area.min() < LEAST_AREA:
        return False
    middles = np.array([[np.argwhere(mask).mean(axis=0) for mask in frame] for frame in masks])  # (T, O, 2)
    ways = np.linalg.norm(middles - middles[0], axis=2).max(axis=0)
    return bool(ways.min() >= LEAST_WAY * SIZE)


def task_of(clip: Clip) -> Task:
    """A click and a box for the two things in the clip's first frame."""
    first, second = clip.masks[0]
    rows, columns = np.nonzero(second)
    return Task(point_inside(first), (int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())))


def point_inside(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """A pixel (x, y) of ``mask (H, W)`` that is among the farthest from its edge, in steps along rows and columns."""
    deepest = inner = np.pad(mask, 1)
    while inner.any():
        deepest = inner
        inner = np.logical_and.reduce([deepest, *(np.roll(deepest, step, axis) for step in (-1, 1) for axis in (0, 1))])
    rows, columns = np.nonzero(deepest)
    middle = len(rows) // 2
    return int(columns[middle]) - 1, int(rows[middle]) - 1


def track(predictor: SAM2VideoPredictor, clip: Clip, task: Task) -> NDArray[np.bool_]:
    """The masks ``(T, 2, H, W)`` that a model finds for a task."""
    state = predictor.init_state(clip.frames)
    predictor.add_new_points_or_box(state, frame_idx=0, obj_id=1, points=[task.point], labels=[1])
    predictor.add_new_points_or_box(state, frame_idx=0, obj_id=2, box=task.box)
    found = np.zeros_like(clip.masks)
    for frame, _, logits in predictor.propagate_in_video(state, progress=_bar):
        found[frame] = (logits[:, 0] > 0).cpu().numpy()
    return found


def _bar(frames: Iterable[int]) -> Iterable[int]:
    return tqdm(frames, "frames", disable=None)  # None: only on a terminal
