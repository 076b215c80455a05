"""Computes a residual sum and its layer norm in one pass: reads each input once and writes each output once."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl
from torch import Tensor

from sam2fast.kernels._launch import LaunchConfig, launch_config
from sam2fast.kernels._tiles import exact_gelu, normalized
from sam2fast.kernels.layer_norm import computed, sum_dtype


# All functions of this module share one kernel, and select steps of the kernel by run-time arguments. Triton thus
# compiles only one kernel per width and combination of dtypes. Masked loads and branches cost no time in a memory-bound
# kernel.
@triton.jit(do_not_specialize=["rows", "deltas", "stores_sum", "has_gelu"])
def _add_layer_norm_kernel(
    x,  # (rows, C)
    delta,  # (deltas, C)
    weight,  # (C)
    bias,  # (C)
    total,  # (rows, C) out: x + delta, written only if stores_sum is not 0
    normed,  # (rows, C) out
    rows,
    deltas,  # number of rows of delta: 0 without delta, 1 if delta is added to every row of x, or ``rows``
    stores_sum, has_gelu, C, eps,
    WIDTH: tl.constexpr,  # smallest power of two >= C
    BLOCK: tl.constexpr,  # rows per program
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, WIDTH)
    offsets = row[:, None] * C + channel[None, :]
    mask = (row < rows)[:, None] & (channel < C)[None, :]
    value = tl.load(x + offsets, mask=mask, other=0).to(tl.float32)
    added = tl.minimum(row, deltas - 1)[:, None]  # index of the row of delta, or -1 without delta
    value += tl.load(delta + added * C + channel[None, :], mask=mask & (added >= 0), other=0).to(tl.float32)
    if stores_sum != 0:
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + offsets, rounded, mask=mask)
        value = rounded.to(tl.float32)  # the norm is computed from the rounded sum, as in torch
    out = normalized(value, weight, bias, channel, C, eps)
    if has_gelu != 0:
        out = exact_gelu(out)
    tl.store(normed + offsets, out.to(normed.dtype.element_ty), mask=mask)


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Returns the number of elements per program. The kernel is memory-bound, so each thread loads 16 elements."""
    return LaunchConfig({"ELEMENTS": 2048}, {"num_warps": 4, "num_stages": 1})


def add_layer_norm_triton(x, delta, weight, bias, eps, dtype=None) -> tuple[Tensor, Tensor]:
    """Computes :func:`sam2fast.kernels.layer_norm.add_layer_norm` on the GPU without synchronising."""
    total = x.new_empty(x.shape, dtype=sum_dtype(x, delta))
    return total, launch_norm(x, weight, bias, eps, dtype, delta=delta, total=total)


def layer_norm_triton(x, weight, bias, eps, dtype=None, gelu=False) -> Tensor:
    """Computes :func:`sam2fast.kernels.layer_norm.layer_norm` on the GPU without synchronising."""
    return launch_norm(x, weight, bias, eps, dtype, gelu=gelu)


def shifted_layer_norm_triton(x, shift, weight, bias, eps, dtype=None) -> Tensor:
    """Computes :func:`sam2fast.kernels.layer_norm.shifted_layer_norm` on the GPU without synchronising."""
    return launch_norm(x, weight, bias, eps, dtype, delta=shift)


def launch_norm(x, weight, bias, eps, dtype, *, normed=None, delta=None, total=None, gelu=False) -> Tensor:
    """Returns the norm of ``x + delta`` in ``normed`` or a new tensor, and writes the sum to ``total`` if not None.

    Triton compiles a kernel for each combination of dtypes. If a tensor is absent, the kernel gets another tensor of a
    suitable dtype instead.
    """
    normed = x.new_empty(x.shape, dtype=dtype or computed(x)) if normed is None else normed
    if x.numel() == 0:
        return normed
    C, x = x.shape[-1], x.contiguous()
    rows, width, launch = x.numel() // C, triton.next_power_of_2(C), launch_config("layer_norm", config, x)
    block = max(1, launch.meta["ELEMENTS"] // width)
    deltas = 0 if delta is None else delta.numel() // C
    added = normed if delta is None else delta.contiguous()
    launch.launch(
        "layer_norm", _add_layer_norm_kernel, (triton.cdiv(rows, block),),
        x, added, weight.contiguous(), bias.contiguous(), x if total is None else total, normed,
        rows, deltas, int(total is not None), int(gelu), C, eps, WIDTH=width, BLOCK=block,
    )  # fmt: skip
    return normed
