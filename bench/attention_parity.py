"""Attention's kernels against their torch twins in float64, on random banks of memory with gaps.

``window_parity`` does the same for attention in windows.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from inputs import MemoryArguments, projections, random, rope_tables
from parity_rows import NOTHING_RUN, SLACK, Draw, Rows, add_group, integer
from torch import Tensor

from sam2fast.kernels.memory_attention import (
    AttendedMemory,
    memory_attention,
    memory_attention_reference,
    rope_attention,
    rope_attention_reference,
)
from sam2fast.kernels.memory_attention.fp8 import too_old_for_fp8

# Rounding to fp8 turns what fp32 leaves open near a tie into an eighth of a number, in one of some 1e5: the most that
# this may do to an output. Between two ways of the CPU it is 0.002 on such inputs, and all rounding costs 0.1 to 0.2.
NEAR_TIES = 0.02
MOMENTS = 7
FP8 = "memory_attention in fp8"


class Plan(NamedTuple):
    """What is tried: every combination of objects, sides, widths and dtypes, so many draws of each."""

    sides: Sequence[int] = (64, 5, 17)
    objects: Sequence[int] = (1, 3, 4)
    widths: Sequence[tuple[int, int]] = ((256, 64), (128, 64), (32, 32))  # of heads and of memory
    dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16, torch.float16)
    splits: Sequence[int | None] = (None, *range(1, 9))  # None: chosen by the launcher, through the dispatcher
    slots: tuple[int, int] = (7, 12)  # of a bank, least and most
    pages: int = 8  # most valid ones of an object
    pointers: int = 64  # most
    draws: int = 4
    poison: bool = True  # whether memory that nobody wrote holds NaN
    seed: int | None = None  # of the draws; by the clock, so that each run sees others
    ops: Sequence[str] = ("memory_attention", "rope_attention", FP8)


# For a short visit to a GPU, where every combination of dtype and width is compiled first.
SHORT = Plan(
    sides=(64, 5),
    objects=(1, 3),
    widths=((256, 64), (128, 64)),
    dtypes=(torch.float32, torch.bfloat16),
    splits=(None, 1, 8),
    draws=1,
)
# For memory checkers, which take a hundred times as long and want to see themselves what nobody wrote.
QUICK = Plan(sides=(5,), objects=(3,), splits=(None, 1, 3), draws=1, poison=False)


def attention_parity(device: torch.device, save: Callable[[Rows], None], plan: Plan | None = None) -> bool:
    """A row per op, dtype and width, saved as they come; false if a result is wrong or differs between two runs."""
    plan, rows = plan or Plan(), []
    seed = int(time.time()) if plan.seed is None else plan.seed
    ops: list[tuple[str, Callable[..., Draw]]] = [("memory_attention", memory_draw), ("rope_attention", rope_draw)]
    if device.type != "cuda" or too_old_for_fp8(device) is None:
        ops.append((FP8, functools.partial(memory_draw, fp8=True)))
    for op, make in ops:
        if op not in plan.ops:
            continue
        for dtype in plan.dtypes:
            for widths in plan.widths:
                generator = torch.Generator().manual_seed(seed)
                with torch.no_grad():
                    rows.append(_row(op, make, dtype, widths, plan, generator, device))
                save(rows)
                print(rows[-1], flush=True)
    return not any(row["wrong"] for row in rows)


def _row(
    op: str,
    make: Callable[..., Draw],
    dtype: torch.dtype,
    widths: tuple[int, int],
    plan: Plan,
    generator: torch.Generator,
    device: torch.device,
) -> dict[str, Any]:
    row: dict[str, Any] = {"op": op, "dtype": str(dtype).removeprefix("torch."), "widths": "{}/{}".format(*widths)}
    row |= NOTHING_RUN
    for side in plan.sides:
        draws = (
            make(objects, side, *widths, dtype, plan, generator, device)
            for objects in plan.objects
            for _ in range(plan.draws)
        )
        if op == FP8:
            add_group(row, "memory_attention", draws, plan.splits, plan.poison, _allowed_in_fp8)
        else:
            add_group(row, op, draws, plan.splits, plan.poison)
    return {**row, "seed": generator.initial_seed()}


def _allowed_in_fp8(_: str, twin: float) -> float:
    """Each way of its own decides what bfloat16 leaves open near ties."""
    return max(2 * SLACK * twin, NEAR_TIES)


def memory_draw(
    objects: int,
    side: int,
    d: int,
    m: int,
    dtype: torch.dtype,
    plan: Plan,
    generator: torch.Generator,
    device: torch.device,
    fp8: bool = False,
) -> Draw:
    """Banks of different length, of several objects one empty; queries of their own or, as often, the same for all."""
    from sam2fast.kernels.memory_attention.launch import memory_attention_triton

    K, L = integer(*plan.slots, generator), integer(0, plan.pointers, generator)
    memory, filled = bank_with_gaps(objects, K, L, side, m, dtype, plan.pages, generator, device)
    seed, asking = integer(0, 2**31, generator), (1, objects)[integer(0, 1, generator)]
    query = random(asking, side * side, 1, d, device=device, dtype=dtype, seed=seed).transpose(1, 2)
    weights = projections(d, m, device, dtype, seed)
    arguments = MemoryArguments(query, memory, *weights, *rope_tables(side, d, device))

    def kernel(splits: int | None) -> Tensor:
        if splits is None:
            return memory_attention(*arguments, fp8=fp8)
        return memory_attention_triton(*arguments, splits=splits, fp8=fp8)

    return Draw(
        memory_in_float64(arguments, fp8),
        memory_attention_reference(*arguments, fp8=fp8),
        kernel,
        f"{asking} queries, side {side}, {d}/{m}, {K} slots with {filled}, {L} pointers "
        f"with {memory.pointer_valid.sum(1).tolist()}",
    )


def bank_with_gaps(
    objects: int,
    K: int,
    L: int,
    side: int,
    m: int,
    dtype: torch.dtype,
    most: int,
    generator: torch.Generator,
    device: torch.device,
) -> tuple[AttendedMemory, list[int]]:
    """Pages in random slots and rows of the pool; its other rows and the unused pointers hold NaN.

    Returns:
        The bank, and how many pages each object has.
    """
    N, seed = side * side, integer(0, 2**31, generator)
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
    pages = random(len(rows), N, m, device=device, dtype=dtype, seed=seed)
    pages[rows[sum(filled) :].to(device)] = float("nan")
    pointers = random(objects, L, m, device=device, dtype=dtype, seed=seed + 1)
    memory = AttendedMemory(
        pages=pages,
        page_table=table.to(device),
        page_time=torch.randint(MOMENTS, (objects, K), dtype=torch.int32, generator=generator).to(device),
        position_encoding=random(N, m, device=device, seed=seed + 2),
        time_encoding=random(MOMENTS, m, device=device, seed=seed + 3),
        pointers=torch.where(valid.to(device)[..., None], pointers, float("nan")),
        pointer_encoding=random(objects, L, m, device=device, seed=seed + 4),
        pointer_valid=valid.to(device),
    )
    return memory, filled


def memory_in_float64(arguments: MemoryArguments, fp8: bool = False) -> Tensor:
    """The twin in float64, one object at a time: its scores are held whole. With ``fp8`` they are of rounded rows."""
    query, memory, *rest = arguments
    pages, encodings = memory.pages.double(), (memory.position_encoding.double(), memory.time_encoding.double())
    weights = [x.double() for x in rest[:4]]
    out = []
    for b in range(len(memory.page_table)):
        own = slice(b, b + 1)
        tables = memory.page_table[own], memory.page_time[own]
        pointers = memory.pointers[own].double(), memory.pointer_encoding[own].double(), memory.pointer_valid[own]
        asked = query[own] if len(query) > 1 else query
        part = AttendedMemory(pages, *tables, *encodings, *pointers)
        out.append(memory_attention_reference(asked.double(), part, *weights, *rest[4:], fp8=fp8))
    return torch.cat(out)


def rope_draw(
    objects: int,
    side: int,
    d: int,
    m: int,
    dtype: torch.dtype,
    plan: Plan,
    generator: torch.Generator,
    device: torch.device,
) -> Draw:
    """Self-attention or, as often, values of width ``m`` of two maps and some keys without a position."""
    from sam2fast.kernels.memory_attention.launch import rope_attention_triton

    maps, unrotated, width = 1, 0, d
    if integer(0, 1, generator):
        maps, unrotated, width = 2, integer(0, plan.pointers, generator), m
    N, seed = side * side, integer(0, 2**31, generator)
    shapes = (N, d), (maps * N + unrotated, d), (maps * N + unrotated, width)
    # Heads are split off projections, so that they are the inner axis.
    made = [
        random(objects, rows, 1, columns, device=device, dtype=dtype, seed=seed + i).transpose(1, 2)
        for i, (rows, columns) in enumerate(shapes)
    ]
    tables = rope_tables(side, d, device)

    def kernel(splits: int | None) -> Tensor:
        if splits is None:
            return rope_attention(*made, *tables, unrotated)
        return rope_attention_triton(*made, *tables, unrotated, splits=splits)

    each = [[x[b : b + 1].double() for x in made] for b in range(objects)]
    return Draw(
        torch.cat([rope_attention_reference(*own, *tables, unrotated) for own in each]),
        rope_attention_reference(*made, *tables, unrotated),
        kernel,
        f"{objects} objects, side {side}, {d}/{width}, {maps} maps and {unrotated} keys without a position",
    )
