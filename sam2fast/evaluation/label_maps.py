"""J and F of all objects of a frame, from two label maps in memory or in files."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from sam2fast.datasets.errors import DatasetError
from sam2fast.datasets.files import Labels, labels_in, read_labels
from sam2fast.evaluation.bits import blank, pack
from sam2fast.evaluation.j_and_f import TOLERANCE, compare_bits


class Agreement(NamedTuple):
    """How well one object of a frame agrees with the truth."""

    j: float  # in [0, 1], as f
    f: float
    in_truth: bool  # whether the truth shows it


# Where neither shows an object.
BOTH_EMPTY = Agreement(1.0, 1.0, False)


def compare_label_maps(pred: Labels, truth: Labels, tolerance: float = TOLERANCE) -> dict[int, Agreement]:
    """Every object that the prediction or the truth shows, by rising id.

    Args:
        pred, truth: integers ``(H, W)``, the id of each pixel's object, 0 for none.
        tolerance: see :func:`~sam2fast.evaluation.j_and_f.boundary_f`.

    Raises:
        ValueError: the maps are no pictures of one size.
    """
    if pred.shape != truth.shape or pred.ndim != 2:
        raise ValueError(f"label maps must be (H, W) of one size, got {pred.shape} and {truth.shape}")
    height, width = truth.shape
    in_truth = set(labels_in(truth))
    pair = blank((2, height, width))
    out = {}
    for i in sorted(in_truth.union(labels_in(pred))):
        np.equal(pred, i, out=pair[0, :, :width])
        np.equal(truth, i, out=pair[1, :, :width])
        out[i] = Agreement(*compare_bits(pack(pair), (height, width), tolerance), i in in_truth)
    return out


def compare_files(
    pred: str | Path, truth: str | Path, one_object: bool, tolerance: float = TOLERANCE
) -> dict[int, Agreement]:
    """The same for two PNG files.

    Args:
        one_object: whatever is not 0 is the object, which has id 1.

    Raises:
        DatasetError: a file cannot be read, they differ in size, or one shows several objects where it must not.
    """
    truths = read_labels(Path(truth))
    preds = read_labels(Path(pred), truths.shape, str(truth))
    if one_object:
        truths, preds = _one_object(truth, truths), _one_object(pred, preds)
    return compare_label_maps(preds, truths, tolerance)


def _one_object(path: str | Path, labels: Labels) -> Labels:
    low, high = int(labels.min()), int(labels.max())
    if high - low > 1 and ((labels != low) & (labels != high)).any():
        raise DatasetError(
            f"{path} has more than two values: in a folder of one object each, a mask is the object and the rest"
        )
    return labels if high <= 1 else (labels > 0).view(np.uint8)
