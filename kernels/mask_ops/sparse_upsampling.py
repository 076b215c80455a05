"""Upsamples and thresholds masks on the CPU, interpolating only pixels along the outline.

A pixel is interpolated from its cell: the four logits around the pixel. If all four logits are above the threshold, the
pixel is above the threshold. If no logit is above the threshold, the pixel is not above the threshold. Only pixels of
all other cells are interpolated, in fp64. Torch's fp32 results differ from fp64 results by a few rounding errors. If
rounding errors could move a pixel across the threshold, torch computes the mask.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sam2fast.kernels.mask_ops.cells import AxisCells, axis_of
from sam2fast.kernels.mask_ops.reference import (
    pack_masks_reference,
    upsample_and_threshold_reference,
    upsample_masks_reference,
)

# Minimum number of pixels per logit for this module. With fewer pixels per logit, torch upsamples the whole mask.
PIXELS_PER_LOGIT = 4


# ROUNDING bounds torch's rounding error of a pixel, relative to the largest logit of the pixel's cell. In any order of
# operations, each of four terms is rounded at most five times, by 2**-24. UNDERFLOW bounds absolute underflow errors.
ROUNDING, UNDERFLOW = 7 * 2.0**-24, 1e-37
LARGEST = 1024  # maximum height and width of logits; computing interpolation weights takes quadratic time
# Maximum fraction of a mask's pixels that lie in outline cells. If more pixels do, torch computes the mask.
SPARSE = 0.25


@dataclass(frozen=True)
class SparseUpsampling:
    """Upsamples and thresholds single masks of one size."""

    rows: AxisCells
    columns: AxisCells
    threshold: float  # rounded to fp32
    cells: np.ndarray  # (h, w) bool, True for cells that contain at least one pixel

    @classmethod
    def of(cls, logits: Tensor, size: tuple[int, int], threshold: float) -> "SparseUpsampling | None":
        """Returns an instance for logits ``(N, h, w)``, or None if ``h`` or ``w`` exceeds :data:`LARGEST`."""
        h, w = logits.shape[1:]
        if max(h, w) > LARGEST:
            return None
        rows, columns = axis_of(h, size[0]), axis_of(w, size[1])
        cells = np.logical_and.outer(rows.number > 0, columns.number > 0)
        return cls(rows, columns, float(np.float32(threshold)), cells)

    def __call__(self, logits: np.ndarray) -> tuple[tuple[int, int], np.ndarray] | None:
        """Returns the part of the mask that may contain foreground: its top left pixel (y, x), and bool ``(h', w')``.

        Returns None if torch must compute the mask: for long outlines, pixels close to the threshold, and logits that
        are not finite.
        """
        rows, columns, t = self.rows, self.columns, self.threshold
        h, w = logits.shape
        corners = np.empty((h + 1, w + 1), dtype=np.float32)
        corners[:h, :w] = logits
        corners[h, :w], corners[:, w] = corners[h - 1, :w], corners[:, w - 1]
        low, high = _of_cells(np.minimum, corners), _of_cells(np.maximum, corners)
        margin = np.maximum(high, -low) * np.float32(ROUNDING) + np.float32(UNDERFLOW)
        inside = low > t + margin
        outline = ~(inside | (high < t - margin)) & self.cells  # outline cells are True, and cells with NaN
        i, j = np.divmod(np.flatnonzero(outline), w)
        most = rows.position.shape[1] * columns.position.shape[1]
        near = margin[i, j, None, None]
        if len(i) * most > SPARSE * len(rows.cell) * len(columns.cell) or not np.isfinite(near).all():
            return None
        filled = inside | outline
        top, bottom = _extent(filled.any(1), rows)
        left, right = _extent(filled.any(0), columns)
        mask = inside.take(columns.cell[left:right], 1).take(rows.cell[top:bottom], 0)

        near_y, far_y = (weights[i, :, None] for weights in (rows.near, rows.far))
        near_x, far_x = (weights[j, None, :] for weights in (columns.near, columns.far))
        a, b, c, d = (corners[i + p, j + q].astype(np.float64)[:, None, None] for p in (0, 1) for q in (0, 1))
        pixels = (a * near_x + b * far_x) * near_y + (c * near_x + d * far_x) * far_y  # (cells, rows, columns)
        pixels -= t
        if not (np.abs(pixels) > near).all():
            return None
        y, x = rows.position[i, :, None] - top, columns.position[j, None, :] - left
        mask.reshape(-1)[y * (right - left) + x] = pixels > 0
        return (top, left), mask


def _of_cells(ufunc: np.ufunc, corners: np.ndarray) -> np.ndarray:
    """Returns the minimum or maximum (``ufunc``) of the four corners of each cell, or NaN if a corner is NaN."""
    pairs = ufunc(corners[:, :-1], corners[:, 1:])
    return np.asarray(ufunc(pairs[:-1], pairs[1:]))


def _extent(filled: np.ndarray, axis: AxisCells) -> tuple[int, int]:
    """Returns the first pixel of the first filled cell, and the end (exclusive) of the last filled cell."""
    cells = np.flatnonzero(filled)
    if len(cells) == 0:
        return 0, 0
    return int(axis.first[cells[0]]), int(axis.first[cells[-1]] + axis.number[cells[-1]])


def upsample_and_threshold_cpu(logits: Tensor, size: tuple[int, int], threshold: float = 0.0) -> Tensor:
    """Computes :func:`sam2fast.kernels.mask_ops.upsample_and_threshold` of CPU tensors, with equal results."""
    (h, w), (H, W) = logits.shape[-2:], size
    if PIXELS_PER_LOGIT * h * w > H * W:
        return upsample_and_threshold_reference(logits, size, threshold)
    flat = logits.reshape(-1, h, w).float()
    masks = torch.zeros(len(flat), H, W, dtype=torch.bool, device="cpu")
    sparse = SparseUpsampling.of(flat, size, threshold)
    for image, mask in zip(flat, masks, strict=True):
        part = sparse(image.numpy()) if sparse else None
        if part is None:
            torch.gt(upsample_masks_reference(image[None, None], size)[0, 0], threshold, out=mask)
        else:
            (y, x), inside = part
            mask[y : y + inside.shape[0], x : x + inside.shape[1]] = torch.from_numpy(inside)
    return masks.view(*logits.shape[:-2], H, W)


def upsample_and_pack_cpu(logits: Tensor, size: tuple[int, int], threshold: float = 0.0) -> Tensor:
    """Computes :func:`sam2fast.kernels.mask_ops.upsample_and_pack` of CPU tensors."""
    return pack_masks_reference(upsample_and_threshold_cpu(logits, size, threshold))
