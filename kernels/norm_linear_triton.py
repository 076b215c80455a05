"""Computes a residual sum, its layer norm and linear layers of the norm in one kernel.

Each program computes whole rows of the norm, and a few columns of the results. Programs for other columns compute the
same rows of the norm again. Computing rows several times takes far less time than a second kernel launch.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from sam2fast.kernels._launch import LaunchConfig, launch_config, product_precision
from sam2fast.kernels._tiles import normalized, padded
from sam2fast.kernels.norm_linear import shape_class


# Loads of absent inputs are masked at run time, so Triton compiles only one kernel per combination of dtypes.
@triton.jit(do_not_specialize=["rows", "has_residual", "has_position", "has_relu"])
def _norm_linear_kernel(
    delta,  # (rows, K), input of the inner layer; (rows, C) without an inner layer
    x,  # (rows, C), residual; used only with has_residual
    position,  # (rows, C), added to the norm only with has_position
    inner_weight,  # (C, K)
    inner_bias,  # (C)
    norm_weight,  # (C)
    norm_bias,  # (C)
    weight,  # (N, C)
    bias,  # (N)
    normed,  # (rows, C) out
    out,  # (rows, N) out
    rows,
    K,  # number of input channels of the inner layer, 0 without an inner layer
    C, N,
    num_positioned,  # number of leading columns of out that are computed from norm + position
    has_residual, has_position, has_relu, eps,
    PRECISION: tl.constexpr,
    WIDTH: tl.constexpr,  # smallest power of two >= C
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = tl.arange(0, WIDTH)
    is_row = (row < rows)[:, None]
    is_channel = channel < C
    row = row.to(tl.int64)[:, None]

    # All columns of a tile are computed from norm + position, or all from the norm.
    tile = tl.program_id(1)
    tiles = tl.cdiv(num_positioned, BLOCK_N)
    is_positioned = tile < tiles
    first = tl.where(is_positioned, tile * BLOCK_N, num_positioned + (tile - tiles) * BLOCK_N)
    column = first + tl.arange(0, BLOCK_N)
    is_column = column < tl.where(is_positioned, num_positioned, N)
    # Weights of the outer layers are loaded first, so that loading overlaps the inner layer and the norm.
    of_columns = column.to(tl.int64)[None, :] * C + channel[:, None]
    right = tl.load(weight + of_columns, mask=is_column[None, :] & is_channel[:, None], other=0)

    total = tl.zeros((BLOCK_M, WIDTH), tl.float32)
    inner = tl.arange(0, BLOCK_K)
    for k in range(0, K, BLOCK_K):
        is_inner = k + inner < K
        a = tl.load(delta + row * K + (k + inner)[None, :], mask=is_row & is_inner[None, :], other=0)
        of_inner = channel[None, :] * K + (k + inner)[:, None]
        b = tl.load(inner_weight + of_inner, mask=is_inner[:, None] & is_channel[None, :], other=0)
        total = tl.dot(a.to(b.dtype), b, total, input_precision=PRECISION)
    offsets = row * C + channel[None, :]
    # Masks compare channels with C or 0, since Triton 3.9's interpreter does not support scalar conditions in masks.
    of_bias, of_delta = channel < tl.where(K > 0, C, 0), channel < tl.where(K == 0, C, 0)
    of_residual = channel < tl.where(has_residual != 0, C, 0)
    total += tl.load(inner_bias + channel, mask=of_bias, other=0).to(tl.float32)[None, :]
    total += tl.load(delta + offsets, mask=is_row & of_delta[None, :], other=0).to(tl.float32)
    total += tl.load(x + offsets, mask=is_row & of_residual[None, :], other=0).to(tl.float32)

    left = normalized(total, norm_weight, norm_bias, channel, C, eps)
    of_norm = channel < tl.where(tile == 0, C, 0)
    tl.store(normed + offsets, left.to(normed.dtype.element_ty), mask=is_row & of_norm[None, :])

    of_position = channel < tl.where(is_positioned & (has_position != 0), C, 0)
    left += tl.load(position + offsets, mask=is_row & of_position[None, :], other=0).to(tl.float32)
    result = tl.dot(left.to(right.dtype), right, input_precision=PRECISION)
    result += tl.load(bias + column, mask=is_column, other=0).to(tl.float32)[None, :]
    result = tl.where((has_relu != 0) & (result < 0), 0.0, result)
    tl.store(out + row * N + column[None, :], result.to(out.dtype.element_ty), mask=is_row & is_column[None, :])


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Returns tile sizes of rows and output columns. Other tile sizes were not measured.

    For one object, tiles of 32 columns give 64 programs for a hidden layer of 2,048 channels, and 32 programs for 1,024
    concatenated columns. For more objects, larger tiles read the weights less often. Each warp holds whole rows. In
    fp32, registers spill with tiles of 32 rows, or with tiles of 16 rows and four warps.
    """
    if dtype == "float32":  # 32 channels in fp32 have as many bytes as 64 in bf16
        tile = {"BLOCK_M": 16, "BLOCK_N": 32 if shape == "few" else 64, "BLOCK_K": 32}
        return LaunchConfig(tile, {"num_warps": 8, "num_stages": 2})
    if shape == "few":  # tensor cores need at least 16 rows
        tile = {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 64}
        # The 128 input channels of the projection after attention are loaded at once, except on AMD GPUs, which have
        # 64 KB of shared memory.
        return LaunchConfig(tile, {"num_warps": 8, "num_stages": 2 if arch.startswith("gfx") else 3})
    return LaunchConfig({"BLOCK_M": 32, "BLOCK_N": 64, "BLOCK_K": 64}, {"num_warps": 8, "num_stages": 2})


def norm_linear_triton(
    delta, x, position, inner_weight, inner_bias, norm_weight, norm_bias, weight, bias, eps, num_positioned=0,
    relu=False, dtype=None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Computes :func:`sam2fast.kernels.norm_linear.norm_linear` on the GPU without synchronising.

    Triton compiles a kernel for each combination of dtypes. If an input is absent, the kernel gets another tensor of a
    suitable dtype instead.
    """
    N, C = weight.shape
    normed = delta.new_empty(*delta.shape[:-1], C, dtype=dtype or torch.float32)
    out = weight.new_empty(*delta.shape[:-1], N)
    if normed.numel() == 0:
        return normed, out
    rows = normed.numel() // C
    launch = launch_config("norm_linear", config, weight, shape_class(rows))
    block_m, block_n, block_k = (launch.meta[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K"))
    block_n = block_n if N else 16  # without output columns, a program computes only the norm
    columns = triton.cdiv(num_positioned, block_n) + triton.cdiv(N - num_positioned, block_n)
    args = delta, x, position, inner_weight, inner_bias, norm_weight, norm_bias, weight, bias
    elsewhere = delta, normed, weight, weight, bias, norm_weight, norm_bias, weight, bias
    inputs = (like if tensor is None else tensor.contiguous() for tensor, like in zip(args, elsewhere, strict=True))
    launch.launch(
        "norm_linear", _norm_linear_kernel, (triton.cdiv(rows, block_m), max(1, columns)), *inputs, normed, out,
        rows, 0 if inner_weight is None else inner_weight.shape[1], C, N, num_positioned,
        int(x is not None), int(position is not None), int(relu), eps,
        PRECISION=product_precision(weight.dtype), WIDTH=padded(C),
        BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k,
    )  # fmt: skip
    return normed, out
