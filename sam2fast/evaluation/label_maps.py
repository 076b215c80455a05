"""J and F of all objects of a frame, from two label maps in memory or in files."""

from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sam2fast.evaluation.bits import blank, pack
from sam2fast.evaluation.j_and_f import TOLERANCE, compare_bits
from sam2fast.picture_files import UNREADABLE, open_picture

Labels: TypeAlias = NDArray[np.integer[Any]]  # (H, W)

# Modes of pictures whose values are ids; colours are none.
MODES = ("1", "L", "P", "I", "I;16")
# Ids up to this are looked for one by one, which is quicker than counting all values.
FEW = 16


class MaskFileError(ValueError):
    """A mask that cannot be read, or is not of the kind that its place asks for; the message names the file."""


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
    in_truth = set(_ids(truth))
    pair = blank((2, height, width))
    out = {}
    for i in sorted(in_truth.union(_ids(pred))):
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
        MaskFileError: a file cannot be read, they differ in size, or one shows several objects where it must not.
    """
    truths, preds = read_label_map(truth), read_label_map(pred)
    if truths.shape != preds.shape:
        sizes = [f"{width}x{height}" for height, width in (preds.shape, truths.shape)]
        raise MaskFileError(f"{pred} has {sizes[0]} pixels, {truth} {sizes[1]}: they must be equal")
    if one_object:
        truths, preds = _one_object(truth, truths), _one_object(pred, preds)
    return compare_label_maps(preds, truths, tolerance)


def read_label_map(path: str | Path) -> Labels:
    """A palette picture's indices or a grey one's values, as integers ``(H, W)``; 0 and 1 of one with a bit per pixel.

    Raises:
        MaskFileError: it cannot be read, or has colours instead.
    """
    try:
        with open_picture(path) as picture:
            if picture.mode not in MODES:
                raise MaskFileError(f"{path}: a mask must be a palette or a grey PNG, got mode {picture.mode}")
            if picture.mode == "1":  # as bools, Pillow's array holds other bytes than 0 and 1
                return (np.asarray(picture.convert("L")) > 0).view(np.uint8)
            return np.asarray(picture)
    except MaskFileError:
        raise
    except UNREADABLE as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise MaskFileError(f"{path} cannot be read as a mask: {why}") from error


def _ids(labels: Labels) -> list[int]:
    """The values that there are, without 0."""
    highest = int(labels.max(initial=0))
    if highest <= FEW:
        return [i for i in range(1, highest + 1) if i == highest or (labels == i).any()]
    byte = labels.dtype == np.uint8
    found = np.flatnonzero(np.bincount(labels.ravel(), minlength=1)) if byte else np.unique(labels)
    return [int(i) for i in found if i]


def _one_object(path: str | Path, labels: Labels) -> Labels:
    low, high = int(labels.min()), int(labels.max())
    if high - low > 1 and ((labels != low) & (labels != high)).any():
        raise MaskFileError(
            f"{path} has more than two values: in a folder of one object each, a mask is the object and the rest"
        )
    return labels if high <= 1 else (labels > 0).view(np.uint8)
