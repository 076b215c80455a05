"""Computes mask statistics and overlaps on the CPU, without upsampling masks.

If all four logits of a cell are above or all below a level, the cell's pixels are counted at once. In all other cells,
pixels are counted column by column.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.kernels.mask_ops.cells import LEAST_SIDES, UNDERFLOW, AxisCells, Cells, ColumnRuns, axis_of, column_runs
from sam2fast.kernels.mask_ops.reference import SUPPRESSED, counts_and_boxes
from sam2fast.kernels.mask_ops.sparse_upsampling import PIXELS_PER_LOGIT

# Maximum number of logits (CHUNK) and of columns of pixels (AT_ONCE) computed at once, so that results fit the cache.
CHUNK, AT_ONCE = 2**20, 2**14
LARGEST_TABLE = 2**24
# Bound of a pixel's rounding error divided by the level, for cells in which all logits are above or below the level.
OF_LEVEL = 2.0**-20
LARGEST = 2.0**100  # limit of the magnitude of logits and levels, so that no product overflows


class Grid(NamedTuple):
    """Stores the cells of a mask in row-major order. An empty cell ends each row, and an empty row ends the mask."""

    size: tuple[int, int]
    rows: AxisCells
    columns: AxisCells
    row: np.ndarray  # (P) row of each of the P cells
    column: np.ndarray  # (P) column of each cell
    pixels: np.ndarray  # (P) int64, number of pixels in each cell


@functools.lru_cache(maxsize=4)
def grid_of(h: int, w: int, size: tuple[int, int]) -> Grid:
    rows, columns = axis_of(h, size[0]), axis_of(w, size[1])
    row, column = np.divmod(np.arange((h + 1) * (w + 1)), w + 1)
    count_y, count_x = np.append(rows.number, 0), np.append(columns.number, 0)
    return Grid(size, rows, columns, row, column, count_y[row] * count_x[column])


class Statistics:
    """Accumulates pixel counts and XYXY boxes of masks."""

    def __init__(self, N: int, size: tuple[int, int]) -> None:
        self.counts = np.zeros((3, N), dtype=np.int64)
        self.boxes = np.tile(np.array([size[1], size[0], -1, -1]), (N, 1))

    def extend(
        self, mask: np.ndarray, left: np.ndarray, top: np.ndarray, right: np.ndarray, bottom: np.ndarray
    ) -> None:
        """Extends the box of each mask in ``mask`` by another box. Indices of masks must be distinct."""
        old = self.boxes[mask]
        low, high = np.stack([left, top], -1), np.stack([right, bottom], -1)
        self.boxes[mask] = np.concatenate([np.minimum(old[..., :2], low), np.maximum(old[..., 2:], high)], -1)


def has_cells(h: int, w: int, size: tuple[int, int]) -> bool:
    """Returns True if counting by cells is possible for logits ``(h, w)``, and faster than upsampling to ``size``."""
    H, W = size
    return (
        PIXELS_PER_LOGIT * h * w <= H * W
        and h < H  # for h = H, torch copies rows, and a pixel depends on two logits instead of four
        and w < W
        and H + W >= LEAST_SIDES
        and max(h * H, w * W) <= LARGEST_TABLE
    )


def bounds_of(level: float) -> tuple[np.float32, np.float32]:
    """Returns two bounds for logits that decide whether all or no pixels of a cell are above ``level``.

    If no logit is above the first bound, no pixel is above the level. If all logits are above the second bound, all
    pixels are above the level.
    """
    margin = abs(level) * OF_LEVEL + UNDERFLOW
    return np.float32(level - (margin if level else 0)), np.float32(level + margin)


def mask_statistics_cpu(
    logits: Tensor, size: tuple[int, int], threshold: float, offset: float
) -> tuple[Tensor, Tensor]:
    """Computes :func:`~sam2fast.kernels.mask_ops.reference.counts_and_boxes` of CPU tensors, with equal results."""
    N, h, w = logits.shape
    thresholds = threshold, threshold + offset, threshold - offset
    levels = torch.tensor(thresholds, dtype=torch.float32, device="cpu").tolist()
    if not has_cells(h, w, size) or not all(abs(level) < LARGEST for level in levels):
        return counts_and_boxes(logits, size, threshold, offset)
    statistics, dense = Statistics(N, size), np.zeros(N, dtype=bool)
    step = max(1, CHUNK // (h * w))
    for start in range(0, N, step):
        _chunk(logits[start : start + step].float(), start, grid_of(h, w, size), levels, statistics, dense)
    counts, boxes = (torch.from_numpy(x.astype(np.int32)) for x in (statistics.counts, statistics.boxes))
    if dense.any():
        rest = torch.from_numpy(np.flatnonzero(dense))
        counts[:, rest], boxes[rest] = counts_and_boxes(logits[rest], size, threshold, offset)
    return counts, boxes


def _chunk(
    logits: Tensor, start: int, grid: Grid, levels: list[float], statistics: Statistics, dense: np.ndarray
) -> None:
    """Adds the statistics of masks, the first with index ``start``. Sets ``dense`` to True for masks to upsample."""
    n, h, w = logits.shape
    padded = F.pad(logits[:, None], (0, 1, 0, 1), mode="replicate").numpy().reshape(-1)
    dense[start : start + n] = ~(np.abs(padded) < LARGEST).reshape(n, -1).all(1)  # masks with NaN are True
    short, beyond = zip(*map(bounds_of, levels), strict=True)
    P = len(grid.pixels)
    touched = _touched(padded, w + 1, min(short)).reshape(n, P)
    touched &= (grid.pixels > 0) & ~dense[start : start + n, None]
    flat = np.flatnonzero(touched)
    bounds = np.searchsorted(flat, np.arange(n + 1) * P)
    mask = np.repeat(np.arange(n), np.diff(bounds))
    cell = flat - mask * P
    corners = [padded[flat + step] for step in (0, 1, w + 1, w + 2)]
    cells = Cells(mask, grid.row[cell], grid.column[cell], corners)
    low, high = (functools.reduce(f, corners) for f in (np.minimum, np.maximum))

    pixels, at_once = grid.pixels[cell], max(1, AT_ONCE // grid.columns.far.shape[1])
    for k in range(3):
        whole = low > beyond[k]
        total = np.append(0, (pixels * whole).cumsum())[bounds]
        statistics.counts[k, start : start + n] += np.diff(total)
        if k == 0:
            _extend_by_whole(statistics, start, np.flatnonzero(whole), bounds, cell, grid)
        indices = np.flatnonzero((high > short[k]) & ~whole)
        for some in np.split(indices, range(at_once, len(indices), at_once)):
            part = cells.select(some)
            runs = column_runs(part, levels[k], grid.rows, grid.columns)
            dense[start + runs.dense] = True
            number = np.bincount(part.mask, runs.above.sum(1), minlength=n)
            statistics.counts[k, start : start + n] += number.astype(np.int64)
            if k == 0:
                _extend_by_parts(statistics, start, part, runs, grid)


def _touched(padded: np.ndarray, stride: int, level: np.float32) -> np.ndarray:
    """Returns True for each cell with a logit above the level. Some cells without such a logit may also be True."""
    above = padded > level
    pairs = above.copy()
    pairs[:-1] |= above[1:]
    cells = pairs.copy()
    cells[:-stride] |= pairs[stride:]
    return cells


def _extend_by_whole(
    statistics: Statistics, start: int, indices: np.ndarray, bounds: np.ndarray, cell: np.ndarray, grid: Grid
) -> None:
    """Extends the boxes of masks by cells that contain only foreground. Cells are ordered by mask and row."""
    ends = np.searchsorted(indices, bounds)
    some = np.flatnonzero(np.diff(ends))
    if len(some) == 0:
        return
    row, column = grid.row[cell[indices]], grid.column[cell[indices]]
    first, last = ends[some], ends[some + 1] - 1
    left, right = np.minimum.reduceat(column, first), np.maximum.reduceat(column, first)
    y, ny, x, nx = grid.rows.first, grid.rows.number, grid.columns.first, grid.columns.number
    statistics.extend(start + some, x[left], y[row[first]], x[right] + nx[right] - 1, y[row[last]] + ny[row[last]] - 1)


def _extend_by_parts(statistics: Statistics, start: int, cells: Cells, runs: ColumnRuns, grid: Grid) -> None:
    """Extends the boxes of masks by cells that contain some foreground pixels. Cells are ordered by mask."""
    some = np.flatnonzero(runs.above.any(1))
    if len(some) == 0:
        return
    mask, y, x = cells.mask[some], grid.rows.first[cells.row[some]], grid.columns.first[cells.column[some]]
    used, most = runs.above[some] > 0, runs.above.shape[1]
    top = np.where(used, runs.top[some], grid.size[0]).min(1)
    first = np.flatnonzero(np.diff(mask, prepend=-1))
    statistics.extend(
        start + mask[first],
        np.minimum.reduceat(x + used.argmax(1), first),
        np.minimum.reduceat(y + top, first),
        np.maximum.reduceat(x + most - 1 - used[:, ::-1].argmax(1), first),
        np.maximum.reduceat(y + runs.bottom[some].max(1), first),
    )


def suppress_overlaps_cpu(logits: Tensor) -> Tensor:
    """Computes :func:`suppress_overlaps_reference` for at least two objects, without gradients."""
    owner, highest = torch.zeros_like(logits[0], dtype=torch.int32), logits[0]
    for number, of_object in enumerate(logits[1:], start=1):
        owner.masked_fill_((of_object > highest) | (of_object.isnan() & ~highest.isnan()), number)
        highest = torch.maximum(highest, of_object)  # torch.maximum propagates NaN
    return torch.stack([torch.where(owner == i, x, x.clamp(max=SUPPRESSED)) for i, x in enumerate(logits)])
