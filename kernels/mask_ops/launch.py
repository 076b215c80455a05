"""Launches the Triton kernels of masks, without synchronising."""

import torch
import triton
from torch import Tensor

from sam2fast.kernels._dispatch import count_launch
from sam2fast.kernels._launch import FUSED, LaunchConfig, launch_config
from sam2fast.kernels.mask_ops.kernel import (
    CLEARED,
    _clear_kernel,
    _overlaps_kernel,
    _pack_kernel,
    _probabilities_kernel,
    _statistics_kernel,
    _threshold_and_pack_kernel,
    _threshold_kernel,
    _unpack_kernel,
)


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Returns the block of a launch: rows by columns, or pixels for ``overlaps``.

    ``pack`` upsamples to bits, ``bits`` packs or unpacks masks. All other kernels share one block.
    """
    options = {"num_warps": 4, "num_stages": 1}
    if shape == "pack":  # a column is one byte of eight pixels
        return LaunchConfig({"BLOCK_Y": 16, "BLOCK_X": 32}, options)
    if shape == "bits":
        return LaunchConfig({"BLOCK_Y": 16, "BLOCK_X": 64}, options)
    if shape == "overlaps":
        return LaunchConfig({"BLOCK": 512}, options)
    return LaunchConfig({"BLOCK_Y": 8, "BLOCK_X": 128}, options)


def mask_statistics_triton(
    logits: Tensor, size: tuple[int, int], threshold: float, offset: float
) -> tuple[Tensor, Tensor]:
    """Computes counts ``(3, N)`` and boxes ``(N, 4)`` of :func:`sam2fast.kernels.mask_ops.mask_statistics`."""
    (N, h, w), (H, W) = logits.shape, size
    counts = torch.empty(3, N, dtype=torch.int32, device=logits.device)
    boxes = torch.empty(N, 4, dtype=torch.int32, device=logits.device)
    if N == 0:
        return counts, boxes
    logits, chosen = logits.contiguous(), launch_config("mask_ops", config, logits)
    bands = triton.cdiv(H, chosen.meta["BLOCK_Y"])
    count_launch("mask_statistics")
    with chosen.on_device(logits):
        _clear_kernel[(triton.cdiv(4 * N, CLEARED),)](counts, boxes, N, H, W, BLOCK=CLEARED, **FUSED)
        _statistics_kernel[(N * bands,)](
            logits, counts, boxes, N, h, w, H, W, *axes_of(logits, size),
            *(as_compared(x) for x in (threshold, threshold + offset, threshold - offset)),
            bands, **_constants(chosen, logits, size),
        )  # fmt: skip
    return counts, boxes


def upsample_and_threshold_triton(logits: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """Computes :func:`sam2fast.kernels.mask_ops.upsample_and_threshold` on the GPU."""
    (h, w), (H, W) = logits.shape[-2:], size
    out = torch.empty(*logits.shape[:-2], H, W, dtype=torch.bool, device=logits.device)
    if out.numel() == 0:
        return out
    logits, chosen = logits.contiguous(), launch_config("mask_ops", config, logits)
    bands = triton.cdiv(H, chosen.meta["BLOCK_Y"])
    count_launch("upsample_and_threshold")
    with chosen.on_device(logits):
        _threshold_kernel[(out.numel() // (H * W) * bands,)](
            logits, out.view(torch.uint8), h, w, H, W, *axes_of(logits, size), as_compared(threshold), bands,
            **_constants(chosen, logits, size),
        )  # fmt: skip
    return out


def scaled_probabilities_triton(
    logits: Tensor, size: tuple[int, int], scale: float, bias: float, dtype: torch.dtype
) -> Tensor:
    """Computes :func:`sam2fast.kernels.mask_ops.scaled_probabilities` on the GPU."""
    (h, w), (H, W) = logits.shape[-2:], size
    out = torch.empty(*logits.shape[:-2], H, W, dtype=dtype, device=logits.device)
    if out.numel() == 0:
        return out
    logits, chosen = logits.contiguous(), launch_config("mask_ops", config, logits)
    bands = triton.cdiv(H, chosen.meta["BLOCK_Y"])
    count_launch("scaled_probabilities")
    with chosen.on_device(logits):
        _probabilities_kernel[(out.numel() // (H * W) * bands,)](
            logits, out, h, w, H, W, *axes_of(logits, size), scale, bias, bands, **_constants(chosen, logits, size)
        )
    return out


def upsample_and_pack_triton(logits: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """Computes :func:`sam2fast.kernels.mask_ops.upsample_and_pack` on the GPU."""
    (h, w), (H, W) = logits.shape[-2:], size
    width = triton.cdiv(W, 8)
    out = torch.empty(*logits.shape[:-2], H, width, dtype=torch.uint8, device=logits.device)
    if out.numel() == 0:
        return out
    logits, chosen = logits.contiguous(), launch_config("mask_ops", config, logits, "pack")
    bands = triton.cdiv(H, chosen.meta["BLOCK_Y"])
    count_launch("upsample_and_pack")
    with chosen.on_device(logits):
        _threshold_and_pack_kernel[(out.numel() // (H * width) * bands,)](
            logits, out, h, w, H, W, width, *axes_of(logits, size), as_compared(threshold), bands,
            **_constants(chosen, logits, size),
        )  # fmt: skip
    return out


def pack_masks_triton(masks: Tensor) -> Tensor:
    """Computes :func:`sam2fast.kernels.mask_ops.pack_masks` on the GPU."""
    W = masks.shape[-1]
    width = triton.cdiv(W, 8)
    out = torch.empty(*masks.shape[:-1], width, dtype=torch.uint8, device=masks.device)
    if out.numel():
        count_launch("pack_masks")
        _convert_bits(_pack_kernel, masks.contiguous().view(torch.uint8), out, W, width)
    return out


def unpack_masks_triton(packed: Tensor, width: int) -> Tensor:
    """Computes :func:`sam2fast.kernels.mask_ops.unpack_masks` on the GPU."""
    out = torch.empty(*packed.shape[:-1], width, dtype=torch.bool, device=packed.device)
    if out.numel():
        count_launch("unpack_masks")
        _convert_bits(_unpack_kernel, packed.contiguous(), out.view(torch.uint8), width, packed.shape[-1])
    return out


def suppress_overlaps_triton(logits: Tensor) -> Tensor:
    """Computes :func:`sam2fast.kernels.mask_ops.suppress_overlaps` on the GPU, for at least two objects."""
    logits = logits.contiguous()
    out = torch.empty_like(logits)
    if out.numel() == 0:
        return out
    chosen = launch_config("mask_ops", config, logits, "overlaps")
    pixels = logits[0].numel()
    count_launch("suppress_overlaps")
    with chosen.on_device(logits):
        _overlaps_kernel[(triton.cdiv(pixels, chosen.meta["BLOCK"]),)](
            logits, out, len(logits), pixels, **chosen.meta, **chosen.options, **FUSED
        )
    return out


def _convert_bits(kernel: triton.JITFunction, source: Tensor, out: Tensor, W: int, width: int) -> None:
    """Runs ``kernel`` on all rows. A row has ``W`` pixels and ``width`` bytes."""
    chosen = launch_config("mask_ops", config, source, "bits")
    rows = out.numel() // out.shape[-1]
    grid = (triton.cdiv(rows, chosen.meta["BLOCK_Y"]) * triton.cdiv(out.shape[-1], chosen.meta["BLOCK_X"]),)
    with chosen.on_device(source):
        kernel[grid](source, out, rows, W, width, **chosen.meta, **chosen.options, **FUSED)


def _constants(chosen: LaunchConfig, logits: Tensor, size: tuple[int, int]) -> dict[str, int]:
    return {**chosen.meta, **chosen.options, **FUSED, "COPY": copies(logits, size)}


def copies(logits: Tensor, size: tuple[int, int]) -> bool:
    """Returns True if torch copies the logits, as it does on GPUs if the size stays the same.

    Interpolation would give NaN beside an infinite logit.
    """
    return not logits.is_cpu and tuple(logits.shape[-2:]) == tuple(size)


def axes_of(logits: Tensor, size: tuple[int, int]) -> tuple[float, float, int, int]:
    """Returns the scales of rows and columns, rounded like in torch, and the distances of a pixel's second logit.

    Along an unresized side, torch reads the same logit twice on CPU, its neighbour elsewhere. This matters only if the
    neighbour is not finite.
    """
    (h, w), (H, W) = logits.shape[-2:], size
    before, after = (torch.tensor(sides, dtype=torch.float32, device="cpu") for sides in ([h, w], [H, W]))
    scale_y, scale_x = (before / after).tolist()
    return scale_y, scale_x, int(not logits.is_cpu or h != H), int(not logits.is_cpu or w != W)


def as_compared(threshold: float) -> float:
    """Rounds the threshold to fp32, since torch rounds it to compare it with fp32 logits."""
    return torch.tensor(threshold, dtype=torch.float32, device="cpu").item()
