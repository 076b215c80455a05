"""Launches the Triton kernels of masks, without synchronising."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import triton
from torch import Tensor

from sam2fast.kernels._launch import ANY, FUSED, LaunchConfig, launch_config
from sam2fast.kernels.mask_ops.kernel import (
    CLEARED,
    _clear_kernel,
    _overlaps_kernel,
    _pack_kernel,
    _statistics_kernel,
    _threshold_and_pack_kernel,
    _unpack_kernel,
    _upsample_kernel,
)
from sam2fast.kernels.mask_ops.reference import empty_statistics


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Returns the block size of a program, as rows x columns, or as a number of pixels for ``overlaps``.

    The kernel that upsamples logits to packed masks has the shape class ``pack``, and kernels that pack or unpack masks
    have ``bits``. All other kernels share one block size.
    """
    options = {"num_warps": 4, "num_stages": 1}
    if shape == "pack":  # BLOCK_X is a number of bytes, each of eight pixels
        return LaunchConfig({"BLOCK_Y": 16, "BLOCK_X": 32}, options)
    if shape == "bits":
        return LaunchConfig({"BLOCK_Y": 16, "BLOCK_X": 64}, options)
    if shape == "overlaps":
        return LaunchConfig({"BLOCK": 512}, options)
    return LaunchConfig({"BLOCK_Y": 8, "BLOCK_X": 128}, options)


def mask_statistics_triton(logits, size, threshold, offset) -> tuple[Tensor, Tensor]:
    """Computes pixel counts ``(3, N)`` and boxes ``(N, 4)`` for :func:`sam2fast.kernels.mask_ops.mask_statistics`."""
    N, (H, W), (counts, boxes) = len(logits), size, empty_statistics(logits)
    if N:
        with launch_config("mask_ops", config, logits).on_device(logits):
            _clear_kernel[(triton.cdiv(4 * N, CLEARED),)](counts, boxes, N, H, W, BLOCK=CLEARED, **FUSED)
        levels = map(as_compared, (threshold, threshold + offset, threshold - offset))
        _upsample("mask_statistics", _statistics_kernel, logits, size, (counts, boxes, N), levels)
    return counts, boxes


def upsample_and_threshold_triton(logits, size, threshold=0.0) -> Tensor:
    """Computes :func:`sam2fast.kernels.mask_ops.upsample_and_threshold` on the GPU."""
    out = torch.empty(*logits.shape[:-2], *size, dtype=torch.bool, device=logits.device)
    numbers, outs = (as_compared(threshold), 0.0, 0.0), (out.view(torch.uint8),)
    _upsample("upsample_and_threshold", _upsample_kernel, logits, size, outs, numbers, PROBABILITIES=False)
    return out


def scaled_probabilities_triton(logits, size, scale, bias, dtype) -> Tensor:
    """Computes :func:`sam2fast.kernels.mask_ops.scaled_probabilities` on the GPU."""
    out = torch.empty(*logits.shape[:-2], *size, dtype=dtype, device=logits.device)
    numbers = 0.0, scale, bias
    _upsample("scaled_probabilities", _upsample_kernel, logits, size, (out,), numbers, PROBABILITIES=True)
    return out


def upsample_and_pack_triton(logits, size, threshold=0.0) -> Tensor:
    """Computes :func:`sam2fast.kernels.mask_ops.upsample_and_pack` on the GPU."""
    width = triton.cdiv(size[1], 8)
    out = torch.empty(*logits.shape[:-2], size[0], width, dtype=torch.uint8, device=logits.device)
    numbers = width, as_compared(threshold)
    _upsample("upsample_and_pack", _threshold_and_pack_kernel, logits, size, (out,), numbers, "pack")
    return out


def _upsample(op, kernel, logits, size, outs, numbers, shape=ANY, **constants) -> None:
    """Launches a kernel that upsamples logits, with one program per band of rows. Does nothing for an empty batch."""
    (h, w), (H, W) = logits.shape[-2:], size
    logits, launch = logits.contiguous(), launch_config("mask_ops", config, logits, shape)
    bands = triton.cdiv(H, launch.meta["BLOCK_Y"])
    if logits.numel():
        launch.launch(
            op, kernel, (logits.numel() // (h * w) * bands,), logits, *outs, h, w, H, W, *axes_of(logits, size),
            *numbers, bands, COPY=copies(logits, size), **constants, **launch.meta,
        )  # fmt: skip


def pack_masks_triton(masks) -> Tensor:
    """Computes :func:`sam2fast.kernels.mask_ops.pack_masks` on the GPU."""
    W = masks.shape[-1]
    width = triton.cdiv(W, 8)
    out = torch.empty(*masks.shape[:-1], width, dtype=torch.uint8, device=masks.device)
    _convert_bits("pack_masks", _pack_kernel, masks.contiguous().view(torch.uint8), out, W, width)
    return out


def unpack_masks_triton(packed, width) -> Tensor:
    """Computes :func:`sam2fast.kernels.mask_ops.unpack_masks` on the GPU."""
    out = torch.empty(*packed.shape[:-1], width, dtype=torch.bool, device=packed.device)
    _convert_bits("unpack_masks", _unpack_kernel, packed.contiguous(), out.view(torch.uint8), width, packed.shape[-1])
    return out


def _convert_bits(op, kernel, source, out, W, width) -> None:
    """Launches a kernel that packs rows of ``W`` pixels to ``width`` bytes, or unpacks rows. ``out`` may be empty."""
    if out.numel() == 0:
        return
    launch, columns = launch_config("mask_ops", config, source, "bits"), out.shape[-1]
    rows = out.numel() // columns
    grid = (triton.cdiv(rows, launch.meta["BLOCK_Y"]) * triton.cdiv(columns, launch.meta["BLOCK_X"]),)
    launch.launch(op, kernel, grid, source, out, rows, W, width, **launch.meta)


def suppress_overlaps_triton(logits) -> Tensor:
    """Computes :func:`sam2fast.kernels.mask_ops.suppress_overlaps` on the GPU, for at least two objects."""
    logits = logits.contiguous()
    out = torch.empty_like(logits)
    if out.numel():
        launch, pixels = launch_config("mask_ops", config, logits, "overlaps"), logits[0].numel()
        grid = (triton.cdiv(pixels, launch.meta["BLOCK"]),)
        launch.launch("suppress_overlaps", _overlaps_kernel, grid, logits, out, len(logits), pixels, **launch.meta)
    return out


def copies(logits: Tensor, size: tuple[int, int]) -> bool:
    """Returns True if torch copies logits instead of interpolating: on GPUs, if the size does not change.

    Copying matters next to an infinite logit, where interpolation would return NaN.
    """
    return not logits.is_cpu and tuple(logits.shape[-2:]) == tuple(size)


def axes_of(logits: Tensor, size: tuple[int, int]) -> tuple[float, float, int, int]:
    """Returns scales (input / output size) of rows and columns as in torch, and offsets to the second row and column.

    A pixel is interpolated from two logits per axis. If the size of an axis does not change, torch reads one logit
    twice on the CPU (offset 0), and the next logit on other devices (offset 1). Offsets matter only for infinite or NaN
    logits.
    """
    (h, w), (H, W) = logits.shape[-2:], size
    before, after = (torch.tensor(sides, dtype=torch.float32, device="cpu") for sides in ([h, w], [H, W]))
    scale_y, scale_x = (before / after).tolist()
    return scale_y, scale_x, int(not logits.is_cpu or h != H), int(not logits.is_cpu or w != W)


def as_compared(threshold: float) -> float:
    """Rounds the threshold to fp32, as torch does in comparisons with fp32 logits."""
    return torch.tensor(threshold, dtype=torch.float32, device="cpu").item()
