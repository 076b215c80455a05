"""Resizes images with antialiasing and normalises pixels, in one pass over the pixels.

The filter is a triangle along each axis. If the image shrinks, half of the triangle is as wide as an output pixel. If
the image grows, half of the triangle is as wide as an input pixel, as in bilinear interpolation. A program
computes a block of output pixels: weighted sums of the few input pixels within the triangles, for each of three
channels. The cache shares input pixels between programs.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from sam2fast.kernels._launch import LaunchConfig, launch_config


@triton.jit
def _triangle(
    position,  # (BLOCK) int32, output rows or columns
    scale,  # number of input pixels per output pixel
    length,  # number of input rows or columns
):
    """Returns first input pixel, end (exclusive), centre and slope of the triangle filter of an output pixel."""
    support = tl.maximum(scale, 1.0)
    centre = (position.to(tl.float32) + 0.5) * scale
    first = tl.maximum((centre - support + 0.5).to(tl.int32), 0)
    last = tl.minimum((centre + support + 0.5).to(tl.int32), length)
    return first, last, centre, 1.0 / support


@triton.jit
def _weight(position, last, centre, slope):
    height = tl.maximum(1.0 - tl.abs((position.to(tl.float32) - centre + 0.5) * slope), 0.0)
    return tl.where(position < last, height, 0.0)


@triton.jit
def _resize_and_normalise_kernel(
    pixels,  # (B, H, W, 3) uint8 or fp32
    out,  # (B, out_h, out_w, 3) fp32
    H, W, out_h, out_w,
    scale_y,  # number of input rows per output row, H / out_h
    scale_x,
    taps_y,  # maximum number of input rows within the triangle filter of an output row
    taps_x, white, mean0, mean1, mean2, std0, std1, std2,
    BLOCK: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(out_h * out_w, BLOCK)
    image = (tl.program_id(0) // blocks).to(tl.int64)
    i = (tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)
    inside = i < out_h * out_w
    first_y, last_y, centre_y, slope_y = _triangle(i // out_w, scale_y, H)
    first_x, last_x, centre_x, slope_x = _triangle(i % out_w, scale_x, W)
    sum0 = tl.zeros((BLOCK,), tl.float32)
    sum1 = tl.zeros((BLOCK,), tl.float32)
    sum2 = tl.zeros((BLOCK,), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for dy in range(taps_y):
        y = first_y + dy
        weight_y = _weight(y, last_y, centre_y, slope_y)
        for dx in range(taps_x):
            x = first_x + dx
            weight = weight_y * _weight(x, last_x, centre_x, slope_x)
            ptrs = pixels + (image * H * W + tl.minimum(y, H - 1) * W + tl.minimum(x, W - 1)) * 3
            sum0 += weight * tl.load(ptrs, mask=inside, other=0).to(tl.float32)
            sum1 += weight * tl.load(ptrs + 1, mask=inside, other=0).to(tl.float32)
            sum2 += weight * tl.load(ptrs + 2, mask=inside, other=0).to(tl.float32)
            total += weight
    total = tl.where(inside, total, 1.0)
    # Divisions are exact and ordered as in the reference, so without resizing, results are bitwise equal.
    out_ptrs = out + (image * out_h * out_w + i) * 3
    tl.store(out_ptrs, tl.div_rn(tl.div_rn(tl.div_rn(sum0, total), white) - mean0, std0), mask=inside)
    tl.store(out_ptrs + 1, tl.div_rn(tl.div_rn(tl.div_rn(sum1, total), white) - mean1, std1), mask=inside)
    tl.store(out_ptrs + 2, tl.div_rn(tl.div_rn(tl.div_rn(sum2, total), white) - mean2, std2), mask=inside)


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Returns the number of output pixels per program: two pixels per thread, with a dozen registers per pixel."""
    return LaunchConfig({"BLOCK": 256}, {"num_warps": 4, "num_stages": 1})


def resize_and_normalise_triton(pixels, size, mean, std, white) -> Tensor:
    """Computes :func:`sam2fast.kernels.preprocess.resize_and_normalise` on the GPU without synchronising."""
    B, H, W, _ = pixels.shape
    height, width = size
    out = pixels.new_empty(B, height, width, 3, dtype=torch.float32)
    if out.numel():
        pixels = pixels.contiguous()
        launch = launch_config("preprocess", config, pixels)
        launch.launch(
            "preprocess", _resize_and_normalise_kernel, (B * triton.cdiv(height * width, launch.meta["BLOCK"]),),
            pixels, out, H, W, height, width, H / height, W / width, taps(H / height), taps(W / width),
            float(white), *map(float, mean), *map(float, std), **launch.meta,
        )  # fmt: skip
    return out.permute(0, 3, 1, 2)


def taps(scale: float) -> int:
    """Returns the maximum number of input pixels within a triangle filter, for ``scale`` inputs per output pixel."""
    return 2 * math.ceil(max(scale, 1.0)) + 1
