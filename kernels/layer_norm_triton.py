"""A residual sum and its layer norm in one pass: each input is read once, each output written once."""

# mypy: allow-untyped-defs, allow-incomplete-defs

import triton
import triton.language as tl
from torch import Tensor

from sam2fast.kernels._launch import LaunchConfig, launch_config
from sam2fast.kernels._tiles import exact_gelu, normalized
from sam2fast.kernels.layer_norm import computed, sum_dtype


# What differs between the functions below is an argument at run time, not a constant: a session compiles one kernel for
# each width and combination of dtypes. Memory is the limit, so a load that is masked out, or a branch, costs nothing.
@triton.jit(do_not_specialize=["rows", "deltas", "stores_sum", "has_gelu"])
def _add_layer_norm_kernel(
    x,  # (rows, C)
    delta,  # (deltas, C)
    weight,  # (C)
    bias,  # (C)
    total,  # (rows, C) out: x + delta, with stores_sum
    normed,  # (rows, C) out
    rows,
    deltas,  # 0, 1 for the same in every row, or rows
    stores_sum, has_gelu, C, eps,
    WIDTH: tl.constexpr,  # C, up to the next power of two
    BLOCK: tl.constexpr,  # rows of a program
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, WIDTH)
    offsets = row[:, None] * C + channel[None, :]
    mask = (row < rows)[:, None] & (channel < C)[None, :]
    value = tl.load(x + offsets, mask=mask, other=0).to(tl.float32)
    added = tl.minimum(row, deltas - 1)[:, None]  # -1 if there are none
    value += tl.load(delta + added * C + channel[None, :], mask=mask & (added >= 0), other=0).to(tl.float32)
    if stores_sum != 0:
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + offsets, rounded, mask=mask)
        value = rounded.to(tl.float32)  # the sum as later layers read it
    out = normalized(value, weight, bias, channel, C, eps)
    if has_gelu != 0:
        out = exact_gelu(out)
    tl.store(normed + offsets, out.to(normed.dtype.element_ty), mask=mask)


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Elements of a program: 16 a thread, of which loads are in flight at once; memory is the limit."""
    return LaunchConfig({"ELEMENTS": 2048}, {"num_warps": 4, "num_stages": 1})


def add_layer_norm_triton(x, delta, weight, bias, eps, dtype=None) -> tuple[Tensor, Tensor]:
    """:func:`sam2fast.kernels.layer_norm.add_layer_norm` on the GPU; never synchronises."""
    total = x.new_empty(x.shape, dtype=sum_dtype(x, delta))
    return total, launch_norm(x, weight, bias, eps, dtype, delta=delta, total=total)


def layer_norm_triton(x, weight, bias, eps, dtype=None, gelu=False) -> Tensor:
    """:func:`sam2fast.kernels.layer_norm.layer_norm` on the GPU; never synchronises."""
    return launch_norm(x, weight, bias, eps, dtype, gelu=gelu)


def shifted_layer_norm_triton(x, shift, weight, bias, eps, dtype=None) -> Tensor:
    """:func:`sam2fast.kernels.layer_norm.shifted_layer_norm` on the GPU; never synchronises."""
    return launch_norm(x, weight, bias, eps, dtype, delta=shift)


def launch_norm(x, weight, bias, eps, dtype, *, normed=None, delta=None, total=None, gelu=False) -> Tensor:
    """Returns the norm, written to ``normed`` if it is given, and writes the sum to ``total``.

    What is absent is replaced by a tensor of the dtype that it has elsewhere in a session, since the kernel is compiled
    for each combination of dtypes.
    """
    normed = x.new_empty(x.shape, dtype=dtype or computed(x)) if normed is None else normed
    if x.numel() == 0:
        return normed
    C, x = x.shape[-1], x.contiguous()
    rows, width, chosen = x.numel() // C, triton.next_power_of_2(C), launch_config("layer_norm", config, x)
    block = max(1, chosen.meta["ELEMENTS"] // width)  # as many rows as fit, at least one
    deltas = 0 if delta is None else delta.numel() // C
    added = normed if delta is None else delta.contiguous()
    chosen.launch(
        "layer_norm", _add_layer_norm_kernel, (triton.cdiv(rows, block),),
        x, added, weight.contiguous(), bias.contiguous(), x if total is None else total, normed,
        rows, deltas, int(total is not None), int(gelu), C, eps, WIDTH=width, BLOCK=block,
    )  # fmt: skip
    return normed
