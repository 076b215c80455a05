"""Computes three linear layers in one kernel. A program computes the MLP of one token of one object.

A program computes a few outputs of the first layer at a time, multiplies these outputs by the second layer's weights,
and adds the products to the second layer's outputs. No hidden layer is written to memory. Tensor cores are not used,
since tensor cores need at least 16 rows, and take three times as long for fp32 products.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from sam2fast.kernels._launch import LaunchConfig, launch_config


@triton.jit
def _grouped_mlp_kernel(
    x,  # (rows, groups, K): a token per object (row) and group, with any strides of rows and groups
    weight1,  # (groups, L, K)
    bias1,  # (groups, L)
    weight2,  # (groups, M, L)
    bias2,  # (groups, M)
    weight3,  # (groups, N, M)
    bias3,  # (groups, N)
    out,  # (rows, groups, N) out
    groups, row_stride, group_stride, K, L, M, N,
    WIDTH_K: tl.constexpr,  # smallest power of two >= K
    WIDTH_M: tl.constexpr,  # smallest power of two >= M
    BLOCK: tl.constexpr,  # number of output channels of the first or third layer that are computed at once
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCK)
    k = tl.arange(0, WIDTH_K)
    m = tl.arange(0, WIDTH_M)
    is_k = k < K
    is_m = m < M
    dtype = weight1.dtype.element_ty
    weight1 += group * L * K
    weight2 += group * M * L
    weight3 += group * N * M

    inputs = tl.load(x + row * row_stride + group * group_stride + k, mask=is_k, other=0).to(dtype).to(tl.float32)
    total = tl.zeros((WIDTH_M, BLOCK), tl.float32)
    for start in range(0, L, BLOCK):
        n = start + column
        is_n = n < L
        w1 = tl.load(weight1 + n[:, None] * K + k[None, :], mask=is_n[:, None] & is_k[None, :], other=0)
        w2 = tl.load(weight2 + m[:, None] * L + n[None, :], mask=is_m[:, None] & is_n[None, :], other=0)
        first = tl.sum(w1.to(tl.float32) * inputs[None, :], 1)
        first += tl.load(bias1 + group * L + n, mask=is_n, other=0).to(tl.float32)
        first = tl.where(first < 0, 0.0, first).to(dtype).to(tl.float32)
        total += w2.to(tl.float32) * first[None, :]
    second = tl.sum(total, 1) + tl.load(bias2 + group * M + m, mask=is_m, other=0).to(tl.float32)
    second = tl.where(second < 0, 0.0, second).to(dtype).to(tl.float32)
    for start in range(0, N, BLOCK):
        n = start + column
        is_n = n < N
        w3 = tl.load(weight3 + n[:, None] * M + m[None, :], mask=is_n[:, None] & is_m[None, :], other=0)
        third = tl.sum(w3.to(tl.float32) * second[None, :], 1)
        third += tl.load(bias3 + group * N + n, mask=is_n, other=0).to(tl.float32)
        tl.store(out + (row * groups + group) * N + n, third, mask=is_n)


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Returns the number of output channels computed at once: 32, for which a program loads 64 KB of fp32 weights.

    A multiprocessor reads 64 bytes per clock from the L2 cache, with a latency of about 700 clocks. Other numbers of
    output channels were not measured.
    """
    return LaunchConfig({"BLOCK": 32}, {"num_warps": 8, "num_stages": 1})


def grouped_mlp_triton(x, weight1, bias1, weight2, bias2, weight3, bias3) -> Tensor:
    """Computes :func:`sam2fast.kernels.grouped_mlp.grouped_mlp` on the GPU without synchronising."""
    (B, G, K), (_, M, L), N = x.shape, weight2.shape, weight3.shape[1]
    out = weight3.new_empty(B, G, N, dtype=torch.float32)
    if out.numel() == 0:
        return out
    x = x if x.stride(-1) == 1 else x.contiguous()
    launch = launch_config("grouped_mlp", config, weight1)
    layers = (tensor.contiguous() for tensor in (weight1, bias1, weight2, bias2, weight3, bias3))
    launch.launch(
        "grouped_mlp", _grouped_mlp_kernel, (B, G), x, *layers, out, G, x.stride(0), x.stride(1), K, L, M, N,
        WIDTH_K=triton.next_power_of_2(K), WIDTH_M=triton.next_power_of_2(M), BLOCK=launch.meta["BLOCK"],
    )  # fmt: skip
    return out
