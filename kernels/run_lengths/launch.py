"""Launches the Triton kernels of run lengths."""

import torch
import triton
from torch import Tensor

from sam2fast.kernels._dispatch import count_launch
from sam2fast.kernels._launch import ANY, LaunchConfig, launch_config
from sam2fast.kernels.mask_ops.launch import as_compared, axes_of, copies
from sam2fast.kernels.run_lengths.kernel import _count_kernel, _decode_kernel, _write_kernel
from sam2fast.kernels.run_lengths.types import Placement, RunLengths


def encode_masks_triton(masks: Tensor) -> RunLengths:
    """:func:`sam2fast.kernels.run_lengths.encode_masks` on the GPU; synchronises once."""
    N, H, W = masks.shape
    if H * W == 0:
        counts = torch.zeros(N, dtype=torch.int32, device=masks.device)
        return RunLengths(counts, torch.arange(N + 1, device=masks.device), (H, W))
    images = masks.contiguous().view(torch.uint8)
    return _encode(images, (H, W), 0.0, Placement((0, 0), (H, W)), False, launch_config("run_lengths", images, ANY))


def encode_upsampled_triton(logits: Tensor, size: tuple[int, int], threshold: float, place: Placement) -> RunLengths:
    """:func:`sam2fast.kernels.run_lengths.encode_upsampled` on the GPU; synchronises once."""
    config = launch_config("run_lengths", logits, "upsampled")
    return _encode(logits.contiguous(), size, threshold, place, True, config)


def _encode(
    images: Tensor, size: tuple[int, int], threshold: float, place: Placement, upsample: bool, config: LaunchConfig
) -> RunLengths:
    (N, h, w), (H, W), (y, x), device = images.shape, size, place.origin, images.device
    pixels, whole = place.canvas[0] * place.canvas[1], place.canvas[0] == H
    # What begins behind the mask: the row below, or where that is another column's first, the column to the right.
    rows = H if whole else H + 1
    columns = min(W + 1, place.canvas[1] - x) if whole else W
    if N == 0:
        return RunLengths(images.new_empty(0, dtype=torch.int32), torch.arange(1, device=device), place.canvas)
    stretches = triton.cdiv(columns, config.meta["BLOCK_X"])
    of_input = (h, w, H, W, *axes_of(images, size), as_compared(threshold))
    rest = (*of_input, y, x, place.canvas[0], pixels, rows, columns, stretches)
    copy = upsample and copies(images, size)
    constants = {"UPSAMPLE": upsample, "COPY": copy, "WHOLE": whole, **config.meta, **config.options}
    grid = (N * stretches,)
    per_column = torch.empty(N, columns, dtype=torch.int32, device=device)
    count_launch("run_lengths")
    with config.on_device(images):
        _count_kernel[grid](images, per_column, *rest, **constants)
    ends = per_column.view(-1).cumsum(0, dtype=torch.int64)
    offsets = torch.arange(N + 1, device=device)
    offsets[1:] += ends.view(N, columns)[:, -1]
    begins = torch.empty(int(offsets[-1]), dtype=torch.int32, device=device)  # the synchronisation
    with config.on_device(images):
        _write_kernel[grid](images, per_column, ends, begins, *rest, **constants)
    # A run ends where the next begins, a mask's last one with the canvas.
    behind = begins.roll(-1).index_fill_(0, offsets[1:] - 1, pixels)
    return RunLengths(behind.sub_(begins), offsets, place.canvas)


def decode_masks_triton(runs: RunLengths) -> Tensor:
    """:func:`sam2fast.kernels.run_lengths.decode_masks` on the GPU; never synchronises."""
    (H, W), N = runs.size, len(runs.offsets) - 1
    masks = torch.empty(N, H, W, dtype=torch.bool, device=runs.counts.device)
    if masks.numel() == 0:
        return masks
    config = launch_config("run_lengths", runs.counts, "decode")
    blocks = triton.cdiv(H * W, config.meta["BLOCK"])
    ends = runs.counts.cumsum(0, dtype=torch.int64)
    count_launch("run_lengths")
    with config.on_device(masks):
        _decode_kernel[(N * blocks,)](
            ends, runs.offsets, masks.view(torch.uint8), H, W, blocks, **config.meta, **config.options
        )
    return masks
