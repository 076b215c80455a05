"""Fuses bias and GELU into the epilogue of a matrix multiplication, so that the hidden layer is written only once."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl
from torch import Tensor

from sam2fast.kernels._launch import launch_config, product_precision
from sam2fast.kernels._tiles import exact_gelu
from sam2fast.kernels.linear_gelu import config, shape_class


@triton.jit
def _linear_gelu_kernel(
    x,  # (M, K)
    weight,  # (N, K)
    bias,  # (N)
    out,  # (M, N)
    M, N, K,
    EVEN: tl.constexpr,  # True if K is a multiple of BLOCK_K
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,  # number of row tiles that successive programs process with the same weights in the cache
):  # fmt: skip
    program = tl.program_id(0)
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(N, BLOCK_N)
    group = program // (GROUP * tiles_n)
    height = tl.minimum(tiles_m - group * GROUP, GROUP)
    tile_m = group * GROUP + program % height
    tile_n = (program % (GROUP * tiles_n)) // height

    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K)
    # Indices of rows >= M and columns >= N wrap around. Results for these indices are not stored.
    left = x + (row % M).to(tl.int64)[:, None] * K + inner[None, :]
    right = weight + (column % N)[None, :] * K + inner[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, K, BLOCK_K):
        if EVEN:
            a = tl.load(left + k)
            b = tl.load(right + k)
        else:
            a = tl.load(left + k, mask=(k + inner < K)[None, :], other=0)
            b = tl.load(right + k, mask=(k + inner < K)[:, None], other=0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    total += tl.load(bias + column % N).to(tl.float32)[None, :]
    ptrs = out + row.to(tl.int64)[:, None] * N + column[None, :]
    tl.store(ptrs, exact_gelu(total).to(out.dtype.element_ty), mask=(row < M)[:, None] & (column < N)[None, :])


def linear_gelu_triton(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Computes :func:`sam2fast.kernels.linear_gelu.linear_gelu` on the GPU without synchronising."""
    N, K = weight.shape
    out = x.new_empty(*x.shape[:-1], N)
    if out.numel() == 0:
        return out
    M = out.numel() // N
    launch = launch_config("linear_gelu", config, x, shape_class(x.dtype, K))
    blocks = {name: launch.meta[name] for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K", "GROUP")}
    grid = (triton.cdiv(M, blocks["BLOCK_M"]) * triton.cdiv(N, blocks["BLOCK_N"]),)
    launch.launch(
        "linear_gelu", _linear_gelu_kernel, grid, *(tensor.contiguous() for tensor in (x, weight, bias)), out, M, N, K,
        EVEN=K % blocks["BLOCK_K"] == 0, PRECISION=product_precision(x.dtype), **blocks,
    )  # fmt: skip
    return out
