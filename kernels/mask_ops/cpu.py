"""Mask statistics and overlaps on the CPU. Counts and boxes of upsampled masks are computed without upsampling them.

A pixel is interpolated from the four logits around it, its cell. If all four are above a level, so are all pixels of
the cell. If none is, no pixel is. These cells are counted without interpolation. Pixels of other cells are interpolated
with fewer operations than torch needs, and equal torch's but for rounding. Where rounding could decide, torch
interpolates the cell. Cells of many masks are copied into one image of logits, since a pixel depends only on its cell.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.kernels.mask_ops.reference import (
    SUPPRESSED,
    MaskStatistics,
    mask_statistics_reference,
    upsample_masks_reference,
)
from sam2fast.kernels.mask_ops.sparse_upsampling import PIXELS_PER_LOGIT, weights_along

# Logits per pass, so that all intermediate results fit the cache. Pixels that are interpolated at once: few enough for
# torch to use a single thread, which is faster than waking others.
CHUNK, AT_ONCE = 2**20, 2**15
# A mask with more close cells than this is upsampled by torch, as is one that would need more interpolated pixels than
# it has.
CLOSE = 64
LARGEST_TABLE = 2**24
# Bounds of rounding. Relative to a level: of the terms of a pixel if all of them are on one side of the level. Relative
# to the largest logit of a cell: of torch's operations and those here together (38 times 2**-24).
OF_LEVEL, OF_CELL, UNDERFLOW = 2.0**-20, 2.0**-18, 1e-36
LARGEST = 2.0**100  # larger logits could overflow


class AxisCells(NamedTuple):
    """How torch interpolates from n positions to N: those of a cell lie between two of the n, or after the last."""

    first: np.ndarray  # (n) the first position of each cell
    number: np.ndarray  # (n) how many it has
    weight: np.ndarray  # (most, n) fp32, of the farther logit; a cell with fewer positions has its last again


@functools.lru_cache(maxsize=16)
def axis_of(n: int, N: int) -> AxisCells:
    cell, _, far = weights_along(n, N)
    count = np.bincount(cell, minlength=n)
    first = count.cumsum() - count
    position = first + np.minimum(np.arange(count.max())[:, None], np.maximum(count - 1, 0))
    return AxisCells(first, count, far[np.minimum(position, N - 1)])


class Grid(NamedTuple):
    """The cells of a mask, row by row, with one empty cell after each row and one empty row after the last."""

    size: tuple[int, int]
    rows: AxisCells
    columns: AxisCells
    row: np.ndarray  # (P) of each cell
    column: np.ndarray  # (P)
    pixels: np.ndarray  # (P) int64


@functools.lru_cache(maxsize=4)
def grid_of(h: int, w: int, size: tuple[int, int]) -> Grid:
    rows, columns = axis_of(h, size[0]), axis_of(w, size[1])
    row, column = np.divmod(np.arange((h + 1) * (w + 1)), w + 1)
    count_y, count_x = np.append(rows.number, 0), np.append(columns.number, 0)
    return Grid(size, rows, columns, row, column, count_y[row] * count_x[column])


class CloseCell(NamedTuple):
    """A cell with a pixel that torch must interpolate."""

    level: int
    mask: int
    row: int
    column: int


class Statistics:
    """Counts and boxes so far; boxes are XYXY as they are returned."""

    def __init__(self, N: int, size: tuple[int, int]) -> None:
        self.counts = np.zeros((3, N), dtype=np.int64)
        self.boxes = np.tile(np.array([size[1], size[0], -1, -1]), (N, 1))

    def extend(
        self, mask: np.ndarray | int, left: np.ndarray, top: np.ndarray, right: np.ndarray, bottom: np.ndarray
    ) -> None:
        """Extends the boxes of some masks; each mask occurs at most once."""
        old = self.boxes[mask]
        low, high = np.stack([left, top], -1), np.stack([right, bottom], -1)
        self.boxes[mask] = np.concatenate([np.minimum(old[..., :2], low), np.maximum(old[..., 2:], high)], -1)


def mask_statistics_cpu(logits: Tensor, size: tuple[int, int], threshold: float, offset: float) -> MaskStatistics:
    """:func:`sam2fast.kernels.mask_ops.mask_statistics` of CPU tensors, equal to the reference."""
    (N, h, w), (H, W) = logits.shape, size
    thresholds = threshold, threshold + offset, threshold - offset
    levels = torch.tensor(thresholds, dtype=torch.float32, device="cpu").tolist()
    if (
        PIXELS_PER_LOGIT * h * w > H * W
        or h == H  # torch copies rows, and a pixel lies between two logits instead of four
        or w == W
        or max(h * H, w * W) > LARGEST_TABLE
        or not all(abs(level) < LARGEST for level in levels)
    ):
        return mask_statistics_reference(logits, size, threshold, offset)
    grid, found, dense = grid_of(h, w, size), Statistics(N, size), np.zeros(N, dtype=bool)
    close: list[CloseCell] = []
    step = max(1, CHUNK // (h * w))
    for start in range(0, N, step):
        _chunk(logits[start : start + step].float(), start, grid, levels, found, close, dense)
    close_cells = np.bincount([cell.mask for cell in close], minlength=N)
    dense |= close_cells > CLOSE
    _count_close(logits, [cell for cell in close if not dense[cell.mask]], grid, levels, found)
    counts, boxes = (torch.from_numpy(x.astype(np.int32)) for x in (found.counts, found.boxes))
    if dense.any():
        rest = torch.from_numpy(np.flatnonzero(dense))
        area, above, below, of_rest = mask_statistics_reference(logits[rest], size, threshold, offset)
        counts[:, rest], boxes[rest] = torch.stack([area, above, below]), of_rest
    return MaskStatistics(counts[0], counts[1], counts[2], boxes)


def _chunk(
    logits: Tensor,
    start: int,
    grid: Grid,
    levels: list[float],
    found: Statistics,
    close: list[CloseCell],
    dense: np.ndarray,
) -> None:
    """Adds the statistics of a chunk of masks from ``start`` on to ``found``, without close cells and dense masks."""
    n, h, w = logits.shape
    padded = F.pad(logits[:, None], (0, 1, 0, 1), mode="replicate").numpy().reshape(-1)
    # If all logits of a cell are below `short`, no pixel is above the level; if all are above `beyond`, all pixels are.
    short = [np.float32(t - (abs(t) * OF_LEVEL + UNDERFLOW if t else 0)) for t in levels]
    beyond = [np.float32(t + abs(t) * OF_LEVEL + UNDERFLOW) for t in levels]
    P = len(grid.pixels)
    cells = _touched(padded, w + 1, min(short))
    cells.reshape(n, P)[:] &= grid.pixels > 0
    flat = np.flatnonzero(cells)
    bounds = np.searchsorted(flat, np.arange(n + 1) * P)
    mask = np.repeat(np.arange(n), np.diff(bounds))
    cell = flat - mask * P
    corners = [padded[flat + step] for step in (0, 1, w + 1, w + 2)]
    low, high = (functools.reduce(f, corners) for f in (np.minimum, np.maximum))  # NaN if one is
    low[high >= LARGEST] = -np.inf  # infinity times zero is NaN, which is not above a level

    pixels, crossed = grid.pixels[cell], []
    for k in range(3):
        whole = low > beyond[k]
        total = np.append(0, (pixels * whole).cumsum())[bounds]
        found.counts[k, start : start + n] += np.diff(total)
        crossed.append(np.flatnonzero((high > short[k]) & ~whole))
        if k == 0:
            _extend_by_whole(found, start, np.flatnonzero(whole), bounds, cell, grid)
    most = len(grid.rows.weight) * len(grid.columns.weight)  # pixels of a cell
    at_once = max(1, AT_ONCE // len(grid.columns.weight))  # a row of pixels in each
    interpolated = np.bincount(mask[np.concatenate(crossed)], minlength=n) * most
    many = interpolated > grid.size[0] * grid.size[1]
    dense[start : start + n] = many
    for k, chosen in enumerate(crossed):
        if many.any():
            chosen = chosen[~many[mask[chosen]]]
        for some in np.split(chosen, range(at_once, len(chosen), at_once)):
            row, column = grid.row[cell[some]], grid.column[cell[some]]
            inside = _interpolate([x[some] for x in corners], levels[k], row, column, grid, extent=k == 0)
            of = mask[some]
            found.counts[k, start : start + n] += np.bincount(of, inside.pixels, minlength=n).astype(np.int64)
            if k == 0:
                _extend_by_parts(found, start, of, row, column, inside, grid)
            at = inside.close
            close += [
                CloseCell(k, start + m, y, x)
                for m, y, x in zip(*(v[at].tolist() for v in (of, row, column)), strict=True)
            ]


def _touched(padded: np.ndarray, stride: int, level: np.float32) -> np.ndarray:
    """At least the cells with a logit above the level."""
    above = padded > level
    pairs = above.copy()
    pairs[:-1] |= above[1:]
    cells = pairs.copy()
    cells[:-stride] |= pairs[stride:]
    return cells


def _extend_by_whole(
    found: Statistics, start: int, chosen: np.ndarray, bounds: np.ndarray, cell: np.ndarray, grid: Grid
) -> None:
    """Extends boxes by cells that are all foreground; cells are ordered by mask and row."""
    ends = np.searchsorted(chosen, bounds)
    some = np.flatnonzero(np.diff(ends))
    if len(some) == 0:
        return
    row, column = grid.row[cell[chosen]], grid.column[cell[chosen]]
    first, last = ends[some], ends[some + 1] - 1
    left, right = np.minimum.reduceat(column, first), np.maximum.reduceat(column, first)
    (y, ny, _), (x, nx, _) = grid.rows, grid.columns
    found.extend(start + some, x[left], y[row[first]], x[right] + nx[right] - 1, y[row[last]] + ny[row[last]] - 1)


class CellPixels(NamedTuple):
    """Pixels above the level in K cells; unknown for close cells."""

    pixels: np.ndarray  # (K) their number, 0 for close cells
    close: np.ndarray  # (K) bool
    extent: np.ndarray | None  # (4, K) left, top, right, bottom in the cell; right is -1 if there are none


def _interpolate(
    corners: list[np.ndarray], level: float, row: np.ndarray, column: np.ndarray, grid: Grid, extent: bool
) -> CellPixels:
    """Interpolates all pixels of K cells, one position of all cells at a time."""
    a, b, c, d = (torch.from_numpy(x) for x in corners)
    largest = torch.stack([a, b, c, d]).abs_().amax(0)
    a, b, c, d = a - level, b - level, c - level, d - level
    rightwards, downwards = b - a, c - a
    twist = (d - c) - rightwards
    i, j = torch.from_numpy(row), torch.from_numpy(column)
    ny, nx = torch.from_numpy(grid.rows.number)[i], torch.from_numpy(grid.columns.number)[j]
    weight = torch.from_numpy(grid.columns.weight).index_select(1, j)  # (most, K)
    again = (len(weight) - nx).float()  # how often the last position is repeated
    count = torch.zeros_like(a, dtype=torch.float64)  # a cell may have more pixels than fp32 can count
    least, columns = torch.full_like(a, torch.inf), torch.zeros_like(weight)
    top, bottom = torch.full_like(a, torch.inf), torch.full_like(a, -1.0)
    value, size = torch.empty_like(weight), torch.empty_like(weight)
    for k, weights in enumerate(torch.from_numpy(grid.rows.weight)):
        far = weights.index_select(0, i)
        torch.addcmul(torch.addcmul(a, downwards, far), torch.addcmul(rightwards, twist, far), weight, out=value)
        least = torch.minimum(least, torch.abs(value, out=size).amin(0))
        # 1 above the level, 0 below it; values between are close.
        value.mul_(2 / UNDERFLOW).clamp_(0, 1)
        in_row = (value.sum(0) - again * value[-1]) * (k < ny)
        count += in_row
        if extent:
            torch.maximum(columns, value, out=columns)
            top = torch.where((in_row > 0) & (top > k), float(k), top)
            bottom = torch.where(in_row > 0, float(k), bottom)
    close = (least <= largest * OF_CELL + UNDERFLOW) | (largest >= LARGEST)
    count = torch.where(close, 0, count)
    if not extent:
        return CellPixels(count.numpy(), close.numpy(), None)
    number = torch.arange(1.0, len(weight) + 1, device="cpu")[:, None]
    right = torch.minimum((columns * number).amax(0), nx) - 1
    left = len(weight) - (columns * number.flip(0)).amax(0)
    right = torch.where(count > 0, right, -1)
    return CellPixels(count.numpy(), close.numpy(), torch.stack([left, top, right, bottom]).numpy())


def _extend_by_parts(
    found: Statistics, start: int, mask: np.ndarray, row: np.ndarray, column: np.ndarray, inside: CellPixels, grid: Grid
) -> None:
    """Extends boxes by cells that are partly foreground; cells are ordered by mask."""
    assert inside.extent is not None
    some = np.flatnonzero(inside.extent[2] >= 0)
    if len(some) == 0:
        return
    mask, y, x = mask[some], grid.rows.first[row[some]], grid.columns.first[column[some]]
    left, top, right, bottom = inside.extent[:, some].astype(np.int64)
    first = np.flatnonzero(np.diff(mask, prepend=-1))
    found.extend(
        start + mask[first],
        np.minimum.reduceat(x + left, first),
        np.minimum.reduceat(y + top, first),
        np.maximum.reduceat(x + right, first),
        np.maximum.reduceat(y + bottom, first),
    )


def _count_close(logits: Tensor, close: list[CloseCell], grid: Grid, levels: list[float], found: Statistics) -> None:
    """Adds the pixels of close cells to ``found``, interpolated by torch."""
    (h, w), (rows, columns) = logits.shape[1:], (grid.rows, grid.columns)
    for cells in _disjoint_groups(close):
        image = torch.zeros(1, 1, h, w, device="cpu")
        for _, n, i, j in cells:
            image[0, 0, i : i + 2, j : j + 2] = logits[n, i : i + 2, j : j + 2]
        pixels = upsample_masks_reference(image, grid.size)[0, 0]
        for k, n, i, j in cells:
            y, x = int(rows.first[i]), int(columns.first[j])
            above = (pixels[y : y + rows.number[i], x : x + columns.number[j]] > levels[k]).nonzero().numpy()
            found.counts[k, n] += len(above)
            if k == 0 and len(above):
                (top, left), (bottom, right) = above.min(0), above.max(0)
                found.extend(n, x + left, y + top, x + right, y + bottom)


def _disjoint_groups(close: list[CloseCell]) -> Iterator[list[CloseCell]]:
    """Groups of cells; no two cells of a group share a logit."""
    groups: dict[tuple[int, int, int], list[CloseCell]] = {}
    seen: dict[tuple[int, int], int] = {}
    for cell in close:
        key = cell.row, cell.column
        seen[key] = seen.get(key, -1) + 1
        # Cells with equal parities are the same cell or have a cell between them.
        groups.setdefault((cell.row % 2, cell.column % 2, seen[key]), []).append(cell)
    yield from groups.values()


def suppress_overlaps_cpu(logits: Tensor) -> Tensor:
    """Like :func:`suppress_overlaps_reference`, for two objects or more; without gradients."""
    owner, highest = torch.zeros_like(logits[0], dtype=torch.int32), logits[0]
    for number, of_object in enumerate(logits[1:], start=1):
        owner.masked_fill_((of_object > highest) | (of_object.isnan() & ~highest.isnan()), number)
        highest = torch.maximum(highest, of_object)  # a NaN is the largest
    return torch.stack([torch.where(owner == i, x, x.clamp(max=SUPPRESSED)) for i, x in enumerate(logits)])
