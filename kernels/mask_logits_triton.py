"""Computes mask logits in one pass: reads maps and features once, and writes each mask once, in row-major order.

A program processes a part of one row of pixels with all channels. In ``x``, only two pixels of a row are adjacent in
memory: 128 bytes with 32 channels in bf16.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl
from torch import Tensor

from sam2fast.kernels._launch import LaunchConfig, launch_config
from sam2fast.kernels._tiles import exact_gelu


@triton.jit(do_not_specialize=["maps"])
def _mask_logits_kernel(
    x,  # (B, H, W, 2, 2, 2, 2, C)
    features,  # (maps, 4·H, 4·W, C), added to x only with HAS_FEATURES
    weights,  # (B, M, C)
    out,  # (B, M, 4·H, 4·W) out
    maps,  # number of maps of features: B, or 1 if all objects share a map
    H,
    W,
    C: tl.constexpr,
    M: tl.constexpr,
    HAS_FEATURES: tl.constexpr,
    WIDTH: tl.constexpr,  # smallest power of two >= C
    BLOCK: tl.constexpr,  # pixels per program
):
    b = (tl.program_id(0) // (4 * H)).to(tl.int64)
    row = tl.program_id(0) % (4 * H)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, WIDTH)
    is_pixel = column < 4 * W
    used = channel < C
    mask = is_pixel[:, None] & used[None, :]

    block = (b * H + row // 4) * W + column // 4
    inner = (row // 2 % 2 * 2 + column // 2 % 2) * 4 + row % 2 * 2 + column % 2
    value = tl.load(x + (block * 16 + inner)[:, None] * C + channel[None, :], mask=mask, other=0).to(tl.float32)
    if HAS_FEATURES:
        pixel = (tl.minimum(b, maps - 1) * 4 * H + row) * 4 * W + column
        value += tl.load(features + pixel[:, None] * C + channel[None, :], mask=mask, other=0).to(tl.float32)
    value = exact_gelu(value)
    for m in tl.static_range(M):
        weight = tl.load(weights + (b * M + m) * C + channel, mask=used, other=0).to(tl.float32)
        logit = tl.sum(value * weight[None, :], 1)
        target = out + ((b * M + m) * 4 * H + row) * 4 * W + column
        tl.store(target, logit.to(out.dtype.element_ty), mask=is_pixel)


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Returns the number of elements per program. The kernel is memory-bound, so each thread loads 16 elements."""
    return LaunchConfig({"ELEMENTS": 2048}, {"num_warps": 4, "num_stages": 1})


def mask_logits_triton(x: Tensor, features: Tensor | None, weights: Tensor) -> Tensor:
    """Computes :func:`sam2fast.kernels.mask_logits.mask_logits` on the GPU without synchronising."""
    (B, H, W), C, M = x.shape[:3], x.shape[-1], weights.shape[1]
    out = weights.new_empty(B, M, 4 * H, 4 * W)
    if out.numel() == 0:
        return out
    if C == 0:
        return out.zero_()
    width, launch = triton.next_power_of_2(C), launch_config("mask_logits", config, x)
    block = max(1, launch.meta["ELEMENTS"] // width)
    launch.launch(
        "mask_logits", _mask_logits_kernel, (B * 4 * H, triton.cdiv(4 * W, block)),
        x.contiguous(), x if features is None else features.contiguous(), weights.contiguous(), out,
        0 if features is None else len(features), H, W,
        C=C, M=M, HAS_FEATURES=features is not None, WIDTH=width, BLOCK=block,
    )  # fmt: skip
    return out
