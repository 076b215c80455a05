"""A residual sum and its layer norm in one pass: each input is read once, each output written once."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sam2fast.kernels._dispatch import count_launch
from sam2fast.kernels._launch import FUSED, Compilation, LaunchConfig, launch_config
from sam2fast.kernels.layer_norm import sum_dtype
from sam2fast.kernels.linear_gelu_triton import exact_gelu


@triton.jit
def _add_layer_norm_kernel(
    x,  # (rows, C)
    delta,  # (rows, C), or (C) if SHIFT; anything if neither ADD nor SHIFT
    weight,  # (C)
    bias,  # (C)
    total,  # (rows, C) out: x + delta; anything if not ADD or POSITION
    normed,  # (rows, C) out
    position,  # (positions, C), for row after row again and again; anything if not POSITION
    positioned,  # (rows, C) out: the norm + position; anything if not POSITION
    rows,
    positions,
    eps,
    C: tl.constexpr,
    WIDTH: tl.constexpr,  # C, up to the next power of two
    ADD: tl.constexpr,
    SHIFT: tl.constexpr,
    GELU: tl.constexpr,
    POSITION: tl.constexpr,
    BLOCK: tl.constexpr,  # rows of a program
):
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, WIDTH)
    offsets = row[:, None] * C + channel[None, :]
    used = (channel < C)[None, :]
    mask = (row < rows)[:, None] & used
    value = tl.load(x + offsets, mask=mask, other=0).to(tl.float32)
    if SHIFT:
        value += tl.load(delta + channel, mask=channel < C, other=0).to(tl.float32)[None, :]
    elif ADD:
        value += tl.load(delta + offsets, mask=mask, other=0).to(tl.float32)
    if ADD and not POSITION:
        rounded = value.to(total.dtype.element_ty)
        tl.store(total + offsets, rounded, mask=mask)
        value = rounded.to(tl.float32)  # the sum as later layers read it
    mean = tl.sum(value, 1) / C
    centred = tl.where(used, value - mean[:, None], 0)
    variance = tl.sum(centred * centred, 1) / C
    scale = tl.load(weight + channel, mask=channel < C, other=0).to(tl.float32)
    shift = tl.load(bias + channel, mask=channel < C, other=0).to(tl.float32)
    out = centred * tl.rsqrt(variance + eps)[:, None] * scale[None, :] + shift[None, :]
    if GELU:
        out = exact_gelu(out)
    tl.store(normed + offsets, out.to(normed.dtype.element_ty), mask=mask)
    if POSITION:
        of_row = (row % positions)[:, None] * C + channel[None, :]
        out += tl.load(position + of_row, mask=mask, other=0).to(tl.float32)
        tl.store(positioned + offsets, out.to(positioned.dtype.element_ty), mask=mask)


def add_layer_norm_triton(
    x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """:func:`sam2fast.kernels.layer_norm.add_layer_norm` on the GPU; never synchronises."""
    x, delta = x.contiguous(), delta.contiguous()
    total, normed = x.new_empty(x.shape, dtype=sum_dtype(x, delta)), x.new_empty(x.shape, dtype=dtype)
    _launch(x, delta, weight, bias, total, normed, normed, normed, eps, ADD=True, SHIFT=delta.shape != x.shape)
    return total, normed


def layer_norm_triton(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype, gelu: bool = False
) -> Tensor:
    """:func:`sam2fast.kernels.layer_norm.layer_norm` on the GPU; never synchronises."""
    x, normed = x.contiguous(), x.new_empty(x.shape, dtype=dtype)
    _launch(x, x, weight, bias, x, normed, normed, normed, eps, GELU=gelu)
    return normed


def shifted_layer_norm_triton(
    x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> Tensor:
    """:func:`sam2fast.kernels.layer_norm.shifted_layer_norm` on the GPU; never synchronises."""
    x, normed = x.contiguous(), x.new_empty(x.shape, dtype=dtype)
    _launch(x, shift.contiguous(), weight, bias, normed, normed, normed, normed, eps, SHIFT=True)
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
    x, normed, positioned = x.contiguous(), x.new_empty(x.shape, dtype=dtype), x.new_empty(x.shape, dtype=placed)
    added = (x, delta.contiguous(), weight, bias, normed, normed, position.contiguous(), positioned)
    _launch(*added, eps, ADD=True, POSITION=True)
    return normed, positioned


def _launch(
    x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, total: Tensor, normed: Tensor, position: Tensor,
    positioned: Tensor, eps: float, **flags: bool,
) -> None:  # fmt: skip
    """Starts the kernel, whose arguments these are, unless there is nothing to compute."""
    if x.numel() == 0:
        return
    C = x.shape[-1]
    config = launch_config("layer_norm", x)
    meta = constants(config, C, **flags)
    rows = x.numel() // C
    count_launch("layer_norm")
    with config.on_device(x):
        _add_layer_norm_kernel[(triton.cdiv(rows, meta["BLOCK"]),)](
            x, delta, weight.contiguous(), bias.contiguous(), total, normed, position, positioned, rows,
            position.numel() // C, eps, **meta, **config.options, **FUSED,
        )  # fmt: skip


def constants(
    config: LaunchConfig,
    C: int,
    ADD: bool = False,
    SHIFT: bool = False,
    GELU: bool = False,
    POSITION: bool = False,
) -> dict[str, Any]:
    """The kernel's constexpr arguments. A program takes as many rows as fit into ELEMENTS elements, at least one."""
    width = triton.next_power_of_2(C)
    block = max(1, config.meta["ELEMENTS"] // width)
    flags = {"ADD": ADD, "SHIFT": SHIFT, "GELU": GELU, "POSITION": POSITION}
    return {"C": C, "WIDTH": width, **flags, "BLOCK": block}


def compilations(config: LaunchConfig) -> list[Compilation]:
    """The compilations of one row of the launch table: the widths of the models in fp32 and bf16, with GELU, and
    with a shift.

    With a position: the decoder's tokens and images in a bf16 session, and both in fp32.
    """
    found = []
    for C in (96, 112, 144, 256, 384, 576, 1152):
        for x, added, out in (("*fp32", "*fp32", "*fp32"), ("*fp32", "*bf16", "*bf16"), ("*bf16", "*bf16", "*bf16")):
            found.append(_compilation(config, C, x, added, x, out, ADD=True))
        for stored in (False, True):
            found.append(_compilation(config, C, "*bf16", "*fp32", "*bf16", "*bf16", ADD=stored, SHIFT=True))
    for C, x, gelu in ((96, "*fp32", False), (4, "*bf16", True), (256, "*bf16", True)):
        found.append(_compilation(config, C, x, x, x, "*bf16", GELU=gelu))
    for x, delta, normed, placed in (("*fp32", "*bf16", "*fp32", "*bf16"), *((t,) * 4 for t in ("*fp32", "*bf16"))):
        found.append(_compilation(config, 256, x, delta, x, normed, placed, ADD=True, POSITION=True))
    return found


def _compilation(
    config: LaunchConfig, C: int, x: str, delta: str, total: str, normed: str, placed: str = "*fp32", **flags: bool
) -> Compilation:
    types = (x, delta, "*fp32", "*fp32", total, normed, "*fp32", placed, "i32", "i32", "fp32")
    return Compilation(_add_layer_norm_kernel, types, constants(config, C, **flags), "bfloat16")
