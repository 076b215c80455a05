"""Prompts as a user would give them, drawn from true masks: a click, a noisy box, a click where the mask is wrong.

Everything random is drawn from NumPy generators on the CPU, so that one seed gives the same prompts on every device.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sam2fast.prompt_inputs import noisy_boxes

BOX_LABELS = (2, 3)  # of the corners at the top left and the bottom right
Prompt = dict[str, Tensor]  # point_coords (O, P, 2) in pixels, point_labels (O, P) int32


class ObjectGenerators:
    """One generator for each of O objects' clips, shared by the objects of one clip in their order."""

    def __init__(self, seeds: Sequence[int], video: Tensor) -> None:
        self._generators = [np.random.default_rng(seed) for seed in seeds]
        self._video: list[int] = video.tolist()

    def uniform(self, count: int, device: torch.device) -> Tensor:
        """``(O, count)`` draws in [0, 1); fp64 where the device has it."""
        rows = torch.from_numpy(np.stack([self._generators[v].random(count) for v in self._video]))
        return rows.to(device, torch.float32 if device.type == "mps" else torch.float64)


def sample_box(masks: Tensor, uniform: Tensor, noise: float = 0.1, noise_bound: float = 20.0) -> Prompt:
    """Boxes of ``masks (O, 1, S, S)``, each side moved by up to ``noise`` of its length and ``noise_bound`` pixels.

    Args:
        uniform: ``(O, 4)`` draws in [0, 1).

    Source: ``sam2.modeling.sam2_utils.sample_box_points``.
    """
    boxes = noisy_boxes(masks, uniform, noise, noise_bound)
    labels = torch.tensor(BOX_LABELS, dtype=torch.int32, device=masks.device).repeat(len(masks), 1)
    return {"point_coords": boxes.reshape(-1, 2, 2), "point_labels": labels}


def sample_error_point(truth: Tensor, predicted: Tensor | None, uniform: Tensor) -> Prompt:
    """One click per object, anywhere its mask is wrong with equal probability; on the background if nothing is wrong.

    Args:
        truth: ``(O, 1, S, S)`` bool.
        predicted: the same; none for an empty prediction.
        uniform: ``(O, 1)`` draws in [0, 1).

    Source: ``sam2.modeling.sam2_utils.sample_random_points_from_errors``.
    """
    wrong = truth if predicted is None else truth ^ predicted
    wrong = wrong | (~truth & ~wrong.flatten(1).any(dim=1)[:, None, None, None])
    rank = wrong.flatten(1).cumsum(dim=1, dtype=torch.int32)  # (O, S * S): how many up to each pixel
    count = rank[:, -1:]
    # The k-th wrong pixel is the first with a rank of k + 1; a full and rightly predicted frame has none, and gets 0.
    k = (uniform * count).long().clamp(max=(count - 1).clamp(min=0))
    index = torch.searchsorted(rank, (k + 1).to(torch.int32)).clamp(max=rank.shape[1] - 1)
    index = torch.where(count > 0, index, 0)
    return _click(index, truth)


def sample_error_center(truth: Tensor, predicted: Tensor | None, padding: bool = True) -> Prompt:
    """One click per object, at the point of its wrong regions that is farthest from their outline.

    Arguments are those of :func:`sample_error_point`, and:

    Args:
        padding: the frame's edge counts as outline.

    Source: ``sam2.modeling.sam2_utils.sample_one_point_from_error_center``.

    Raises:
        ImportError: the package scipy is not installed.
    """
    missed = truth if predicted is None else truth & ~predicted
    false = torch.zeros_like(truth) if predicted is None else predicted & ~truth
    points, labels = [], []
    for missed_one, false_one in zip(missed[:, 0].cpu().numpy(), false[:, 0].cpu().numpy(), strict=True):
        inside, outside = _depth(missed_one, padding), _depth(false_one, padding)
        positive = inside.max() > outside.max()
        labels.append(int(positive))
        points.append(int((inside if positive else outside).argmax()))
    index = torch.tensor(points, device=truth.device)[:, None]
    coords = torch.stack([index % truth.shape[-1], index // truth.shape[-1]], dim=-1).float()
    return {
        "point_coords": coords,
        "point_labels": torch.tensor(labels, dtype=torch.int32, device=truth.device)[:, None],
    }


def _depth(region: np.ndarray, padding: bool) -> np.ndarray:
    """Distance ``(H, W)`` of each pixel of ``region`` to the nearest outside it; with padding, that may lie beyond."""
    try:
        from scipy.ndimage import distance_transform_edt
    except ImportError as error:
        raise ImportError("clicks at centres need scipy: pip install 'sam2fast[train]'") from error
    if padding:
        return distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    # Where there is no outside, all are equally far.
    return np.full(region.shape, np.inf) if region.all() else distance_transform_edt(region)


def next_click(method: str, truth: Tensor, predicted: Tensor | None, generators: ObjectGenerators) -> Prompt:
    """A click by :func:`sample_error_point` (``uniform``) or :func:`sample_error_center` (``center``).

    Source: ``sam2.modeling.sam2_utils.get_next_point``.

    Raises:
        ValueError: another method.
    """
    if method == "uniform":
        return sample_error_point(truth, predicted, generators.uniform(1, truth.device))
    if method == "center":
        return sample_error_center(truth, predicted)
    raise ValueError(f"unknown point sampling {method!r}; expected 'uniform' or 'center'")


def add_click(prompt: Prompt | None, click: Prompt) -> Prompt:
    """The prompt with one more click at its end."""
    if prompt is None:
        return click
    return {name: torch.cat([prompt[name], click[name]], dim=1) for name in ("point_coords", "point_labels")}


def _click(index: Tensor, truth: Tensor) -> Prompt:
    """A click at pixel ``index (O, 1)``, positive where the object is."""
    width = truth.shape[-1]
    coords = torch.stack([index % width, index // width], dim=-1).float()
    return {"point_coords": coords, "point_labels": truth.flatten(1).gather(1, index).to(torch.int32)}
