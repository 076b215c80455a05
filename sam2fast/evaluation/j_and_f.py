"""J&F measure of video object segmentation: region similarity J and boundary accuracy F.

Computed as in the official ``sav_dataset/sav_evaluator.py``, which follows DAVIS 2017. All values are in [0, 1].
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sam2fast.datasets.dataset_files import DatasetError, Labels, labels_in, read_labels
from sam2fast.evaluation.bits import WORD, Bits, blank, boundary, count, dilated, pack

TOLERANCE = 0.008  # maximum distance of matching boundaries, as a fraction of the image's diagonal


@dataclass(frozen=True)
class JAndF:
    """Measures of O objects of one or several videos. Objects that the ground truth never shows have NaN."""

    j: NDArray[np.float64]  # (O,) region similarity, mean over frames
    f: NDArray[np.float64]  # (O,) boundary measure, mean over frames

    @property
    def per_object(self) -> NDArray[np.float64]:
        """Returns J&F ``(O,)``, the mean of J and F."""
        return (self.j + self.f) / 2

    @property
    def mean_j(self) -> float:
        """Returns the mean J over measured objects; NaN without measured objects."""
        return _mean(self.j)

    @property
    def mean_f(self) -> float:
        """Returns the mean F over measured objects; NaN without measured objects."""
        return _mean(self.f)

    @property
    def mean(self) -> float:
        """Returns the mean J&F over measured objects; NaN without measured objects."""
        return (self.mean_j + self.mean_f) / 2

    @classmethod
    def of_videos(cls, videos: Sequence["JAndF"]) -> "JAndF":
        """Concatenates the objects of several videos. Global measures are means over objects, not over videos."""
        return cls(np.concatenate([[], *(v.j for v in videos)]), np.concatenate([[], *(v.f for v in videos)]))


def j_and_f(
    preds: ArrayLike, truths: ArrayLike, skip_first_and_last: bool = True, tolerance: float = TOLERANCE
) -> JAndF:
    """Computes J and F of the objects of a video.

    An object is measured from the first frame on which ground truth or prediction show the object.

    Args:
        preds, truths: Bool masks ``(T, O, H, W)`` of the annotated frames. Void pixels must be False:
            ``preds & ~void``, ``truths & ~void``.
        skip_first_and_last: If True, excludes the first and last frame, like DAVIS. Masks of the first are prompts.

    Raises:
        ValueError: If the masks are not bool, or their shapes are wrong or differ.
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
    """Computes region similarity J ``(...)``, the IoU of bool masks ``(..., H, W)``. J of two empty masks is 1.

    Raises:
        ValueError: If the masks are not bool or have different shapes.
    """
    return _map_masks(_jaccard, pred, truth)


def boundary_f(pred: ArrayLike, truth: ArrayLike, tolerance: float = TOLERANCE) -> NDArray[np.float64]:
    """Computes the boundary measure F ``(...)`` of bool masks ``(..., H, W)``. F of masks without boundaries is 1.

    F is the harmonic mean of precision and recall. Precision is the fraction of the predicted boundary within
    ``ceil(tolerance * diagonal)`` pixels of the true boundary. Recall exchanges the two boundaries.

    Raises:
        ValueError: If the masks are not bool or have different shapes.
    """
    return _map_masks(partial(_boundary_f, tolerance=tolerance), pred, truth)


def _pair(pred: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    preds, truths = np.asarray(pred), np.asarray(truth)
    if preds.shape != truths.shape or preds.ndim < 2:
        raise ValueError(f"masks must be (..., H, W) of one shape, got {preds.shape} and {truths.shape}")
    if preds.dtype != np.bool_ or truths.dtype != np.bool_:
        raise ValueError(f"masks must be bool, got {preds.dtype} and {truths.dtype}: threshold them first")
    return preds, truths


def _map_masks(measure: Callable[..., float], pred: ArrayLike, truth: ArrayLike) -> NDArray[np.float64]:
    """Applies a measure to pairs of bool masks ``(..., H, W)``. Returns values ``(...)``."""
    pair = _pair(pred, truth)
    shape = pair[0].shape[:-2]
    preds, truths = (masks.reshape(math.prod(shape), *masks.shape[-2:]) for masks in pair)
    return np.array([measure(p, t) for p, t in zip(preds, truths, strict=True)], dtype=np.float64).reshape(shape)


def _jaccard(pred: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    union = np.count_nonzero(pred | truth)
    return np.count_nonzero(pred & truth) / union if union else 1.0


def _boundary_f(pred: NDArray[np.bool_], truth: NDArray[np.bool_], tolerance: float) -> float:
    pair = blank((2, *pred.shape))
    pair[..., : pred.shape[1]] = pred, truth
    return compare_bits(pack(pair), (pred.shape[0], pred.shape[1]), tolerance)[1]


def compare_bits(pair: Bits, size: tuple[int, int], tolerance: float = TOLERANCE) -> tuple[float, float]:
    """Computes J and F of packed masks ``(2, H, words)``, prediction and truth, of ``size`` (H, W) in pixels."""
    shown = pair[0] | pair[1]
    # The bounding box in rows and words, enlarged by one on each side, contains the boundary.
    rows, words = (_padded_slice(np.flatnonzero(shown.any(axis=axis))) for axis in (1, 0))
    part = np.ascontiguousarray(pair[:, rows, words])
    union = count(part[0] | part[1])
    j = count(part[0] & part[1]) / union if union else 1.0
    return j, _f(boundary(part, size[1] - WORD * words.start), math.ceil(tolerance * math.hypot(*size)))


def _f(boundaries: Bits, radius: int) -> float:
    in_pred, in_truth = count(boundaries[0]), count(boundaries[1])
    if not in_pred or not in_truth:
        # Precision or recall is 1 for an empty boundary. If only one boundary is empty, the other value is 0.
        return float(in_pred == in_truth)
    near_pred, near_truth = dilated(boundaries, radius)
    precision = count(boundaries[0] & near_truth) / in_pred
    recall = count(boundaries[1] & near_pred) / in_truth
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _padded_slice(places: NDArray[np.intp]) -> slice:
    return slice(max(int(places[0]) - 1, 0), int(places[-1]) + 2) if len(places) else slice(0, 1)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _mean_of_frames(values: NDArray[np.float64], measured: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Returns means ``(O,)`` over the measured frames of ``(T, O)``; NaN without measured frames."""
    out = np.full(values.shape[1], np.nan)
    for o in np.flatnonzero(measured.any(axis=0)):
        out[o] = values[measured[:, o], o].mean()
    return out


class Agreement(NamedTuple):
    """Measures of one object on one frame."""

    j: float  # region similarity in [0, 1]
    f: float  # boundary measure in [0, 1]
    in_truth: bool  # True if the ground truth shows the object
    in_pred: bool = False  # True if the prediction shows the object


# Measures of an object that neither truth nor prediction shows.
BOTH_EMPTY = Agreement(1.0, 1.0, False)


def compare_label_maps(
    pred: Labels, truth: Labels, tolerance: float = TOLERANCE, ignored_labels: Collection[int] = ()
) -> dict[int, Agreement]:
    """Compares every object in prediction or ground truth, integers ``(H, W)``. Returns measures by ascending id.

    Pixels whose true value is in ``ignored_labels`` are set to 0 in both maps. Raises ValueError if the maps are not
    ``(H, W)`` of one size.
    """
    if pred.shape != truth.shape or pred.ndim != 2:
        raise ValueError(f"label maps must be (H, W) of one size, got {pred.shape} and {truth.shape}")
    pred, truth = _without_void(pred, truth, ignored_labels)
    height, width = truth.shape
    in_truth, in_pred = set(labels_in(truth)), set(labels_in(pred))
    pair = blank((2, height, width))
    out = {}
    for i in sorted(in_truth | in_pred):
        np.equal(pred, i, out=pair[0, :, :width])
        np.equal(truth, i, out=pair[1, :, :width])
        out[i] = Agreement(*compare_bits(pack(pair), (height, width), tolerance), i in in_truth, i in in_pred)
    return out


def _without_void(pred: Labels, truth: Labels, ignored_labels: Collection[int]) -> tuple[Labels, Labels]:
    """Sets both maps to 0 at pixels with a true value in ``ignored_labels``."""
    if not ignored_labels:
        return pred, truth
    known = ~np.isin(truth, list(ignored_labels))
    return pred * known, truth * known


def compare_files(
    pred: str | Path,
    truth: str | Path,
    one_object: bool,
    tolerance: float = TOLERANCE,
    ignored_labels: Collection[int] = (),
) -> dict[int, Agreement]:
    """Compares two PNG files with :func:`compare_label_maps`. With ``one_object``, nonzero pixels are object 1.

    Raises DatasetError if a file is unreadable or has another size, or a file of one object shows several.
    """
    truths = read_labels(Path(truth))
    preds = read_labels(Path(pred), truths.shape, str(truth))
    preds, truths = _without_void(preds, truths, ignored_labels)
    if one_object:
        truths, preds = _one_object(truth, truths), _one_object(pred, preds)
    return compare_label_maps(preds, truths, tolerance)


def _one_object(path: str | Path, labels: Labels) -> Labels:
    low, high = int(labels.min()), int(labels.max())
    if high - low > 1 and ((labels != low) & (labels != high)).any():
        raise DatasetError(
            f"{path} has more than two values: in a folder of one object each, a mask is the object and the rest; "
            "if one value is void, ignore it (--ignore-label)"
        )
    return labels if high <= 1 else (labels > 0).view(np.uint8)
