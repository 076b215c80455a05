"""A residual sum and its layer norm in one pass: each input is read once, each output written once."""

# Comments describe the arguments of Triton kernels.
# mypy: allow-untyped-defs, allow-incomplete-defs

import torch
import triton
import triton.language as tl
from torch import Tensor

from sam2fast.kernels._dispatch import count_launch
from sam2fast.kernels._launch import FUSED, LaunchConfig, launch_config
from sam2fast.kernels.layer_norm import sum_dtype
from sam2fast.kernels.linear_gelu_triton import exact_gelu


# What differs between the functions below is an argument at run time, not a constant: a session compiles one kernel for
# each width and combination of dtypes. Memory is the limit, so a load that is masked out, or a branch, costs nothing.
@triton.jit(do_not_specialize=["rows", "deltas", "positions", "stores_sum", "has_gelu"])
def _add_layer_norm_kernel(
    x,  # (rows, C)
    delta,  # (deltas, C)
    weight,  # (C)
    bias,  # (C)
    total,  # (rows, C) out: x + delta, with stores_sum
    normed,  # (rows, C) out
    position,  # (positions, C), for row after row again and again
    positioned,  # (rows, C) out: the norm + position, if there are positions
    rows,
    deltas,  # 0, 1 for the same in every row, or rows
    positions,  # 0 for none
    stores_sum,
    has_gelu,
    C,
    eps,
    WIDTH: tl.constexpr,  # C, up to the next power of two
    BLOCK: tl.constexpr,  # rows of a program
):
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, WIDTH)
    offsets = row[:, None] * C + channel[None, :]
    used = (channel < C)[None, :]
    mask = (row < rows)[:, None] & used
    value = tl.load(x + offsets, mask=mask, other=0).to(tl.float32)
    added = tl.minimum(row, deltas - 1)[:, None]  # -1 if there are none
    value += tl.load(delta + added * C + channel[None, :], mask=mask & (added >= 0), other=0).to(tl.float32)
    if stores_sum != 0:
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + offsets, rounded, mask=mask)
        value = rounded.to(tl.float32)  # the sum as later layers read it
    mean = tl.sum(value, 1) / C
    centred = tl.where(used, value - mean[:, None], 0)
    variance = tl.sum(centred * centred, 1) / C
    scale = tl.load(weight + channel, mask=channel < C, other=0).to(tl.float32)
    shift = tl.load(bias + channel, mask=channel < C, other=0).to(tl.float32)
    out = centred * tl.rsqrt(variance + eps)[:, None] * scale[None, :] + shift[None, :]
    if has_gelu != 0:
        out = exact_gelu(out)
    tl.store(normed + offsets, out.to(normed.dtype.element_ty), mask=mask)
    if positions != 0:
        of_row = (row % positions)[:, None] * C + channel[None, :]
        out += tl.load(position + of_row, mask=mask, other=0).to(tl.float32)
        tl.store(positioned + offsets, out.to(positioned.dtype.element_ty), mask=mask)


def config(arch: str, dtype: str, shape: str) -> LaunchConfig:
    """Elements of a program: 16 a thread, of which loads are in flight at once; memory is the limit."""
    return LaunchConfig({"ELEMENTS": 2048}, {"num_warps": 4, "num_stages": 1})


def add_layer_norm_triton(
    x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """:func:`sam2fast.kernels.layer_norm.add_layer_norm` on the GPU; never synchronises."""
    total, normed = x.new_empty(x.shape, dtype=sum_dtype(x, delta)), x.new_empty(x.shape, dtype=dtype)
    _launch(x, weight, bias, eps, normed, delta=delta, total=total)
    return total, normed


def layer_norm_triton(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype, gelu: bool = False
) -> Tensor:
    """:func:`sam2fast.kernels.layer_norm.layer_norm` on the GPU; never synchronises."""
    normed = x.new_empty(x.shape, dtype=dtype)
    _launch(x, weight, bias, eps, normed, gelu=gelu)
    return normed


def shifted_layer_norm_triton(
    x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> Tensor:
    """:func:`sam2fast.kernels.layer_norm.shifted_layer_norm` on the GPU; never synchronises."""
    normed = x.new_empty(x.shape, dtype=dtype)
    _launch(x, weight, bias, eps, normed, delta=shift)
    return normed


def layer_norm_and_position_triton(
    x: Tensor,
    delta: Tensor,
    weight: Tensor,
    bias: Tensor,
    position: Tensor,
    eps: float,
    dtype: torch.dtype,
    placed: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """:func:`sam2fast.kernels.layer_norm.layer_norm_and_position` on the GPU; never synchronises."""
    normed, positioned = x.new_empty(x.shape, dtype=dtype), x.new_empty(x.shape, dtype=placed)
    _launch(x, weight, bias, eps, normed, delta=delta, position=position, positioned=positioned)
    return normed, positioned


def _launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    normed: Tensor,
    *,
    delta: Tensor | None = None,
    total: Tensor | None = None,
    gelu: bool = False,
    position: Tensor | None = None,
    positioned: Tensor | None = None,
) -> None:
    """Starts the kernel unless there is nothing to compute.

    What is absent is replaced by a tensor of the dtype that it has elsewhere in a session, since the kernel is compiled
    for each combination of dtypes.
    """
    if x.numel() == 0:
        return
    C = x.shape[-1]
    rows, width, chosen = x.numel() // C, triton.next_power_of_2(C), launch_config("layer_norm", config, x)
    block = max(1, chosen.meta["ELEMENTS"] // width)  # as many rows as fit, at least one
    deltas = 0 if delta is None else delta.numel() // C
    positions = 0 if position is None else position.numel() // C
    x = x.contiguous()
    count_launch("layer_norm")
    with chosen.on_device(x):
        _add_layer_norm_kernel[(triton.cdiv(rows, block),)](
            x,
            normed if delta is None else delta.contiguous(),
            weight.contiguous(),
            bias.contiguous(),
            x if total is None else total,
            normed,
            weight if position is None else position.contiguous(),
            (normed if delta is None else delta) if positioned is None else positioned,
            rows, deltas, positions, int(total is not None), int(gelu), C, eps, WIDTH=width, BLOCK=block,
            **chosen.options, **FUSED,
        )  # fmt: skip
