"""Encodes and decodes run lengths on the CPU. Finds changes between rows eight pixels at a time, and sorts changes."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sam2fast.kernels.mask_ops import upsample_and_threshold_reference
from sam2fast.kernels.mask_ops.cells import Cells, column_runs
from sam2fast.kernels.mask_ops.cpu import LARGEST, bounds_of, grid_of, has_cells
from sam2fast.kernels.run_lengths import Placement

# If changes occur in more than 1 / FEW of all groups of eight pixels, changes are found in a transposed mask, not
# sorted.
FEW = 8


def encode_masks_cpu(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Computes :func:`sam2fast.kernels.run_lengths.encode_masks` of CPU tensors."""
    N, H, W = masks.shape
    placement, buffer, pixels = Placement((0, 0), (H, W)), _buffer(H, W), masks.numpy()
    return _collect(N, lambda n: changes(np.ascontiguousarray(pixels[n]), placement, buffer), (H, W))


def encode_upsampled_cpu(
    logits: Tensor, size: tuple[int, int], threshold: float, origin: tuple[int, int], canvas: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Computes :func:`sam2fast.kernels.run_lengths.encode_upsampled` of CPU tensors, one mask at a time."""
    h, w = logits.shape[1:]
    level, size, placement = np.float32(threshold), (size[0], size[1]), Placement(origin, canvas)
    by_cells = has_cells(h, w, size) and abs(level) < LARGEST
    buffer = np.empty(0, dtype=np.uint8)

    def of(n: int) -> np.ndarray:
        nonlocal buffer
        indices = outline_changes(logits[n].float().numpy(), size, level, placement) if by_cells else None
        if indices is not None:
            return indices
        buffer = buffer if len(buffer) else _buffer(*size)
        return changes(upsample_and_threshold_reference(logits[n], size, threshold).numpy(), placement, buffer)

    return _collect(len(logits), of, canvas)


def outline_changes(
    logits: np.ndarray, size: tuple[int, int], level: np.float32, placement: Placement
) -> np.ndarray | None:
    """Returns :func:`changes` of a mask without upsampling: of pixels at which upsampled logits exceed a level.

    Returns None if torch must upsample the mask, since a logit is not finite, or rounding affects too many pixels.
    """
    (h, w), (y, x), (H, _) = logits.shape, placement.origin, placement.canvas
    if not (np.abs(logits) < LARGEST).all():
        return None
    grid = grid_of(h, w, size)
    rows, columns = grid.rows, grid.columns
    padded = np.pad(logits, (0, 1), mode="edge")
    corners = [padded[i : h + i, j : w + j] for i in (0, 1) for j in (0, 1)]
    low, high = (functools.reduce(f, corners) for f in (np.minimum, np.maximum))
    short, beyond = bounds_of(float(level))
    whole = low > beyond
    i, j = np.nonzero((high > short) & ~whole)
    part = Cells(np.zeros(len(i), dtype=np.int64), i, j, [corner[i, j] for corner in corners])
    runs = column_runs(part, float(level), rows, columns)
    if len(runs.dense) or (runs.bottom - runs.top + 1 != runs.above)[runs.above > 0].any():
        return None
    cell, at = np.nonzero(runs.above)
    column, above = columns.first[j[cell]] + at, rows.first[i[cell]]
    begins = [column * H + above + runs.top[cell, at]]
    ends = [column * H + above + runs.bottom[cell, at] + 1]

    # Finds vertical runs of cells that contain only foreground pixels, and repeats the runs for each column of pixels
    # in the cells. The last pixel of a row of cells is above the first pixel of the next row.
    edges = np.diff(np.pad(whole, ((1, 1), (0, 0))).astype(np.int8), axis=0).T  # (w, h + 1)
    row_ends = np.append(rows.first, size[0])
    for values, sign in ((begins, 1), (ends, -1)):
        j, i = np.nonzero(edges == sign)
        number = columns.number[j]
        at = np.arange(number.sum()) - np.repeat(number.cumsum() - number, number)
        values.append((np.repeat(columns.first[j], number) + at) * H + np.repeat(row_ends[i], number))
    indices = np.concatenate(begins + ends) + x * H + y
    indices.sort()
    return _without_pairs(indices, placement)


def changes(mask: np.ndarray, placement: Placement, buffer: np.ndarray) -> np.ndarray:
    """Returns changes: ascending column-major indices of canvas pixels that differ from the previous pixel, int64.

    Args:
        mask: Contiguous mask ``(h, w)`` bool.
        placement: Position of the mask on the canvas.
        buffer: Array of at least ``(h + 1) * w + 7`` bytes, which is overwritten.
    """
    (h, w), (y, x), H = mask.shape, placement.origin, placement.canvas[0]
    if mask.size == 0:
        return np.empty(0, dtype=np.int64)
    pixels, used = mask.view(np.uint8), (h + 1) * w
    groups = buffer[: -(-used // 8) * 8]
    groups[used:] = 0
    # Pixels above and below the mask count as background.
    edges = groups[:used].reshape(h + 1, w)
    edges[0], edges[h] = pixels[0], pixels[-1]
    np.bitwise_xor(pixels[1:], pixels[:-1], out=edges[1:h])
    groups = groups.view(np.uint64)
    hot = np.flatnonzero(groups != 0)
    if len(hot) * FEW <= len(groups):
        within = np.flatnonzero(groups[hot].view(np.bool_))
        row, column = np.divmod(hot[within >> 3] * 8 + (within & 7), w)
        indices = (x + column) * H + (y + row)
        indices.sort()
    else:
        column, row = np.divmod(np.flatnonzero(np.ascontiguousarray(edges.T)), h + 1)
        indices = (x + column) * H + (y + row)
    return _without_pairs(indices, placement)


def _without_pairs(indices: np.ndarray, placement: Placement) -> np.ndarray:
    """Drops both occurrences of each index that occurs twice: the end of a run, and the beginning of an adjacent run.

    If the mask is as high as the canvas, runs can continue in the next column. An index after the last pixel of the
    canvas is dropped too.
    """
    twice = indices[1:] == indices[:-1]
    indices = indices[~(np.append(twice, False) | np.append(False, twice))] if len(indices) else indices
    return indices[:-1] if len(indices) and indices[-1] == placement.canvas[0] * placement.canvas[1] else indices


def decode_masks_cpu(counts: Tensor, offsets: Tensor, H: int, W: int) -> Tensor:
    """Computes :func:`sam2fast.kernels.run_lengths.decode_masks` of CPU tensors."""
    lengths, begins = counts.numpy(), offsets.tolist()
    masks = np.empty((len(begins) - 1, H, W), dtype=bool)
    for n, (first, last) in enumerate(zip(begins[:-1], begins[1:], strict=True)):
        pixels = np.repeat(np.arange(last - first) % 2 == 1, lengths[first:last])
        masks[n] = pixels.reshape(W, H).T
    return torch.from_numpy(masks)


def _buffer(H: int, W: int) -> np.ndarray:
    return np.empty((H + 1) * W + 7, dtype=np.uint8)


def _collect(N: int, changes_of: Callable[[int], np.ndarray], size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Returns run lengths and offsets of N masks. A run length is the distance between successive changes of a mask."""
    counts: list[np.ndarray] = [np.empty(0, dtype=np.int32)]
    offsets = np.zeros(N + 1, dtype=np.int64)
    for n in range(N):
        indices = changes_of(n)
        counts.append(np.diff(indices, prepend=0, append=size[0] * size[1]).astype(np.int32))
        offsets[n + 1] = offsets[n] + len(indices) + 1
    return torch.from_numpy(np.concatenate(counts)), torch.from_numpy(offsets)
