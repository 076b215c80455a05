"""A residual sum and its layer norm in one pass: each input is read once, each output written once."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from sam2fast.kernels._dispatch import count_launch
from sam2fast.kernels._launch import Compilation, LaunchConfig, launch_config


@triton.jit
def _add_layer_norm_kernel(
    x,  # (rows, C)
    delta,  # (rows, C); anything if not ADD
    weight,  # (C)
    bias,  # (C)
    total,  # (rows, C) out: x + delta; anything if not ADD
    normed,  # (rows, C) out
    rows,
    eps,
    C: tl.constexpr,
    WIDTH: tl.constexpr,  # C, up to the next power of two
    ADD: tl.constexpr,
    GELU: tl.constexpr,
    BLOCK: tl.constexpr,  # rows of a program
):
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    channel = tl.arange(0, WIDTH)
    offsets = row[:, None] * C + channel[None, :]
    used = (channel < C)[None, :]
    mask = (row < rows)[:, None] & used
    value = tl.load(x + offsets, mask=mask, other=0).to(tl.float32)
    if ADD:
        value += tl.load(delta + offsets, mask=mask, other=0).to(tl.float32)
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
        out = 0.5 * out * (1.0 + tl.erf(out * 0.7071067811865476))
    tl.store(normed + offsets, out.to(normed.dtype.element_ty), mask=mask)


def add_layer_norm_triton(
    x: Tensor,
    delta: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
    gelu: bool = False,
) -> tuple[Tensor, Tensor]:
    """:func:`sam2fast.kernels.layer_norm.add_layer_norm` on the GPU; never synchronises."""
    x = x.contiguous()
    added = x if delta is None else delta.contiguous()
    total = x if delta is None else x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, added.dtype))
    normed = x.new_empty(x.shape, dtype=dtype)
    C = x.shape[-1]
    if x.numel() == 0:
        return total, normed
    config = launch_config("layer_norm", x)
    meta = constants(config, C, delta is not None, gelu)
    rows = x.numel() // C
    count_launch("layer_norm")
    with config.on_device(x):
        _add_layer_norm_kernel[(triton.cdiv(rows, meta["BLOCK"]),)](
            x, added, weight.contiguous(), bias.contiguous(), total, normed, rows, eps, **meta, **config.options
        )
    return total, normed


def constants(config: LaunchConfig, C: int, add: bool, gelu: bool = False) -> dict[str, Any]:
    """The kernel's constexpr arguments. A program takes as many rows as fit into ELEMENTS elements, at least one."""
    width = triton.next_power_of_2(C)
    return {"C": C, "WIDTH": width, "ADD": add, "GELU": gelu, "BLOCK": max(1, config.meta["ELEMENTS"] // width)}


def compilations(config: LaunchConfig) -> list[Compilation]:
    """The compilations of one row of the launch table: the widths of the models in fp32 and bf16, and with GELU."""
    found = []
    for C in (96, 112, 144, 256, 384, 576, 1152):
        for x, added, out in (("*fp32", "*fp32", "*fp32"), ("*fp32", "*bf16", "*bf16"), ("*bf16", "*bf16", "*bf16")):
            types = (x, added, "*fp32", "*fp32", x, out, "i32", "fp32")
            found.append(Compilation(_add_layer_norm_kernel, types, constants(config, C, True), "bfloat16"))
    for C, x, gelu in ((96, "*fp32", False), (4, "*bf16", True), (256, "*bf16", True)):
        types = (x, x, "*fp32", "*fp32", x, "*bf16", "i32", "fp32")
        found.append(Compilation(_add_layer_norm_kernel, types, constants(config, C, False, gelu), "bfloat16"))
    return found
