"""Counts and boxes of upsampled masks on the CPU, without upsampling them.

A pixel is interpolated from the four logits around it, its cell. Where these are all above a level, so are all pixels
of the cell, and where none is, none are: they are counted, not looked at. The pixels of other cells are interpolated by
fewer operations than torch's, which gives what torch has but for roundings. Where these could decide, torch itself is
asked: cells of many masks are pasted into one image of logits, since a pixel depends on nothing but its cell.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.kernels.mask_ops.interpolation import PIXELS_PER_LOGIT, weights_along
from sam2fast.kernels.mask_ops.reference import MaskStatistics, mask_statistics_reference, upsample_masks_reference

# Logits of one pass, which stay in the cache with all that belongs to them. Pixels that are interpolated at once: torch
# keeps to one thread for so few, and does them before others would have been woken.
CHUNK, AT_ONCE = 2**20, 2**15
# A mask of which torch would be asked for more than so many cells is simply upsampled, as is one of which more pixels
# would be interpolated than it has.
CLOSE = 64
LARGEST_TABLE = 2**24
# Of a level: more than the terms of a pixel are rounded by if all of them are on one side of it. Of the largest logit
# of a cell: more than torch's operations and those here round together (38 times 2**-24).
OF_LEVEL, OF_CELL, UNDERFLOW = 2.0**-20, 2.0**-18, 1e-36
LARGEST = 2.0**100  # from here on something could overflow


class Axis(NamedTuple):
    """How torch interpolates from n positions to N: those of a cell lie between two of the n, or behind the last."""

    first: np.ndarray  # (n) the first position of each cell
    number: np.ndarray  # (n) how many it has
    weight: np.ndarray  # (most, n) fp32, of the farther logit; a cell with fewer positions has its last again


@functools.lru_cache(maxsize=16)
def axis_of(n: int, N: int) -> Axis:
    cell, _, far = weights_along(n, N)
    count = np.bincount(cell, minlength=n)
    first = count.cumsum() - count
    position = first + np.minimum(np.arange(count.max())[:, None], np.maximum(count - 1, 0))
    return Axis(first, count, far[np.minimum(position, N - 1)])


class Grid(NamedTuple):
    """The cells of a mask, row by row; each row has one more, of no pixels, and so has the mask a row."""

    size: tuple[int, int]
    rows: Axis
    columns: Axis
    row: np.ndarray  # (P) of each cell
    column: np.ndarray  # (P)
    pixels: np.ndarray  # (P) int64


@functools.lru_cache(maxsize=4)
def grid_of(h: int, w: int, size: tuple[int, int]) -> Grid:
    rows, columns = axis_of(h, size[0]), axis_of(w, size[1])
    row, column = np.divmod(np.arange((h + 1) * (w + 1)), w + 1)
    count_y, count_x = np.append(rows.number, 0), np.append(columns.number, 0)
    return Grid(size, rows, columns, row, column, count_y[row] * count_x[column])


class Close(NamedTuple):
    """A cell with a pixel that torch must be asked for."""

    level: int
    mask: int
    row: int
    column: int


class Statistics:
    """What is counted so far; boxes lie as they are returned."""

    def __init__(self, N: int, size: tuple[int, int]) -> None:
        self.counts = np.zeros((3, N), dtype=np.int64)
        self.boxes = np.tile(np.array([size[1], size[0], -1, -1]), (N, 1))

    def extend(
        self, mask: np.ndarray | int, left: np.ndarray, top: np.ndarray, right: np.ndarray, bottom: np.ndarray
    ) -> None:
        """Boxes of some of the masks, each at most once, grow by these."""
        old = self.boxes[mask]
        low, high = np.stack([left, top], -1), np.stack([right, bottom], -1)
        self.boxes[mask] = np.concatenate([np.minimum(old[..., :2], low), np.maximum(old[..., 2:], high)], -1)


def mask_statistics_cpu(logits: Tensor, size: tuple[int, int], threshold: float, offset: float) -> MaskStatistics:
    """:func:`sam2fast.kernels.mask_ops.mask_statistics` of CPU tensors: the same integers as the twin's."""
    (N, h, w), (H, W) = logits.shape, size
    thresholds = threshold, threshold + offset, threshold - offset
    levels = torch.tensor(thresholds, dtype=torch.float32, device="cpu").tolist()
    if (
        PIXELS_PER_LOGIT * h * w > H * W
        or h == H  # then torch copies rows, and a pixel lies between two logits instead of four
        or w == W
        or max(h * H, w * W) > LARGEST_TABLE
        or not all(abs(level) < LARGEST for level in levels)
    ):
        return mask_statistics_reference(logits, size, threshold, offset)
    grid, found, dense = grid_of(h, w, size), Statistics(N, size), np.zeros(N, dtype=bool)
    close: list[Close] = []
    step = max(1, CHUNK // (h * w))
    for start in range(0, N, step):
        _chunk(logits[start : start + step].float(), start, grid, levels, found, close, dense)
    asked = np.bincount([cell.mask for cell in close], minlength=N)
    dense |= asked > CLOSE
    _ask(logits, [cell for cell in close if not dense[cell.mask]], grid, levels, found)
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
    close: list[Close],
    dense: np.ndarray,
) -> None:
    """Adds to ``found`` what masks ``start`` and following have, without their close cells and their dense masks."""
    n, h, w = logits.shape
    padded = F.pad(logits[:, None], (0, 1, 0, 1), mode="replicate").numpy().reshape(-1)
    # No pixel is above a level of which all logits of its cell are short, and all are if these are above it.
    short = [np.float32(t - (abs(t) * OF_LEVEL + UNDERFLOW if t else 0)) for t in levels]
    beyond = [np.float32(t + abs(t) * OF_LEVEL + UNDERFLOW) for t in levels]
    P = len(grid.pixels)
    cells = _touched(padded, w + 1, min(short))
    cells.reshape(n, P)[:] &= grid.pixels > 0
    place = np.flatnonzero(cells)
    bounds = np.searchsorted(place, np.arange(n + 1) * P)
    mask = np.repeat(np.arange(n), np.diff(bounds))
    cell = place - mask * P
    corners = [padded[place + step] for step in (0, 1, w + 1, w + 2)]
    low, high = (functools.reduce(f, corners) for f in (np.minimum, np.maximum))  # NaN if one is
    low[high >= LARGEST] = -np.inf  # infinite logits times zero are no pixels above anything

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
                Close(k, start + m, y, x) for m, y, x in zip(*(v[at].tolist() for v in (of, row, column)), strict=True)
            ]


def _touched(padded: np.ndarray, stride: int, level: np.float32) -> np.ndarray:
    """The cells with a logit above the level, and some without."""
    above = padded > level
    pairs = above.copy()
    pairs[:-1] |= above[1:]
    cells = pairs.copy()
    cells[:-stride] |= pairs[stride:]
    return cells


def _extend_by_whole(
    found: Statistics, start: int, chosen: np.ndarray, bounds: np.ndarray, cell: np.ndarray, grid: Grid
) -> None:
    """Boxes grow by cells that are foreground altogether; they lie mask by mask, row by row."""
    ends = np.searchsorted(chosen, bounds)
    some = np.flatnonzero(np.diff(ends))
    if len(some) == 0:
        return
    row, column = grid.row[cell[chosen]], grid.column[cell[chosen]]
    first, last = ends[some], ends[some + 1] - 1
    left, right = np.minimum.reduceat(column, first), np.maximum.reduceat(column, first)
    (y, ny, _), (x, nx, _) = grid.rows, grid.columns
    found.extend(start + some, x[left], y[row[first]], x[right] + nx[right] - 1, y[row[last]] + ny[row[last]] - 1)


class Inside(NamedTuple):
    """What is above the level in K cells; of close ones nothing is known."""

    pixels: np.ndarray  # (K) how many, 0 of close ones
    close: np.ndarray  # (K) bool
    extent: np.ndarray | None  # (4, K) left, top, right, bottom in the cell; right is -1 where there is nothing


def _interpolate(
    corners: list[np.ndarray], level: float, row: np.ndarray, column: np.ndarray, grid: Grid, extent: bool
) -> Inside:
    """Interpolates all pixels of K cells, in columns of K for each position in a cell."""
    a, b, c, d = (torch.from_numpy(x) for x in corners)
    largest = torch.stack([a, b, c, d]).abs_().amax(0)
    a, b, c, d = a - level, b - level, c - level, d - level
    rightwards, downwards = b - a, c - a
    twist = (d - c) - rightwards
    i, j = torch.from_numpy(row), torch.from_numpy(column)
    ny, nx = torch.from_numpy(grid.rows.number)[i], torch.from_numpy(grid.columns.number)[j]
    weight = torch.from_numpy(grid.columns.weight).index_select(1, j)  # (most, K)
    again = (len(weight) - nx).float()  # how often the last position comes again
    count = torch.zeros_like(a, dtype=torch.float64)  # a cell may have more pixels than fp32 counts
    least, columns = torch.full_like(a, torch.inf), torch.zeros_like(weight)
    top, bottom = torch.full_like(a, torch.inf), torch.full_like(a, -1.0)
    value, size = torch.empty_like(weight), torch.empty_like(weight)
    for k, weights in enumerate(torch.from_numpy(grid.rows.weight)):
        far = weights.index_select(0, i)
        torch.addcmul(torch.addcmul(a, downwards, far), torch.addcmul(rightwards, twist, far), weight, out=value)
        least = torch.minimum(least, torch.abs(value, out=size).amin(0))
        # 1 above the level, 0 below it: what lies between is close.
        value.mul_(2 / UNDERFLOW).clamp_(0, 1)
        in_row = value.sum(0) - again * value[-1]
        there = in_row * (k < ny)
        count += there
        if extent:
            torch.maximum(columns, value, out=columns)
            top = torch.where((there > 0) & (top > k), float(k), top)
            bottom = torch.where(there > 0, float(k), bottom)
    close = (least <= largest * OF_CELL + UNDERFLOW) | (largest >= LARGEST)
    count = torch.where(close, 0, count)
    if not extent:
        return Inside(count.numpy(), close.numpy(), None)
    number = torch.arange(1.0, len(weight) + 1, device="cpu")[:, None]
    right = torch.minimum((columns * number).amax(0), nx) - 1
    left = len(weight) - (columns * number.flip(0)).amax(0)
    right = torch.where(count > 0, right, -1)
    return Inside(count.numpy(), close.numpy(), torch.stack([left, top, right, bottom]).numpy())


def _extend_by_parts(
    found: Statistics, start: int, mask: np.ndarray, row: np.ndarray, column: np.ndarray, inside: Inside, grid: Grid
) -> None:
    """Boxes grow by cells of which a part is foreground; they lie mask by mask."""
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


def _ask(logits: Tensor, close: list[Close], grid: Grid, levels: list[float], found: Statistics) -> None:
    """Adds to ``found`` the pixels of close cells, as torch interpolates them."""
    (h, w), (rows, columns) = logits.shape[1:], (grid.rows, grid.columns)
    for cells in _apart(close):
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


def _apart(close: list[Close]) -> Iterator[list[Close]]:
    """The cells in groups, in each of which no two have a logit in common."""
    groups: dict[tuple[int, int, int], list[Close]] = {}
    seen: dict[tuple[int, int], int] = {}
    for cell in close:
        place = cell.row, cell.column
        seen[place] = seen.get(place, -1) + 1
        # Cells with the same parities are the same or have a cell between them.
        groups.setdefault((cell.row % 2, cell.column % 2, seen[place]), []).append(cell)
    yield from groups.values()
