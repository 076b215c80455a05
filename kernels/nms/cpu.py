"""Non-maximum suppression on the CPU: what is suppressed takes no more part, and masks far apart are never compared."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

# Boxes or masks that are compared at once with all that are left.
BLOCK = 64

# Which of A boxes overlap which of B, (A, B) bool; a box is a column of coordinates and area.
Overlapping = Callable[[np.ndarray, np.ndarray], np.ndarray]


def box_nms_cpu(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """:func:`sam2fast.kernels.nms.box_nms` of CPU tensors."""
    order = scores.sort(descending=True, stable=True).indices
    x1, y1, x2, y2 = boxes.detach()[order].numpy().T
    threshold = x1.dtype.type(iou_threshold)

    def overlapping(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        shared = _shared(a, b)
        union = a[4, :, None] + b[4]
        union -= shared
        shared /= union
        return np.asarray(shared > threshold)

    with np.errstate(all="ignore"):  # 0/0 is nothing to complain about, nor is infinity
        columns = np.stack([x1, y1, x2, y2, (x2 - x1) * (y2 - y1)])
        return order[_keep(columns, overlapping)]


def mask_nms_cpu(masks: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """:func:`sam2fast.kernels.nms.mask_nms` of CPU tensors.

    Pixels are compared only where two boxes overlap, and only if the masks could share enough of them: no more than
    the boxes do, and no more than the smaller mask has.
    """
    order = scores.sort(descending=True, stable=True).indices
    pixels, indices = masks.numpy(), order.numpy()
    columns = np.array([_box_and_area(pixels[i]) for i in indices], dtype=np.int64).reshape(-1, 5).T

    def could_overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        most = np.minimum(_shared(a, b), np.minimum(a[4, :, None], b[4]))
        # Division rounds to the nearest, so that fewer shared pixels never give a larger quotient.
        return np.asarray(most / (a[4, :, None] + b[4] - most) > iou_threshold)

    def overlaps(i: int, others: np.ndarray) -> np.ndarray:
        found = np.empty(len(others), dtype=bool)
        for k, j in enumerate(others):
            left, top = np.maximum(columns[:2, i], columns[:2, j])
            right, bottom = np.minimum(columns[2:4, i], columns[2:4, j])
            window = (slice(top, max(top, bottom)), slice(left, max(left, right)))
            shared = np.count_nonzero(pixels[indices[i]][window] & pixels[indices[j]][window])
            found[k] = shared / (columns[4, i] + columns[4, j] - shared) > iou_threshold
        return found

    with np.errstate(all="ignore"):
        return order[_keep(columns, could_overlap, overlaps)]


def _keep(
    columns: np.ndarray, overlapping: Overlapping, confirmed: Callable[[int, np.ndarray], np.ndarray] | None = None
) -> Tensor:
    """Indices, rising, of what no earlier kept one overlaps too much.

    Args:
        columns: ``(5, N)``, best first.
        overlapping: who overlaps whom, or may.
        confirmed: of one and those it may overlap, which it does.
    """
    left, kept = np.arange(columns.shape[1]), []
    while len(left):
        here = columns[:, left]
        over = overlapping(here[:, :BLOCK], here)
        free = np.ones(len(left), dtype=bool)
        for i in range(len(over)):
            if free[i]:
                kept.append(left[i])
                taken = np.flatnonzero(over[i, i + 1 :] & free[i + 1 :]) + i + 1
                if confirmed is not None and len(taken):
                    taken = taken[confirmed(int(left[i]), left[taken])]
                free[taken] = False
        left = left[BLOCK:][free[BLOCK:]]
    return torch.from_numpy(np.array(kept, dtype=np.int64))


def _shared(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The area that boxes share, ``(A, B)``; a box behind its own end shares none."""
    width = np.minimum(a[2, :, None], b[2])
    width -= np.maximum(a[0, :, None], b[0])
    height = np.minimum(a[3, :, None], b[3])
    height -= np.maximum(a[1, :, None], b[1])
    np.maximum(width, 0, out=width)
    np.maximum(height, 0, out=height)
    width *= height
    return width


def _box_and_area(mask: np.ndarray) -> tuple[int, int, int, int, int]:
    """Left, top, right and bottom, which lie behind the last pixel, and the number of pixels."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if len(rows) == 0:
        return 0, 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1, int(np.count_nonzero(mask))
