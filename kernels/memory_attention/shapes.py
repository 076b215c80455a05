"""What the kernels take; without triton."""

import torch
from torch import Tensor

from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels._launch import MOST_PROGRAMS

WIDEST = 256  # channels of a head, and of values
# Channels of memory tokens. The next power of two takes more shared memory than the 99 KiB of compute capabilities 8.6,
# 8.9 and 12.0: 104 KiB for 128 channels in fp32, and 144 KiB for 256 in fewer bits.
WIDEST_MEMORY = {torch.float32: 64, torch.bfloat16: 128, torch.float16: 128}


def obstacle(query: Tensor, values: Tensor) -> str | None:
    """Why the kernels cannot take these queries ``(B, heads, N, d)`` and values ``(..., d_v)``, if they cannot."""
    if max(query.shape[-1], values.shape[-1]) > WIDEST:
        return f"takes heads and values of up to {WIDEST} channels"
    if query.shape[-1] % 2:
        return f"takes heads of an even number of channels, and got {query.shape[-1]}"
    if query.dtype not in FLOATS:
        return f"does not take {query.dtype}"
    B, heads = query.shape[:2]
    # Not asked of graphs, where a limit on the number of objects would become a condition of theirs.
    if not torch.compiler.is_compiling() and B * heads > MOST_PROGRAMS:
        return f"takes up to {MOST_PROGRAMS} heads of all objects' queries together, and got {B} x {heads}"
    return None


def memory_obstacle(query: Tensor, pages: Tensor) -> str | None:
    """The same for attention to memory ``pages (P, n, m)``, by any number of objects if they share a query."""
    if found := obstacle(query, pages):
        return found
    m, widest = pages.shape[-1], WIDEST_MEMORY[query.dtype]
    if m > widest:
        return f"takes memory tokens of up to {widest} channels in {query.dtype}, and got {m}"
    return None
