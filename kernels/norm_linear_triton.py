"""A residual sum, its layer norm and linear layers of it in one kernel.

Each program computes whole rows of the norm, and a few columns of the results. Programs of other columns compute the
same rows again: what that takes is far less than another launch.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from sam2fast.kernels._launch import LaunchConfig, launch_config, product_precision
from sam2fast.kernels._tiles import normalized
from sam2fast.kernels.norm_linear import shape_class


# What a call lacks is masked out, so that a session compiles one kernel for each combination of dtypes.
@triton.jit(do_not_specialize=["rows", "has_residual", "has_position", "has_relu"])
def _norm_linear_kernel(
    delta,  # (rows, K), or with K = 0 (rows, C)
    x,  # (rows, C), with has_residual
    position,  # (rows, C), with has_position
    inner_weight,  # (C, K)
    inner_bias,  # (C)
    norm_weight,  # (C)
    norm_bias,  # (C)
    weight,  # (N, C)
    bias,  # (N)
    normed,  # (rows, C) out
    out,  # (rows, N) out
    rows,
    K,  # 0 without an inner layer
    C, N,
    placed,  # columns of out that read the norm with the position
    has_residual, has_position, has_relu, eps,
    PRECISION: tl.constexpr,
    WIDTH: tl.constexpr,  # C, up to the next power of two
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = tl.arange(0, WIDTH)
    is_row = (row < rows)[:, None]
    is_channel = channel < C
    row = row.to(tl.int64)[:, None]

    # No tile of columns reads both the norm and the norm with the position.
    tile = tl.program_id(1)
    tiles = tl.cdiv(placed, BLOCK_N)
    is_placed = tile < tiles
    first = tl.where(is_placed, tile * BLOCK_N, placed + (tile - tiles) * BLOCK_N)
    column = first + tl.arange(0, BLOCK_N)
    is_column = column < tl.where(is_placed, placed, N)
    # They depend on nothing that is computed, so they are on their way meanwhile.
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
    # Conditions of the whole tile are bounds of channels: the interpreter of Triton 3.9 takes no scalar into a mask.
    of_bias, of_delta = channel < tl.where(K > 0, C, 0), channel < tl.where(K == 0, C, 0)
    of_residual = channel < tl.where(has_residual != 0, C, 0)
    total += tl.load(inner_bias + channel, mask=of_bias, other=0).to(tl.float32)[None, :]
    total += tl.load(delta + offsets, mask=is_row & of_delta[None, :], other=0).to(tl.float32)
    total += tl.load(x + offsets, mask=is_row & of_residual[None, :], other=0).to(tl.float32)

    left = normalized(total, norm_weight, norm_bias, channel, C, eps)
    of_norm = channel < tl.where(tile == 0, C, 0)
    tl.store(normed + offsets, left.to(normed.dtype.element_ty), mask=is_row & of_norm[None, :])

    of_position = channel < tl.where(is_placed & (has_position != 0), C, 0)
    left += tl.load(position + offsets, mask=is_row & of_position[None, :], other=0).to(tl.float32)
    result = tl.dot(left.to(right.dtype), right, input_precision=PRECISION)
    result += tl.load(bias + column, mask=is_column, other=0).to(tl.float32)[None, :]
    result = tl.where((has_relu != 0) & (result < 0), 0.0, result)
    tl.store(out + row * N + column[None, :], result.to(out.dtype.element_ty), mask=is_row & is_column[None, :])


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Tiles of rows and columns. Other tiles were not measured.

    With 32 columns a hidden layer of 2,048 is 64 programs for one object, and 1,024 joined columns are 32. Where there
    are more rows, larger tiles read the weights less often. Each warp holds whole rows, so that 32 of them spill in
    fp32, and four warps with 16.
    """
    if dtype == "float32":  # blocks of 32 input channels, as many bytes as of 64 in bf16
        tile = {"BLOCK_M": 16, "BLOCK_N": 32 if shape == "few" else 64, "BLOCK_K": 32}
        return LaunchConfig(tile, {"num_warps": 8, "num_stages": 2})
    if shape == "few":  # 16 rows are the fewest that tensor cores take
        tile = {"BLOCK_M": 16, "BLOCK_N": 32, "BLOCK_K": 64}
        # All 128 channels of attention to the image are on their way at once, but on AMD's GPUs with 64 KB for them.
        return LaunchConfig(tile, {"num_warps": 8, "num_stages": 2 if arch.startswith("gfx") else 3})
    return LaunchConfig({"BLOCK_M": 32, "BLOCK_N": 64, "BLOCK_K": 64}, {"num_warps": 8, "num_stages": 2})


def norm_linear_triton(
    delta, x, position, inner_weight, inner_bias, norm_weight, norm_bias, weight, bias, eps, placed=0, relu=False,
    dtype=None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """:func:`sam2fast.kernels.norm_linear.norm_linear` on the GPU; never synchronises.

    What is absent is replaced by a tensor of the dtype that it has elsewhere in a session.
    """
    N, C = weight.shape
    normed = delta.new_empty(*delta.shape[:-1], C, dtype=dtype or torch.float32)
    out = weight.new_empty(*delta.shape[:-1], N)
    if normed.numel() == 0:
        return normed, out
    rows = normed.numel() // C
    chosen = launch_config("norm_linear", config, weight, shape_class(rows))
    block_m, block_n, block_k = (chosen.meta[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K"))
    block_n = block_n if N else 16  # the product of no columns is computed all the same
    columns = triton.cdiv(placed, block_n) + triton.cdiv(N - placed, block_n)
    given = delta, x, position, inner_weight, inner_bias, norm_weight, norm_bias, weight, bias
    elsewhere = delta, normed, weight, weight, bias, norm_weight, norm_bias, weight, bias
    inputs = (like if each is None else each.contiguous() for each, like in zip(given, elsewhere, strict=True))
    chosen.launch(
        "norm_linear", _norm_linear_kernel, (triton.cdiv(rows, block_m), max(1, columns)), *inputs, normed, out,
        rows, 0 if inner_weight is None else inner_weight.shape[1], C, N, placed,
        int(x is not None), int(position is not None), int(relu), eps,
        PRECISION=product_precision(weight.dtype), WIDTH=max(16, triton.next_power_of_2(C)),
        BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k,
    )  # fmt: skip
    return normed, out
