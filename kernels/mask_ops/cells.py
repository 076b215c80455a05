"""Upsampled masks on the CPU by their outline: the foreground of each column of pixels in a cell, without the pixels.

A pixel is interpolated from the four logits around it, its cell. If all four are above a level, so are all pixels of
the cell. If none is, no pixel is. In the other cells, a column of pixels is linear from top to bottom. So its first and
last pixel and the two where it crosses the level say which pixels are above. Where rounding could decide, the column is
computed pixel by pixel in float64, and pixels that are still undecided by torch.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

# Bounds of rounding relative to the largest logit of a cell: of torch's operations and those here together (38 times
# 2**-24), and of torch's alone against float64. UNDERFLOW bounds what is lost near zero.
OF_CELL, ROUNDING, UNDERFLOW = 2.0**-18, 7 * 2.0**-24, 1e-36
# A mask with more pixels than this left to torch, in one call, is upsampled by torch.
CLOSE = 256
# Torch uses other operations for results with fewer rows and columns together.
LEAST_SIDES = 130


class AxisCells(NamedTuple):
    """How torch interpolates from n positions to N: those of a cell lie between two of the n, or after the last."""

    source: int  # n
    target: int  # N
    first: np.ndarray  # (n) the first position of each cell
    number: np.ndarray  # (n) how many it has
    cell: np.ndarray  # (N) the cell of each position
    # (n, most) positions of each cell, and fp32 weights of the cell's own logit and of the next; a cell with fewer
    # positions has its last again
    position: np.ndarray
    near: np.ndarray
    far: np.ndarray


@functools.lru_cache(maxsize=16)
def axis_of(n: int, N: int) -> AxisCells:
    cell, near, far = weights_along(n, N)
    count = np.bincount(cell, minlength=n)
    first = count.cumsum() - count
    position = first[:, None] + np.minimum(np.arange(count.max()), np.maximum(count - 1, 0)[:, None])
    position = np.minimum(position, N - 1)
    return AxisCells(n, N, first, count, cell, position, near[position], far[position])


def weights_along(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Between which of ``source`` logits each of ``target`` pixels lies, bilinearly (``align_corners=False``).

    Returns:
        The nearer to 0 of the two, its cell, ``(target)`` int64; the weights of that logit and of the next, each
        ``(target)`` fp32. Behind the last logit the next one's weight is 0.
    """
    # Torch's exact weights, obtained by upsampling images with a single nonzero logit.
    images = torch.eye(source, device="cpu")[:, None, :, None]
    weights = F.interpolate(images, (target, 1), mode="bilinear", align_corners=False)[:, 0, :, 0].numpy()
    cell, pixel = (weights != 0).argmax(0), np.arange(target)
    far = weights[np.minimum(cell + 1, source - 1), pixel]
    return cell, weights[cell, pixel], np.where(cell + 1 < source, far, np.float32(0))


class Cells(NamedTuple):
    """K cells of some masks."""

    mask: np.ndarray  # (K) the index of each one's mask
    row: np.ndarray  # (K)
    column: np.ndarray  # (K)
    corners: list[np.ndarray]  # four (K) fp32 logits: upper left, upper right, lower left, lower right

    def select(self, chosen: np.ndarray) -> "Cells":
        """Those with indices ``chosen``."""
        return Cells(self.mask[chosen], self.row[chosen], self.column[chosen], [x[chosen] for x in self.corners])


class ColumnRuns(NamedTuple):
    """The foreground of each column of pixels in K cells, from its first to its last pixel above the level."""

    above: np.ndarray  # (K, most) how many pixels are above the level; 0 beyond a cell's last column
    top: np.ndarray  # (K, most) the first of them, counted in the cell
    bottom: np.ndarray  # (K, most) the last; -1 if there is none
    dense: np.ndarray  # indices of masks with too many pixels for torch, whose numbers are wrong


def column_runs(cells: Cells, level: float, rows: AxisCells, columns: AxisCells) -> ColumnRuns:
    """The foreground of cells whose logits are finite and not all on one side of the level."""
    a, b, c, d = ((x - np.float32(level))[:, None] for x in cells.corners)
    largest = functools.reduce(np.maximum, map(np.abs, cells.corners)).astype(np.float32)
    bound = largest[:, None] * np.float32(OF_CELL) + np.float32(UNDERFLOW)
    far, height = columns.far[cells.column], rows.number[cells.row][:, None]
    upper, lower = a + (b - a) * far, c + (d - c) * far  # (K, most)
    slope = lower - upper
    first, last = upper + slope * rows.far[cells.row, :1], upper + slope * rows.far[cells.row, -1:]
    starts, sure = first > 0, np.minimum(np.abs(first), np.abs(last)) > bound
    number = np.where(starts, height, 0)  # pixels on the first one's side, if above, else above on the last one's

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
    """Computes columns ``at`` of cells ``cell`` again, pixel by pixel."""
    mask, row, column, corners = cells.select(cell)
    a, b, c, d = (x.astype(np.float64) for x in corners)
    near, far = (weights[column, at].astype(np.float64) for weights in (columns.near, columns.far))
    upper, lower = (a * near + b * far)[:, None], (c * near + d * far)[:, None]
    value = upper * rows.near[row] + lower * rows.far[row] - np.float64(np.float32(level))  # (columns, most)
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
    """The value that torch has for one pixel of a cell with logits ``patch (2, 2)``, when it upsamples the whole.

    Args:
        axes: for rows and columns, the cell and the position in it.
    """
    image, place = torch.from_numpy(patch), [0, 0]
    size: list[int] = [1, LEAST_SIDES]
    scales: list[float | None] = [None, None]
    for dim, (axis, cell, position) in enumerate(axes):
        if 0 < cell < axis.source - 1:
            # The first of many positions, at a scale that gives it the same weights.
            scales[dim] = 1 / (2 * float(axis.far[cell, position]) + 1)
            continue
        # At the edges weights have more bits, so the position must be the same, too.
        number = min(2, axis.source - cell)
        whole = torch.zeros(axis.source if dim == 0 else len(image), axis.source if dim else 2, device="cpu")
        whole.narrow(dim, cell, number).copy_(image.narrow(dim, 0, number))
        image, size[dim], scales[dim] = whole, axis.target, None
        place[dim] = int(axis.first[cell]) + position
    if scales[1] is None and scales[0] is not None:
        size[0] = LEAST_SIDES
    return torch.ops.aten.upsample_bilinear2d(image[None, None], size, False, *scales)[0, 0][place[0], place[1]].item()
