"""The J&F measure of video object segmentation: overlap of regions and closeness of outlines.

As computed by the official ``sav_dataset/sav_evaluator.py``, which follows DAVIS 2017. All values are in [0, 1].
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sam2fast.evaluation.bits import WORD, Bits, blank, boundary, count, dilated, pack

TOLERANCE = 0.008  # of the picture's diagonal


@dataclass(frozen=True)
class JAndF:
    """Measures of O objects, of one video or more; NaN for an object that the truth never shows."""

    j: NDArray[np.float64]  # (O,) region similarity, the mean over frames
    f: NDArray[np.float64]  # (O,) boundary measure, the mean over frames

    @property
    def per_object(self) -> NDArray[np.float64]:
        """J&F ``(O,)``: the mean of both."""
        return (self.j + self.f) / 2

    @property
    def mean_j(self) -> float:
        """J over the objects that were measured; NaN if there are none."""
        return _mean(self.j)

    @property
    def mean_f(self) -> float:
        """F over the objects that were measured; NaN if there are none."""
        return _mean(self.f)

    @property
    def mean(self) -> float:
        """J&F over the objects that were measured; NaN if there are none."""
        return (self.mean_j + self.mean_f) / 2

    @classmethod
    def of_videos(cls, videos: Sequence["JAndF"]) -> "JAndF":
        """All objects of several videos in one row: the global measures are means over objects, not over videos."""
        return cls(np.concatenate([[], *(v.j for v in videos)]), np.concatenate([[], *(v.f for v in videos)]))


def j_and_f(
    preds: ArrayLike, truths: ArrayLike, skip_first_and_last: bool = True, tolerance: float = TOLERANCE
) -> JAndF:
    """J and F of the objects of a video.

    An object is measured from the first frame on where the truth or the prediction shows it.

    Args:
        preds, truths: bool ``(T, O, H, W)`` masks of the annotated frames.
        skip_first_and_last: leaves out the first frame, which is given to the tracker, and the last, as DAVIS does.

    Raises:
        ValueError: masks of other shapes or types.
    """
    pred, truth = _pair(preds, truths)
    if pred.ndim != 4:
        raise ValueError(f"masks must be (T, O, H, W), got {pred.shape}")
    if skip_first_and_last:
        pred, truth = pred[1:-1], truth[1:-1]
    T, O = pred.shape[:2]  # noqa: E741
    in_truth = truth.any(axis=(-2, -1))
    seen = np.logical_or.accumulate(in_truth | pred.any(axis=(-2, -1)), axis=0)
    j, f = np.full((T, O), np.nan), np.full((T, O), np.nan)
    measured = seen & in_truth.any(axis=0)
    for t, o in np.argwhere(measured):
        j[t, o] = _jaccard(pred[t, o], truth[t, o])
        f[t, o] = _boundary_f(pred[t, o], truth[t, o], tolerance)
    return JAndF(_mean_of_frames(j, measured), _mean_of_frames(f, measured))


def jaccard(pred: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Region similarity J: intersection over union of bool masks ``(..., H, W)``; 1 where both are empty.

    Raises:
        ValueError: masks of other types, or of different shapes.
    """
    preds, truths = _pair(pred, truth)
    out = [_jaccard(p, t) for p, t in zip(_flat(preds), _flat(truths), strict=True)]
    return np.array(out, dtype=np.float64).reshape(preds.shape[:-2])


def boundary_f(pred: ArrayLike, truth: ArrayLike, tolerance: float = TOLERANCE) -> NDArray[np.float64]:
    """Boundary measure F of bool masks ``(..., H, W)``; 1 where neither has a boundary.

    It is the harmonic mean of the share of the prediction's boundary that is close to the truth's, and the reverse.
    Close is within ``ceil(tolerance * diagonal)`` pixels.

    Raises:
        ValueError: masks of other types, or of different shapes.
    """
    preds, truths = _pair(pred, truth)
    out = [_boundary_f(p, t, tolerance) for p, t in zip(_flat(preds), _flat(truths), strict=True)]
    return np.array(out, dtype=np.float64).reshape(preds.shape[:-2])


def _pair(pred: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    preds, truths = np.asarray(pred), np.asarray(truth)
    if preds.shape != truths.shape or preds.ndim < 2:
        raise ValueError(f"masks must be (..., H, W) of one shape, got {preds.shape} and {truths.shape}")
    if preds.dtype != np.bool_ or truths.dtype != np.bool_:
        raise ValueError(f"masks must be bool, got {preds.dtype} and {truths.dtype}: threshold them first")
    return preds, truths


def _flat(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return masks.reshape(math.prod(masks.shape[:-2]), *masks.shape[-2:])


def _jaccard(pred: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    union = np.count_nonzero(pred | truth)
    return np.count_nonzero(pred & truth) / union if union else 1.0


def _boundary_f(pred: NDArray[np.bool_], truth: NDArray[np.bool_], tolerance: float) -> float:
    pair = blank((2, *pred.shape))
    pair[..., : pred.shape[1]] = pred, truth
    return compare_bits(pack(pair), (pred.shape[0], pred.shape[1]), tolerance)[1]


def compare_bits(pair: Bits, size: tuple[int, int], tolerance: float = TOLERANCE) -> tuple[float, float]:
    """J and F, as :func:`jaccard` and :func:`boundary_f`, of packed masks.

    Args:
        pair: ``(2, H, words)``, the prediction and the truth.
        size: (height, width) in pixels.
    """
    rows, words = _surroundings(pair[0] | pair[1])
    part = np.ascontiguousarray(pair[:, rows, words])
    union = count(part[0] | part[1])
    j = count(part[0] & part[1]) / union if union else 1.0
    return j, _f(boundary(part, size[1] - WORD * words.start), math.ceil(tolerance * math.hypot(*size)))


def _f(boundaries: Bits, radius: int) -> float:
    in_pred, in_truth = count(boundaries[0]), count(boundaries[1])
    if not in_pred or not in_truth:
        # Of precision and recall, one has nothing to count and is 1, the other is 0; or both are 1.
        return float(in_pred == in_truth)
    near_pred, near_truth = dilated(boundaries, radius)
    precision = count(boundaries[0] & near_truth) / in_pred
    recall = count(boundaries[1] & near_pred) / in_truth
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _surroundings(mask: Bits) -> tuple[slice, slice]:
    """Rows and words of the mask and one more on each side, where there is one: no boundary lies outside."""
    rows, words = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return _with_one_around(rows), _with_one_around(words)


def _with_one_around(places: NDArray[np.intp]) -> slice:
    return slice(max(int(places[0]) - 1, 0), int(places[-1]) + 2) if len(places) else slice(0, 1)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _mean_of_frames(values: NDArray[np.float64], measured: NDArray[np.bool_]) -> NDArray[np.float64]:
    """``(O,)`` from ``(T, O)``; NaN without a frame."""
    out = np.full(values.shape[1], np.nan)
    for o in np.flatnonzero(measured.any(axis=0)):
        out[o] = values[measured[:, o], o].mean()
    return out
