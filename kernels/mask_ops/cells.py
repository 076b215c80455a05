"""Computes which pixels of upsampled masks are foreground, on the CPU and without upsampling the masks.

A cell consists of four adjacent logits. Pixels between the four logits are interpolated from these logits. If all four
logits are above a level, all pixels of the cell are above the level. If no logit is above the level, no pixel is above
the level. In all other cells, values along a column of pixels are linear. The first and last pixels of a column, and
the two pixels at which the column crosses the level, thus determine which pixels are above the level. If rounding could
move a pixel across the level, all pixels of the column are computed in fp64. If fp64 does not decide a pixel either,
torch computes the pixel.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

# OF_CELL and ROUNDING bound rounding errors relative to the largest logit of a cell. OF_CELL bounds the sum of torch's
# and this module's errors (38 times 2**-24). ROUNDING bounds the difference between torch's fp32 and fp64 results.
# UNDERFLOW is an absolute bound of rounding errors near zero.
OF_CELL, ROUNDING, UNDERFLOW = 2.0**-18, 7 * 2.0**-24, 1e-36
# Maximum number of pixels of a mask that torch computes one by one. For more pixels, torch upsamples the whole mask.
CLOSE = 256
# Minimum height + width of an upsampled mask. Torch upsamples to smaller sizes with other operations.
LEAST_SIDES = 130


class AxisCells(NamedTuple):
    """Stores how torch interpolates N pixels from n logits along an axis.

    Pixels of cell i lie between logits i and i + 1. The last cell contains the pixels after the last logit.
    """

    source: int  # n, number of logits
    target: int  # N, number of pixels
    first: np.ndarray  # (n) first pixel of each cell
    number: np.ndarray  # (n) number of pixels in each cell
    cell: np.ndarray  # (N) cell of each pixel
    position: np.ndarray  # (n, pixels of the largest cell) pixels of each cell; smaller cells repeat their last pixel
    near: np.ndarray  # fp32 interpolation weights of each cell's first logit, for the pixels in position
    far: np.ndarray  # fp32 interpolation weights of each cell's second logit, for the pixels in position


@functools.lru_cache(maxsize=16)
def axis_of(n: int, N: int) -> AxisCells:
    cell, near, far = weights_along(n, N)
    count = np.bincount(cell, minlength=n)
    first = count.cumsum() - count
    position = first[:, None] + np.minimum(np.arange(count.max()), np.maximum(count - 1, 0)[:, None])
    position = np.minimum(position, N - 1)
    return AxisCells(n, N, first, count, cell, position, near[position], far[position])


def weights_along(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns cells and weights of bilinear interpolation (``align_corners=False``) from ``source`` to ``target``.

    Returns:
        Cells ``(target)`` int64 of pixels, and weights ``(target)`` fp32 of the two logits of each cell. Cell i lies
        between logits i and i + 1. In the last cell, the second weight is 0.
    """
    # Upsampling images with a single nonzero logit of 1 gives the exact interpolation weights that torch uses.
    images = torch.eye(source, device="cpu")[:, None, :, None]
    weights = F.interpolate(images, (target, 1), mode="bilinear", align_corners=False)[:, 0, :, 0].numpy()
    cell, pixel = (weights != 0).argmax(0), np.arange(target)
    far = weights[np.minimum(cell + 1, source - 1), pixel]
    return cell, weights[cell, pixel], np.where(cell + 1 < source, far, np.float32(0))


class Cells(NamedTuple):
    """Stores mask, position and logits of K cells."""

    mask: np.ndarray  # (K) index of each cell's mask
    row: np.ndarray  # (K) row of each cell
    column: np.ndarray  # (K) column of each cell
    corners: list[np.ndarray]  # logits, four times (K) fp32: upper left, upper right, lower left, lower right

    def select(self, indices: np.ndarray) -> "Cells":
        """Returns the cells at ``indices``."""
        return Cells(self.mask[indices], self.row[indices], self.column[indices], [x[indices] for x in self.corners])


class ColumnRuns(NamedTuple):
    """Stores the foreground (pixels above a level) of each column of pixels in K cells."""

    above: np.ndarray  # (K, columns of the widest cell) number of foreground pixels in each column of each cell
    top: np.ndarray  # same shape as above: row of the first foreground pixel, counted from the top of the cell
    bottom: np.ndarray  # same shape as above: row of the last foreground pixel, or -1 for a column without foreground
    dense: np.ndarray  # indices of masks that torch must upsample; rows of these masks in other fields are invalid


def column_runs(cells: Cells, level: float, rows: AxisCells, columns: AxisCells) -> ColumnRuns:
    """Returns the foreground pixels of cells that have finite logits both above and below ``level``."""
    a, b, c, d = ((x - np.float32(level))[:, None] for x in cells.corners)
    largest = functools.reduce(np.maximum, map(np.abs, cells.corners)).astype(np.float32)
    bound = largest[:, None] * np.float32(OF_CELL) + np.float32(UNDERFLOW)
    far, height = columns.far[cells.column], rows.number[cells.row][:, None]
    upper, lower = a + (b - a) * far, c + (d - c) * far  # (K, columns of the widest cell)
    slope = lower - upper
    first, last = upper + slope * rows.far[cells.row, :1], upper + slope * rows.far[cells.row, -1:]
    starts, sure = first > 0, np.minimum(np.abs(first), np.abs(last)) > bound
    number = np.where(starts, height, 0)  # foreground pixels of each column, if the column does not cross the level

    crossing = np.flatnonzero(starts != (last > 0))
    cell, begin, end = crossing // far.shape[1], first.ravel()[crossing], last.ravel()[crossing]
    height, row = rows.number[cells.row[cell]], cells.row[cell]
    before = np.clip((begin / (begin - end) * (height - 1)).astype(np.int64) + 1, 1, np.maximum(height - 1, 1))
    upper, slope = upper.ravel()[crossing], slope.ravel()[crossing]
    here, there = (upper + slope * rows.far[row, before - step] for step in (1, 0))
    is_right = ((here > 0) == (begin > 0)) & ((there > 0) == (end > 0))
    is_right &= np.minimum(np.abs(here), np.abs(there)) > bound[cell, 0]
    number.ravel()[crossing] = np.where(begin > 0, before, height - before)
    sure.ravel()[crossing] &= is_right

    top = np.where(starts, 0, rows.number[cells.row][:, None] - number)
    inside = np.arange(far.shape[1]) < columns.number[cells.column][:, None]
    number[~inside] = 0
    bottom = np.where(number > 0, top + number - 1, -1)
    runs = ColumnRuns(number, top, bottom, np.empty(0, dtype=np.int64))
    undecided = np.nonzero(~sure & inside)
    return _by_pixels(runs, cells, level, rows, columns, *undecided) if len(undecided[0]) else runs


def _by_pixels(
    runs: ColumnRuns, cells: Cells, level: float, rows: AxisCells, columns: AxisCells, cell: np.ndarray, at: np.ndarray
) -> ColumnRuns:
    """Recomputes each pixel of some columns in fp64: columns ``at`` of the cells with indices ``cell``."""
    mask, row, column, corners = cells.select(cell)
    a, b, c, d = (x.astype(np.float64) for x in corners)
    near, far = (weights[column, at].astype(np.float64) for weights in (columns.near, columns.far))
    upper, lower = (a * near + b * far)[:, None], (c * near + d * far)[:, None]
    value = upper * rows.near[row] + lower * rows.far[row] - np.float64(np.float32(level))  # (columns, rows)
    above, inside = value > 0, np.arange(value.shape[1]) < rows.number[row][:, None]
    largest = functools.reduce(np.maximum, map(np.abs, corners)).astype(np.float64)
    close = (np.abs(value) <= largest[:, None] * ROUNDING + UNDERFLOW) & inside
    number = np.bincount(mask[close.any(1)], close.sum(1)[close.any(1)]) if close.any() else np.zeros(1)
    dense = np.flatnonzero(number > CLOSE)
    for i, y in np.argwhere(close & ~np.isin(mask, dense)[:, None]).tolist():
        patch = np.array([x[i] for x in corners]).reshape(2, 2)
        value_of_torch = pixel_of_torch(patch, (rows, row[i], y), (columns, column[i], at[i]))
        above[i, y] = value_of_torch > np.float32(level)
    above &= inside
    runs.above[cell, at], runs.top[cell, at] = above.sum(1), above.argmax(1)
    runs.bottom[cell, at] = np.where(above.any(1), value.shape[1] - 1 - above[:, ::-1].argmax(1), -1)
    return runs._replace(dense=dense)


def pixel_of_torch(patch: np.ndarray, *axes: tuple[AxisCells, int, int]) -> float:
    """Returns the exact value of one pixel in torch's upsampled mask, without upsampling the whole mask.

    Args:
        patch: Logits ``(2, 2)`` around the pixel.
        axes: Tuples (cells of the axis, index of the cell, index of the pixel in the cell), for rows and for columns.
    """
    image, place = torch.from_numpy(patch), [0, 0]
    size: list[int] = [1, LEAST_SIDES]
    scales: list[float | None] = [None, None]
    for dim, (axis, cell, position) in enumerate(axes):
        if 0 < cell < axis.source - 1:
            # For a cell away from the edges, upsampling only the patch with another scale gives the same weights.
            scales[dim] = 1 / (2 * float(axis.far[cell, position]) + 1)
            continue
        # For a cell at an edge, weights have more bits, so the patch is placed at its position in a map of zeros.
        number = min(2, axis.source - cell)
        whole = torch.zeros(axis.source if dim == 0 else len(image), axis.source if dim else 2, device="cpu")
        whole.narrow(dim, cell, number).copy_(image.narrow(dim, 0, number))
        image, size[dim], scales[dim] = whole, axis.target, None
        place[dim] = int(axis.first[cell]) + position
    if scales[1] is None and scales[0] is not None:
        size[0] = LEAST_SIDES
    return torch.ops.aten.upsample_bilinear2d(image[None, None], size, False, *scales)[0, 0][place[0], place[1]].item()
