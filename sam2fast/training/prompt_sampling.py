"""Samples prompts from ground-truth masks: prompted frames, boxes, clicks and correction clicks.

All random numbers come from NumPy generators on the CPU, so that a seed gives the same prompts on every device.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sam2fast.evaluation.noisy_boxes import noisy_boxes

BOX_LABELS = (2, 3)  # labels of the upper left and the lower right corner
Prompt = dict[str, Tensor]  # point_coords (O, P, 2) in pixels, point_labels (O, P) int32


class ObjectGenerators:
    """Random generators, one per clip. Objects of a clip draw random numbers in order from the clip's generator."""

    def __init__(self, seeds: Sequence[int], video: Tensor) -> None:
        self._generators = [np.random.default_rng(seed) for seed in seeds]
        self._video: list[int] = video.tolist()

    def uniform(self, count: int, device: torch.device) -> Tensor:
        """Returns uniform random numbers ``(O, count)`` in [0, 1) in fp64, or in fp32 on MPS."""
        rows = torch.from_numpy(np.stack([self._generators[v].random(count) for v in self._video]))
        return rows.to(device, torch.float32 if device.type == "mps" else torch.float64)


def sample_box(masks: Tensor, uniform: Tensor, noise: float = 0.1, noise_bound: float = 20.0) -> Prompt:
    """Samples noisy boxes around ``masks (O, 1, S, S)``.

    ``noise`` is relative to box sides, ``noise_bound`` is in pixels.

    Args:
        uniform: random numbers ``(O, 4)`` in [0, 1), four per box.

    Source: ``sam2.modeling.sam2_utils.sample_box_points``.
    """
    boxes = noisy_boxes(masks, uniform, noise, noise_bound)
    labels = torch.tensor(BOX_LABELS, dtype=torch.int32, device=masks.device).repeat(len(masks), 1)
    return {"point_coords": boxes.reshape(-1, 2, 2), "point_labels": labels}


def sample_error_point(truth: Tensor, predicted: Tensor | None, uniform: Tensor) -> Prompt:
    """Samples one click per object, uniformly over wrong pixels. If no pixel is wrong, samples a background pixel.

    Args:
        truth: ground-truth bool masks ``(O, 1, S, S)``.
        predicted: predicted bool masks ``(O, 1, S, S)``; None for empty masks.
        uniform: random numbers ``(O, 1)`` in [0, 1), one per object.

    Source: ``sam2.modeling.sam2_utils.sample_random_points_from_errors``.
    """
    wrong = truth if predicted is None else truth ^ predicted
    wrong = wrong | (~truth & ~wrong.flatten(1).any(dim=1)[:, None, None, None])
    rank = wrong.flatten(1).cumsum(dim=1, dtype=torch.int32)  # (O, S * S): number of wrong pixels up to each pixel
    count = rank[:, -1:]
    # The first pixel with rank k + 1 is wrong pixel k. If no pixel is wrong, because a mask that covers the frame is
    # predicted correctly, pixel 0 is clicked.
    k = (uniform * count).long().clamp(max=(count - 1).clamp(min=0))
    index = torch.searchsorted(rank, (k + 1).to(torch.int32)).clamp(max=rank.shape[1] - 1)
    index = torch.where(count > 0, index, 0)
    return _click(index, truth)


def sample_error_center(truth: Tensor, predicted: Tensor | None, padding: bool = True) -> Prompt:
    """Returns one click per object, at the wrong pixel farthest from the edge of its region of errors. Requires scipy.

    Args:
        truth, predicted: see :func:`sample_error_point`.
        padding: if True, pixels outside the frame count as pixels outside a region.

    Source: ``sam2.modeling.sam2_utils.sample_one_point_from_error_center``.
    """
    missed = truth if predicted is None else truth & ~predicted
    false = torch.zeros_like(truth) if predicted is None else predicted & ~truth
    points, labels = [], []
    for missed_one, false_one in zip(missed[:, 0].cpu().numpy(), false[:, 0].cpu().numpy(), strict=True):
        inside, outside = _depth(missed_one, padding), _depth(false_one, padding)
        positive = inside.max() > outside.max()
        labels.append(int(positive))
        points.append(int((inside if positive else outside).argmax()))
    point_labels = torch.tensor(labels, dtype=torch.int32, device=truth.device)[:, None]
    return {**_click(torch.tensor(points, device=truth.device)[:, None], truth), "point_labels": point_labels}


def _depth(region: np.ndarray, padding: bool) -> np.ndarray:
    """Returns the distance ``(H, W)`` from each pixel of ``region`` to the nearest pixel outside ``region``."""
    try:
        from scipy.ndimage import distance_transform_edt
    except ImportError as error:
        raise ImportError("clicks at centres need scipy: pip install 'sam2fast[train]'") from error
    if padding:
        return distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    # If ``region`` covers the frame and ``padding`` is False, all distances are infinite.
    return np.full(region.shape, np.inf) if region.all() else distance_transform_edt(region)


def next_click(method: str, truth: Tensor, predicted: Tensor | None, generators: ObjectGenerators) -> Prompt:
    """Samples a click with :func:`sample_error_point` (``uniform``) or :func:`sample_error_center` (``center``).

    Source: ``sam2.modeling.sam2_utils.get_next_point``.
    """
    if method == "uniform":
        return sample_error_point(truth, predicted, generators.uniform(1, truth.device))
    return sample_error_center(truth, predicted)


def add_click(prompt: Prompt | None, click: Prompt) -> Prompt:
    """Returns ``prompt`` with ``click`` appended."""
    if prompt is None:
        return click
    return {name: torch.cat([prompt[name], click[name]], dim=1) for name in ("point_coords", "point_labels")}


def _click(index: Tensor, truth: Tensor) -> Prompt:
    """Returns clicks at flat pixel indices ``index (O, 1)``. Clicks on pixels of the object are positive."""
    width = truth.shape[-1]
    coords = torch.stack([index % width, index // width], dim=-1).float()
    return {"point_coords": coords, "point_labels": truth.flatten(1).gather(1, index).to(torch.int32)}


@dataclass(frozen=True)
class PromptSettings:
    """Settings of prompt sampling. Field names are official arguments without ``_for_train`` or ``_for_eval``."""

    prob_to_use_pt_input: float = 0.0
    prob_to_use_box_input: float = 0.0
    num_frames_to_correct: int = 1
    rand_frames_to_correct: bool = False
    num_init_cond_frames: int = 1
    rand_init_cond_frames: bool = False

    def __post_init__(self) -> None:
        if self.num_init_cond_frames < 1:
            raise ValueError(f"num_init_cond_frames must be at least 1, got {self.num_init_cond_frames}")
        if self.prob_to_use_pt_input > 0 and self.num_frames_to_correct < self.num_init_cond_frames:
            raise ValueError(
                f"num_frames_to_correct ({self.num_frames_to_correct}) must not be less than num_init_cond_frames "
                f"({self.num_init_cond_frames}) if points are used"
            )


class PromptPlan(NamedTuple):
    """Frames on which objects of a batch get prompts. All clips of a batch have the same prompt plan."""

    use_points: bool  # True for clicks or boxes on initial frames, False for masks
    initial: list[int]  # frame numbers prompted before tracking, starting with frame 0
    boxes: list[bool]  # True for a box, False for a click, for each initial frame
    corrected: list[int]  # numbers of frames that get correction clicks

    def order(self, num_frames: int) -> list[int]:
        """Returns the frame numbers in processing order: first the initial frames, then all other frames."""
        return [*self.initial, *(t for t in range(num_frames) if t not in self.initial)]


def plan_prompts(num_frames: int, settings: PromptSettings, rng: np.random.Generator) -> PromptPlan:
    """Draws a prompt plan for clips of ``num_frames`` frames.

    Clips with one frame always get a click or box and corrections.

    Source: ``training.model.sam2.SAM2Train.prepare_prompt_inputs``. Random numbers are drawn in the official order.
    """
    prob_points, corrected_count = settings.prob_to_use_pt_input, settings.num_frames_to_correct
    initial_count = settings.num_init_cond_frames
    if num_frames == 1:
        prob_points, corrected_count, initial_count = 1.0, 1, 1
    if initial_count > num_frames or (prob_points > 0 and corrected_count > num_frames):
        raise ValueError(
            f"clips of {num_frames} frames cannot have {initial_count} initial and {corrected_count} corrected frames"
        )

    use_points = bool(rng.random() < prob_points)
    if settings.rand_init_cond_frames and initial_count > 1:
        initial_count = int(rng.integers(1, initial_count, endpoint=True))
    if use_points and settings.rand_frames_to_correct and corrected_count > initial_count:
        corrected_count = int(rng.integers(initial_count, corrected_count, endpoint=True))

    initial = [0]
    if initial_count > 1:
        initial += rng.choice(range(1, num_frames), initial_count - 1, replace=False).tolist()
    boxes = [bool(rng.random() < settings.prob_to_use_box_input) if use_points else False for _ in initial]

    corrected = list(initial) if use_points else []
    if use_points and corrected_count > initial_count:
        others = [t for t in range(num_frames) if t not in initial]
        corrected += rng.choice(others, corrected_count - initial_count, replace=False).tolist()
    return PromptPlan(use_points, initial, boxes, corrected)
