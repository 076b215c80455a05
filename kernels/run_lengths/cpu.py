"""Run lengths on the CPU: changes between rows are found eight pixels at a time, and only changes are sorted."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from sam2fast.kernels.mask_ops import upsample_and_threshold_reference
from sam2fast.kernels.mask_ops.sparse_upsampling import SparseUpsampling
from sam2fast.kernels.run_lengths.reference import Placement, RunLengths

# If more than one in this many groups of eight pixels has changes, a transposed copy is cheaper than sorting them.
FEW = 8


def encode_masks_cpu(masks: Tensor) -> RunLengths:
    """:func:`sam2fast.kernels.run_lengths.encode_masks` of CPU tensors."""
    N, H, W = masks.shape
    placement, buffer, pixels = Placement((0, 0), (H, W)), _buffer(H, W), masks.numpy()
    return _collect(N, lambda n: changes(np.ascontiguousarray(pixels[n]), placement, buffer), (H, W))


def encode_upsampled_cpu(logits: Tensor, size: tuple[int, int], threshold: float, placement: Placement) -> RunLengths:
    """:func:`sam2fast.kernels.run_lengths.encode_upsampled` of CPU tensors, one mask at a time."""
    upsampling = SparseUpsampling.of(logits, size, threshold)
    buffer = _buffer(*size)

    def of(n: int) -> np.ndarray:
        part = upsampling(logits[n].float().numpy()) if upsampling else None
        if part is None:
            return changes(upsample_and_threshold_reference(logits[n], size, threshold).numpy(), placement, buffer)
        (y, x), mask = part
        return changes(mask, Placement((placement.origin[0] + y, placement.origin[1] + x), placement.canvas), buffer)

    return _collect(len(logits), of, placement.canvas)


def changes(mask: np.ndarray, placement: Placement, buffer: np.ndarray) -> np.ndarray:
    """Column-major indices of the canvas's pixels that differ from the previous one; ascending, int64.

    Args:
        mask: bool ``(h, w)``, contiguous.
        buffer: at least ``(h + 1) * w`` bytes and 7 more, overwritten.
    """
    (h, w), (y, x), (H, W) = mask.shape, placement.origin, placement.canvas
    if mask.size == 0:
        return np.empty(0, dtype=np.int64)
    pixels, used = mask.view(np.uint8), (h + 1) * w
    groups = buffer[: -(-used // 8) * 8]
    groups[used:] = 0
    # The mask is surrounded by background above and below.
    edges = groups[:used].reshape(h + 1, w)
    edges[0], edges[h] = pixels[0], pixels[-1]
    np.bitwise_xor(pixels[1:], pixels[:-1], out=edges[1:h])
    groups = groups.view(np.uint64)
    hot = np.flatnonzero(groups != 0)
    if len(hot) * FEW <= len(groups):
        within = np.flatnonzero(groups[hot].view(np.bool_))
        row, column = np.divmod(hot[within >> 3] * 8 + (within & 7), w)
        found = (x + column) * H + (y + row)
        found.sort()
    else:
        column, row = np.divmod(np.flatnonzero(np.ascontiguousarray(edges.T)), h + 1)
        found = (x + column) * H + (y + row)
    if h == H and len(found):
        # A column's last pixel is followed by the next column's first. Where both have an edge, there is none.
        twice = found[1:] == found[:-1]
        found = found[~(np.append(twice, False) | np.append(False, twice))]
    return found[:-1] if len(found) and found[-1] == H * W else found


def decode_masks_cpu(runs: RunLengths) -> Tensor:
    """:func:`sam2fast.kernels.run_lengths.decode_masks` of CPU tensors."""
    (H, W), counts, offsets = runs.size, runs.counts.numpy(), runs.offsets.tolist()
    masks = np.empty((len(offsets) - 1, H, W), dtype=bool)
    for n, (first, last) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        pixels = np.repeat(np.arange(last - first) % 2 == 1, counts[first:last])
        masks[n] = pixels.reshape(W, H).T
    return torch.from_numpy(masks)


def _buffer(H: int, W: int) -> np.ndarray:
    return np.empty((H + 1) * W + 7, dtype=np.uint8)


def _collect(N: int, changes_of: Callable[[int], np.ndarray], size: tuple[int, int]) -> RunLengths:
    """The lengths between the changes of each mask."""
    counts, offsets = [np.empty(0, dtype=np.int32)], np.zeros(N + 1, dtype=np.int64)
    for n in range(N):
        found = changes_of(n)
        counts.append(np.diff(found, prepend=0, append=size[0] * size[1]).astype(np.int32))
        offsets[n + 1] = offsets[n] + len(found) + 1
    return RunLengths(torch.from_numpy(np.concatenate(counts)), torch.from_numpy(offsets), size)
