"""Computes a depthwise convolution and layer norm in one kernel: reads the map once and writes the norm once.

A program processes all channels of a few positions, so no program needs results of another program for the norm. The
GPU's cache holds neighbouring positions, which several programs read.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl
from torch import Tensor

from sam2fast.kernels._launch import LaunchConfig, launch_config
from sam2fast.kernels._tiles import normalized


@triton.jit
def _depthwise_norm_kernel(
    x,  # (positions, C): channels-last maps, concatenated
    shift,  # (C), added to x only with HAS_SHIFT
    weight,  # (KERNEL, KERNEL, C)
    bias,  # (C)
    norm_weight,  # (C)
    norm_bias,  # (C)
    out,  # (positions, C) out
    positions, H, W, eps,
    C: tl.constexpr, HAS_SHIFT: tl.constexpr, KERNEL: tl.constexpr,
    WIDTH: tl.constexpr,  # smallest power of two >= C
    BLOCK: tl.constexpr,  # positions per program
):  # fmt: skip
    position = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, WIDTH)
    used = channel < C
    is_position = position < positions
    column = position % W - KERNEL // 2
    row = position // W % H - KERNEL // 2
    offsets = position.to(tl.int64)[:, None] * C + channel[None, :]
    mask = is_position[:, None] & used[None, :]

    total = tl.zeros((BLOCK, WIDTH), tl.float32)
    total += tl.load(bias + channel, mask=used, other=0).to(tl.float32)[None, :]
    if HAS_SHIFT:
        added = tl.load(shift + channel, mask=used, other=0).to(tl.float32)
    for i in range(KERNEL):
        is_row = is_position & (row + i >= 0) & (row + i < H)
        near = x + offsets + ((i - KERNEL // 2) * W - KERNEL // 2) * C
        for j in tl.static_range(KERNEL):
            inside = (is_row & (column + j >= 0) & (column + j < W))[:, None]
            value = tl.load(near + j * C, mask=inside & used[None, :], other=0).to(tl.float32)
            if HAS_SHIFT:
                value += added[None, :] * inside.to(tl.float32)
            factor = tl.load(weight + (i * KERNEL + j) * C + channel, mask=used, other=0).to(tl.float32)
            total += value * factor[None, :]

    normed = normalized(total, norm_weight, norm_bias, channel, C, eps)
    tl.store(out + offsets, normed.to(out.dtype.element_ty), mask=mask)


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Returns the number of elements (positions x channels) per program.

    A single warp keeps the weights of one kernel position in registers. Several warps would exchange the weights
    through shared memory, and synchronise at each kernel position. With 256 channels, a program processes four
    positions of the map, so a map of 64 x 64 positions needs 1,024 programs.
    """
    return LaunchConfig({"ELEMENTS": 1024}, {"num_warps": 1, "num_stages": 1})


def depthwise_norm_triton(x, shift, weight, bias, norm_weight, norm_bias, eps) -> Tensor:
    """Computes :func:`sam2fast.kernels.depthwise_norm.depthwise_norm` on the GPU without synchronising."""
    out = x.new_empty(x.shape)
    if out.numel() == 0:
        return out
    _, H, W, C = x.shape
    positions, width, launch = x.numel() // C, triton.next_power_of_2(C), launch_config("depthwise_norm", config, x)
    block = max(1, launch.meta["ELEMENTS"] // width)
    vectors = (tensor.contiguous() for tensor in (weight, bias, norm_weight, norm_bias))
    launch.launch(
        "depthwise_norm", _depthwise_norm_kernel, (triton.cdiv(positions, block),),
        x.contiguous(), norm_bias if shift is None else shift.contiguous(), *vectors, out, positions, H, W, eps,
        C=C, HAS_SHIFT=shift is not None, KERNEL=len(weight), WIDTH=width, BLOCK=block,
    )  # fmt: skip
    return out
