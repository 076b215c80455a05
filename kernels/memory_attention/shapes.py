"""The memory that is attended to, and what the kernels support; imports without Triton."""

from typing import NamedTuple

import torch
from torch import Tensor

from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels._launch import MAX_PROGRAMS

WIDEST = 256  # channels of a head, and of values
# Channels of memory tokens. The next power of two needs more than the 99 KiB of shared memory of compute capabilities
# 8.6, 8.9 and 12.0: 104 KiB for 128 channels in fp32, and 144 KiB for 256 in fp16 and bf16.
WIDEST_MEMORY = {torch.float32: 64, torch.bfloat16: 128, torch.float16: 128}


class AttendedMemory(NamedTuple):
    """What B objects attend to on one frame. Shapes depend on capacities, not on how much memory there is.

    A page is a whole map of N positions, or n tokens with positions of their own.
    """

    pages: Tensor  # (P, n, m) spatial memories of all objects
    page_table: Tensor  # (B, K) int32: the pages of each object; -1 for none
    page_time: Tensor  # (B, K) int32: each page's row of time_encoding
    position_encoding: Tensor  # (n, m)
    time_encoding: Tensor  # (T, m)
    pointers: Tensor  # (B, L, m) object pointer tokens
    pointer_encoding: Tensor  # (B, L, m)
    pointer_valid: Tensor  # (B, L) bool
    key_factors: Tensor | None = None  # (B, K + L): encoded tokens are multiplied by these before they become keys


def unsupported_reason(query: Tensor, values: Tensor) -> str | None:
    """Why the kernels do not support queries ``(B, heads, N, d)`` and values ``(..., d_v)``, or None."""
    if max(query.shape[-1], values.shape[-1]) > WIDEST:
        return f"takes heads and values of up to {WIDEST} channels"
    if query.shape[-1] % 2:
        return f"takes heads of an even number of channels, and got {query.shape[-1]}"
    if query.dtype not in FLOATS:
        return f"does not take {query.dtype}"
    B, heads = query.shape[:2]
    # Not checked in graphs, where it would become a guard on the number of objects.
    if not torch.compiler.is_compiling() and B * heads > MAX_PROGRAMS:
        return f"takes up to {MAX_PROGRAMS} heads of all objects' queries together, and got {B} x {heads}"
    return None


def memory_unsupported_reason(query: Tensor, pages: Tensor) -> str | None:
    """The same for memory ``pages (P, n, m)``; the number of objects is not limited if they share a query."""
    if found := unsupported_reason(query, pages):
        return found
    m, widest = pages.shape[-1], WIDEST_MEMORY[query.dtype]
    if m > widest:
        return f"takes memory tokens of up to {widest} channels in {query.dtype}, and got {m}"
    return None
