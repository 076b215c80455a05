"""Computes layer norm, two linear layers with GELU between them, and the residual, in one kernel.

A program processes a tile of rows. The program computes some hidden channels at a time, and multiplies these channels
by the weights of the second layer. No hidden channel is written to memory. As in window attention, C channels are
loaded as one or two pieces whose sizes are powers of two, such as 96 = 64 + 32.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl
from torch import Tensor

from sam2fast.kernels._launch import LaunchConfig, launch_config, product_precision
from sam2fast.kernels._tiles import exact_gelu
from sam2fast.kernels.mlp import shape_class
from sam2fast.kernels.window_attention_triton import pieces


@triton.jit
def _load_rows(x, shift, offsets, is_row, channel, C: tl.constexpr):
    """Loads rows of ``x`` and adds ``shift`` in fp32."""
    mask = is_row[:, None] & (channel < C)[None, :]
    value = tl.load(x + offsets[:, None] * C + channel[None, :], mask=mask, other=0).to(tl.float32)
    return value + tl.load(shift + channel, mask=channel < C, other=0).to(tl.float32)[None, :]


@triton.jit
def _normalize(value, mean, variance, norm_weight, norm_bias, channel, eps, C: tl.constexpr):
    """Computes the layer norm of rows from their means and variances."""
    scale = tl.load(norm_weight + channel, mask=channel < C, other=0).to(tl.float32)
    added = tl.load(norm_bias + channel, mask=channel < C, other=0).to(tl.float32)
    return (value - mean[:, None]) * tl.rsqrt(variance + eps)[:, None] * scale[None, :] + added[None, :]


@triton.jit
def _squares(value, mean, channel, C: tl.constexpr):
    """Computes the sum of squared differences between each row's values and the row's mean."""
    centred = tl.where((channel < C)[None, :], value - mean[:, None], 0)
    return tl.sum(centred * centred, 1)


@triton.jit
def _load_layer(weight, inner, outer, K, N, EVEN: tl.constexpr):
    """Loads a tile of a linear layer's weight (N, K), transposed to (input channels, output channels)."""
    ptrs = weight + outer[None, :] * K + inner[:, None]
    if EVEN:
        return tl.load(ptrs)
    return tl.load(ptrs, mask=(inner < K)[:, None] & (outer < N)[None, :], other=0)


@triton.jit
def _mlp_kernel(
    x,  # (rows, C)
    shift,  # (C)
    norm_weight,  # (C)
    norm_bias,  # (C)
    weight1,  # (N, C)
    bias1,  # (N)
    weight2,  # (C, N)
    bias2,  # (C)
    out,  # (rows, C) out
    rows, N, eps,
    C: tl.constexpr,
    D1: tl.constexpr, D2: tl.constexpr,  # numbers of channels of the two pieces; D2 is 0 for a single piece
    EVEN: tl.constexpr,  # True if D1 + D2 == C, and N is a multiple of BLOCK_N
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    dtype = x.dtype.element_ty
    first = tl.program_id(0).to(tl.int64) * BLOCK_M
    row = tl.arange(0, BLOCK_M)
    is_row = row < rows - first
    x += first * C
    out += first * C
    channel1 = tl.arange(0, D1)
    total1 = _load_rows(x, shift, row, is_row, channel1, C)
    sums = tl.sum(total1, 1)
    if D2 > 0:
        channel2 = D1 + tl.arange(0, D2)
        total2 = _load_rows(x, shift, row, is_row, channel2, C)
        sums += tl.sum(total2, 1)
    mean = sums / C
    variance = _squares(total1, mean, channel1, C)
    if D2 > 0:
        variance += _squares(total2, mean, channel2, C)
    variance = variance / C
    normed1 = _normalize(total1, mean, variance, norm_weight, norm_bias, channel1, eps, C).to(dtype)
    if D2 > 0:
        normed2 = _normalize(total2, mean, variance, norm_weight, norm_bias, channel2, eps, C).to(dtype)

    # The residual plus bias is the initial value of the second layer's result.
    total1 += tl.load(bias2 + channel1, mask=channel1 < C, other=0).to(tl.float32)[None, :]
    if D2 > 0:
        total2 += tl.load(bias2 + channel2, mask=channel2 < C, other=0).to(tl.float32)[None, :]
    column = tl.arange(0, BLOCK_N)
    for n in range(0, N, BLOCK_N):
        right = _load_layer(weight1, channel1, n + column, C, N, EVEN)
        hidden = tl.dot(normed1, right, input_precision=PRECISION)
        if D2 > 0:
            right = _load_layer(weight1, channel2, n + column, C, N, EVEN)
            hidden = tl.dot(normed2, right, hidden, input_precision=PRECISION)
        if EVEN:
            hidden += tl.load(bias1 + n + column).to(tl.float32)[None, :]
        else:
            hidden += tl.load(bias1 + n + column, mask=n + column < N, other=0).to(tl.float32)[None, :]
        hidden = exact_gelu(hidden).to(dtype)
        right = _load_layer(weight2, n + column, channel1, N, C, EVEN)
        total1 = tl.dot(hidden, right, total1, input_precision=PRECISION)
        if D2 > 0:
            right = _load_layer(weight2, n + column, channel2, N, C, EVEN)
            total2 = tl.dot(hidden, right, total2, input_precision=PRECISION)

    ptrs = out + row[:, None] * C
    tl.store(ptrs + channel1[None, :], total1.to(dtype), mask=is_row[:, None] & (channel1 < C)[None, :])
    if D2 > 0:
        tl.store(ptrs + channel2[None, :], total2.to(dtype), mask=is_row[:, None] & (channel2 < C)[None, :])


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Returns tile sizes of rows and hidden channels. The speed of tiles was not measured on a GPU.

    Since each program reads all weights, the L2 cache is the bottleneck with small tiles of rows. Larger tiles, or more
    hidden channels, would need too many registers.
    """
    if dtype == "float32":  # three TF32 products need high and low parts of operands in registers
        return LaunchConfig({"BLOCK_M": 32, "BLOCK_N": 32}, {"num_warps": 8, "num_stages": 1})
    if arch == "sm_90":  # with two programs per multiprocessor, GELU of one overlaps products of the other
        if shape == "narrow":
            return LaunchConfig({"BLOCK_M": 128, "BLOCK_N": 32}, {"num_warps": 4, "num_stages": 3})
        return LaunchConfig({"BLOCK_M": 128, "BLOCK_N": 64}, {"num_warps": 8, "num_stages": 3})
    # Larger tiles spill registers on sm_103, and 32 hidden channels spill registers on sm_120. AMD GPUs have 64 KB of
    # shared memory.
    block_n = 16 if arch in ("sm_120", "sm_121") and shape == "wide" else 32
    stages = 2 if arch.startswith("gfx") else 3
    return LaunchConfig({"BLOCK_M": 64, "BLOCK_N": block_n}, {"num_warps": 8, "num_stages": stages})


def mlp_triton(x, shift, norm_weight, norm_bias, weight1, bias1, weight2, bias2, eps) -> Tensor:
    """Computes :func:`sam2fast.kernels.mlp.mlp` on the GPU without synchronising."""
    out = x.new_empty(x.shape)
    if out.numel() == 0:
        return out
    N, C = weight1.shape
    rows, launch = out.numel() // C, launch_config("mlp", config, x, shape_class(C))
    (D1, D2), block_m, block_n = pieces(C), launch.meta["BLOCK_M"], launch.meta["BLOCK_N"]
    inputs = x, shift, norm_weight, norm_bias, weight1, bias1, weight2, bias2
    launch.launch(
        "mlp", _mlp_kernel, (triton.cdiv(rows, block_m),), *(x.contiguous() for x in inputs), out, rows, N, eps,
        C=C, D1=D1, D2=D2, EVEN=D1 + D2 == C and N % block_n == 0, PRECISION=product_precision(x.dtype),
        BLOCK_M=block_m, BLOCK_N=block_n,
    )  # fmt: skip
    return out
