"""Attention's kernels against their references in float64, on random banks of memory with gaps, at SAM 2's sizes too.

``test_parity_windows.py`` does the same for attention in windows.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from inputs import MemoryArguments, projections, random, rope_tables
from parity_rows import (
    ALL_DTYPES,
    FEW_DTYPES,
    SLACK,
    Draw,
    Row,
    add_group,
    finish,
    integer,
    name_of,
    new_row,
    planned,
    seeded,
)
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
    dtypes: Sequence[torch.dtype] = ALL_DTYPES
    splits: Sequence[int | None] = (None, *range(1, 9))  # None: chosen by the launcher, through the dispatcher
    slots: tuple[int, int] = (7, 12)  # of a bank, least and most
    pages: int = 8  # most valid ones of an object
    pointers: int = 64  # most
    draws: int = 4
    seed: int | None = None


QUICK = Plan(sides=(5,), objects=(3,), splits=(None, 1, 3), draws=1)
PLAN = planned(
    Plan(),
    Plan((64, 5), (1, 3), ((256, 64), (128, 64)), FEW_DTYPES, (None, 1, 8), draws=1),
    QUICK,
    QUICK._replace(objects=(1,), widths=((32, 32),), dtypes=(torch.float32,), splits=(None, 2)),
)


@torch.no_grad()
def row_of(op: str, dtype: torch.dtype, widths: tuple[int, int], plan: Plan, device: torch.device) -> Row:
    row, generator = new_row(op, dtype, widths="{}/{}".format(*widths)), seeded(plan.seed)
    make: Callable[..., Draw] = rope_draw if op == "rope_attention" else functools.partial(memory_draw, fp8=op == FP8)
    for side in plan.sides:
        draws = (
            make(objects, side, *widths, dtype, plan, generator, device)
            for objects in plan.objects
            for _ in range(plan.draws)
        )
        if op == FP8:
            add_group(row, "memory_attention", draws, plan.splits, _allowed_in_fp8)
        else:
            add_group(row, op, draws, plan.splits)
    return {**row, "seed": generator.initial_seed()}


def _allowed_in_fp8(_: str, reference: float) -> float:
    """Each way of its own decides what bfloat16 leaves open near ties."""
    return max(2 * SLACK * reference, NEAR_TIES)


def of_each_kind(test):
    widths = pytest.mark.parametrize("widths", PLAN.widths, ids=str)
    return pytest.mark.gpu(widths(pytest.mark.parametrize("dtype", PLAN.dtypes, ids=str)(test)))


@of_each_kind
def test_parity_of_memory_attention(triton_device, record_property, dtype, widths):
    finish(row_of("memory_attention", dtype, widths, PLAN, triton_device), record_property)


@of_each_kind
def test_parity_of_rope_attention(triton_device, record_property, dtype, widths):
    finish(row_of("rope_attention", dtype, widths, PLAN, triton_device), record_property)


@of_each_kind
def test_parity_of_memory_attention_in_fp8(triton_device, record_property, dtype, widths):
    if triton_device.type == "cuda" and (reason := too_old_for_fp8(triton_device)):
        record_property("row", {"op": FP8, "dtype": name_of(dtype), "wrong": 0, "note": reason})
        pytest.skip(reason)
    finish(row_of(FP8, dtype, widths, PLAN, triton_device), record_property)


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
    """The reference in float64, by object, as it holds all scores. With ``fp8`` they are of rounded rows."""
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


TINY = Plan((3,), (1, 2), ((32, 16),), (torch.float32,), (None, 2), pointers=5, draws=1, seed=0)


@pytest.mark.parametrize("dtype", FEW_DTYPES, ids=str)
@pytest.mark.parametrize("op", ["memory_attention", "rope_attention", FP8])
def test_rows(triton_device, op, dtype):
    """Every choice of splits ran twice."""
    row = row_of(op, dtype, (32, 16), TINY, triton_device)
    assert (row["inputs"], row["runs"], row["wrong"]) == (2, 8, 0)
    assert 0 < row["largest error"] < (0.3 if op == FP8 else 0.1 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("changes", [[1e-3], [0.5], [float("nan")], [0, 3e-6]], ids=str)
@pytest.mark.parametrize("op", ["memory_attention", "rope_attention", FP8])
def test_a_wrong_kernel_is_seen(triton_device, monkeypatch, op, changes):
    """Also one that differs between two runs; in fp8 what is smaller than rounding does not count."""
    from sam2fast.kernels.memory_attention import launch

    name = "rope_attention_triton" if op == "rope_attention" else "memory_attention_triton"
    right, change = getattr(launch, name), itertools.cycle(changes)
    monkeypatch.setattr(launch, name, lambda *inputs, **options: right(*inputs, **options) + next(change))
    row = row_of(op, torch.float32, (32, 16), TINY, triton_device)
    assert (row["wrong"] > 0) == (op != FP8 or changes != [1e-3])
    assert len(changes) == 1 or (row["wrong"] == 4 and (op == FP8 or row["largest error"] < 1e-4))


def test_banks_have_gaps():
    generator = torch.Generator().manual_seed(0)
    memory, filled = bank_with_gaps(4, 9, 64, 3, 16, torch.float32, 8, generator, torch.device("cpu"))
    table = memory.page_table
    assert (table >= 0).sum(1).tolist() == filled and 0 in filled and max(filled) <= 8
    rows = table[table >= 0].long()
    assert len(rows.unique()) == sum(filled) == len(memory.pages) - 3
    assert memory.pages[rows].isfinite().all() and int(memory.pages.isnan().any(-1).any(-1).sum()) == 3
    assert torch.equal(memory.pointers.isfinite().all(-1), memory.pointer_valid)
    assert not memory.pointer_valid[filled.index(0)].any() or filled.count(0) > 1
