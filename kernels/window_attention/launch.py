"""Launches the Triton kernel of attention in windows."""

import math

import torch
import triton

from sam2fast.kernels._dispatch import count_launch
from sam2fast.kernels._launch import MOST_PROGRAMS, launch_config, product_precision
from sam2fast.kernels.window_attention.kernel import _window_attention_kernel, constants, options_of
from sam2fast.kernels.window_attention.shapes import shape_class


def window_attention_triton(
    qkv: torch.Tensor,
    bias: torch.Tensor,
    num_heads: int,
    window_size: int,
    q_stride: tuple[int, int] | None = None,
) -> torch.Tensor:
    """:func:`sam2fast.kernels.window_attention.window_attention` on the GPU; never synchronises."""
    B, H, W, channels = qkv.shape
    C, pool = channels // 3, q_stride is not None
    d, stride = C // num_heads, 2 if pool else 1
    out = qkv.new_empty(B, H // stride, W // stride, C)
    if out.numel() == 0:
        return out
    height, width = (window_size, window_size) if window_size else (H, W)
    rows, columns = triton.cdiv(H, height), triton.cdiv(W, width)
    config = launch_config("window_attention", qkv, shape_class(d, window_size))
    meta = constants(
        config, num_heads, d, window_size, pool, bool(H % height or W % width), product_precision(qkv.dtype)
    )
    options = options_of(config, meta["BLOCK_M"])
    tiles = triton.cdiv(meta["GROUP"] * (height * width // stride**2), meta["BLOCK_M"])
    most = max(1, MOST_PROGRAMS // tiles)  # pictures that are launched at once
    parts = [(qkv, out)] if most >= B else zip(qkv.split(most), out.split(most), strict=True)
    with config.on_device(qkv):
        for some, result in parts:
            count_launch("window_attention")
            _window_attention_kernel[triton.cdiv(rows * columns, meta["GROUP"]), num_heads, len(some) * tiles](
                some.contiguous(), bias.contiguous(), result, H, W, rows, columns, H * W, tiles,
                d**-0.5 * math.log2(math.e), **meta, **options,
            )  # fmt: skip
    return out
