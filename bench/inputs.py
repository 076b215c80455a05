"""Inputs of what is measured and checked, the same on every device, and sizes of the published models at 1024 x 1024
pixels.
"""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from figures.results import MODELS
from parity_rows import integer
from registry import Work
from torch import Tensor

from sam2fast.kernels.memory_attention import AttendedMemory
from sam2fast.modeling.position_encoding import axial_rope

# Positions of a frame's map, channels of its queries and of memory tokens, memories that an object has at most, and
# tokens of its pointers (16, of four tokens each).
N, D, M_CHANNELS, PAGES, POINTERS = 4096, 256, 64, 7, 64
FULL_HD = (1080, 1920)
# Positions and channels of the first and the third stage of tiny, and of large.
STAGES = ((65536, 96), (4096, 384), (65536, 144), (4096, 576))


class Windowed(NamedTuple):
    """Attention of one block of Hiera."""

    side: int  # of the map
    window: int  # 0: the map is one window
    heads: int
    width: int  # channels of a head
    stride: int = 1  # of pooling: 2, or 1


@functools.cache
def hiera_blocks(size: str) -> tuple[Windowed, ...]:
    """Every block of a published model, in order."""
    from sam2fast.config import load_config
    from sam2fast.modeling.hiera import Hiera

    trunk = dict(load_config(f"configs/sam2.1/sam2.1_hiera_{size}.yaml").model.image_encoder.trunk)
    del trunk["_target_"]
    with torch.device("meta"):
        blocks: Iterable[Any] = Hiera(**trunk).blocks
    side, found = 256, []
    for block in blocks:
        stride, heads = (2 if block.q_stride else 1), block.attn.num_heads
        found.append(Windowed(side, block.window_size, heads, block.dim_out // heads, stride))
        side //= stride
    return tuple(found)


def of_stages(of_stage: Callable[[int, int], tuple[str, Work]]) -> Iterable[tuple[str, str, Work]]:
    """Work by positions and channels in the stages of the smallest and the largest model, in a bf16 session."""
    for size in ("t", "l"):
        stages = {block.side // block.stride: block.heads * block.width for block in hiera_blocks(size)}
        for side, channels in stages.items():
            said, done = of_stage(side**2, channels)
            yield f"{MODELS[size]}, {side**2:,} × {channels}{said}", "bf16", done


MOMENTS = 7  # of banks with gaps


def random(*shape: int, device: torch.device, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Standard normal values, the same on every device."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor without values, to record what is launched."""
    return torch.empty(shape, dtype=dtype, device="meta")


def small(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Standard normal values in fp32 on the CPU."""
    return random(*shape, device=torch.device("cpu"), seed=seed)


def blobs(count: int, height: int, width: int, device: torch.device) -> Tensor:
    """Logits ``(count, 1, H, W)`` with components of many sizes."""
    return F.avg_pool2d(random(count, 1, height + 4, width + 4, device=device), 5, stride=1)


def rope_tables(side: int, d: int, device: torch.device) -> tuple[Tensor, Tensor]:
    return axial_rope(d, side, side, 10000.0, device)


def token_tables(side: int, tokens: int, d: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of queries, and of pages of so many tokens: half of them without a position, half on a square grid."""
    queries, grid = (rope_tables(n, d, device) for n in (side, math.isqrt(tokens // 2)))
    none = torch.zeros(tokens // 2, d // 2, device=device)
    return torch.cat([queries[0], none + 1, grid[0]]), torch.cat([queries[1], none, grid[1]])


class MemoryArguments(NamedTuple):
    """What memory attention is called with."""

    query: Tensor
    memory: AttendedMemory
    key_weight: Tensor
    key_bias: Tensor
    value_weight: Tensor
    value_bias: Tensor
    cos: Tensor
    sin: Tensor


def projections(d: int, m: int, device: torch.device, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, ...]:
    """Weight and bias of the keys, then of the values, both ``d`` wide."""
    weights = [random(d, m, device=device, seed=seed + i) / m**0.5 for i in (1, 2)]
    biases = [random(d, device=device, seed=seed + i) / 4 for i in (3, 4)]
    return tuple(x.to(dtype) for x in (weights[0], biases[0], weights[1], biases[1]))


def full_bank(
    objects: int,
    pages: int,
    pointers: int,
    side: int,
    d: int,
    m: int,
    device: torch.device,
    dtype: torch.dtype,
    tokens: int = 0,
) -> MemoryArguments:
    """Objects that all have so many pages, one after the other in the pool, and so many pointers.

    Pages are whole maps, or so many tokens of :func:`token_tables`.
    """
    N, n = side * side, tokens or side * side
    memory = AttendedMemory(
        pages=random(objects * pages, n, m, device=device, dtype=dtype),
        page_table=torch.arange(objects * pages, dtype=torch.int32, device=device).view(objects, pages),
        page_time=torch.arange(pages, dtype=torch.int32, device=device).expand(objects, -1).contiguous(),
        position_encoding=random(n, m, device=device, seed=5),
        time_encoding=random(pages, m, device=device, seed=6),
        pointers=random(objects, pointers, m, device=device, seed=7),
        pointer_encoding=random(objects, pointers, m, device=device, seed=8),
        pointer_valid=torch.ones(objects, pointers, dtype=torch.bool, device=device),
    )
    query = random(objects, 1, N, d, device=device, dtype=dtype, seed=9)
    tables = token_tables(side, tokens, d, device) if tokens else rope_tables(side, d, device)
    return MemoryArguments(query, memory, *projections(d, m, device, dtype), *tables)


def bank_with_gaps(
    objects: int,
    K: int,
    L: int,
    n: int,
    m: int,
    dtype: torch.dtype,
    most: int,
    generator: torch.Generator,
    device: torch.device,
) -> tuple[AttendedMemory, list[int]]:
    """Pages of n positions in random slots and rows of the pool; its other rows and the unused pointers hold NaN.

    Returns:
        The bank, and how many pages each object has.
    """
    seed = integer(0, 2**31, generator)
    filled = [integer(0, min(K, most), generator) for _ in range(objects)]
    counts = [integer(0, L, generator) for _ in range(objects)]
    if objects > 1:
        empty = integer(0, objects - 1, generator)
        filled[empty] = counts[empty] = 0
    rows = torch.randperm(sum(filled) + 3, generator=generator)
    taken = rows[: sum(filled)].split(filled)
    table, valid = torch.full((objects, K), -1, dtype=torch.int32), torch.zeros(objects, L, dtype=torch.bool)
    for b in range(objects):
        table[b, torch.randperm(K, generator=generator)[: filled[b]]] = taken[b].int()
        valid[b, torch.randperm(L, generator=generator)[: counts[b]]] = True
    pages = random(len(rows), n, m, device=device, dtype=dtype, seed=seed)
    pages[rows[sum(filled) :].to(device)] = float("nan")
    pointers = random(objects, L, m, device=device, dtype=dtype, seed=seed + 1)
    memory = AttendedMemory(
        pages=pages,
        page_table=table.to(device),
        page_time=torch.randint(MOMENTS, (objects, K), dtype=torch.int32, generator=generator).to(device),
        position_encoding=random(n, m, device=device, seed=seed + 2),
        time_encoding=random(MOMENTS, m, device=device, seed=seed + 3),
        pointers=torch.where(valid.to(device)[..., None], pointers, float("nan")),
        pointer_encoding=random(objects, L, m, device=device, seed=seed + 4),
        pointer_valid=valid.to(device),
    )
    return memory, filled
