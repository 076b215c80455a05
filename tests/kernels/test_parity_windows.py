"""The kernel of attention in windows against its reference in float64: SAM 2's maps, and small ones of any shape."""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest
import torch
from inputs import random
from parity_rows import ALL_DTYPES, FEW_DTYPES, Draw, Row, add_group, finish, integer, new_row, planned, seeded
from torch import Tensor

from sam2fast.kernels.window_attention import window_attention_reference
from sam2fast.kernels.window_attention.shapes import WIDEST


class Shape(NamedTuple):
    """One input."""

    batch: int
    height: int
    width: int
    window: int  # 0 for the whole map
    heads: int
    d: int
    pooled: bool

    def __str__(self) -> str:
        window = f"window {self.window}" if self.window else "whole map"
        pooled = " pooled" if self.pooled else ""
        return f"{self.batch} of {self.height}x{self.width} {window} {self.heads}x{self.d}{pooled}"


# Side, window, heads, channels of a head, whether queries are pooled: of tiny (96), base+ (56) and large (72).
REAL = (
    (256, 8, 1, 96, False), (256, 8, 2, 96, True), (256, 8, 4, 56, True),
    (128, 4, 2, 96, False), (128, 4, 8, 56, True), (128, 4, 4, 72, False),
    (64, 14, 4, 96, False), (64, 14, 8, 96, True), (64, 14, 8, 56, False),
    (64, 16, 8, 72, False), (64, 16, 16, 72, True),
    (32, 7, 8, 96, False), (32, 7, 16, 56, False),
    (64, 0, 4, 96, False), (64, 0, 8, 56, False), (64, 0, 8, 72, False),
)  # fmt: skip


class Plan(NamedTuple):
    """What is tried: the real maps, and so many small ones, for every window and dtype."""

    windows: Sequence[int] = (4, 7, 8, 14, 16, 0)
    dtypes: Sequence[torch.dtype] = ALL_DTYPES
    head_widths: Sequence[int] = (56, 72, 96, 8, 24, 128)  # for small maps; those of SAM 2 as often as all others
    real: Sequence[tuple[int, int, int, int, bool]] = REAL
    draws: int = 4  # of small maps; nearly each compiles a kernel of its own
    whole: int = 40  # longest side of a small map that is one window
    windows_across: int = 3  # most of a small map, padded ones included
    batch: int = 5  # most small maps
    seed: int | None = None


QUICK = Plan(real=(), draws=2, whole=12, windows_across=2, batch=2)
REHEARSAL = QUICK._replace(windows=(7, 0), dtypes=(torch.float32,), draws=1)
PLAN = planned(Plan(), Plan(dtypes=FEW_DTYPES, draws=1), QUICK, REHEARSAL)


@torch.no_grad()
def row_of(dtype: torch.dtype, window: int, plan: Plan, device: torch.device) -> Row:
    row, generator = new_row("window_attention", dtype, window=window), seeded(plan.seed)
    generator.manual_seed(generator.initial_seed() + window)
    plan = plan._replace(head_widths=[d for d in plan.head_widths if d <= WIDEST[dtype]])  # what every GPU can launch
    for shapes in (real_shapes(window, plan, generator), small_shapes(window, plan, generator)):
        add_group(row, "window_attention", (window_draw(shape, dtype, generator, device) for shape in shapes))
    return {**row, "seed": generator.initial_seed()}


@pytest.mark.gpu
@pytest.mark.parametrize("window", PLAN.windows)
@pytest.mark.parametrize("dtype", PLAN.dtypes, ids=str)
def test_parity(triton_device, record_property, dtype, window):
    finish(row_of(dtype, window, PLAN, triton_device), record_property)


def real_shapes(window: int, plan: Plan, generator: torch.Generator) -> Iterator[Shape]:
    """SAM 2's maps of this window, one or two at once."""
    for side, own, heads, d, pooled in plan.real:
        if own == window:
            yield Shape(integer(1, 2, generator), side, side, window, heads, d, pooled)


def small_shapes(window: int, plan: Plan, generator: torch.Generator) -> Iterator[Shape]:
    """Random ones: from one position to a few windows, mostly oblong and padded, pooled in turn where that is possible.

    Maps that are one window are pooled where both sides are even, as the kernel wants them.
    """
    longest = plan.windows_across * window or plan.whole
    for turn in range(plan.draws):
        height, width = (integer(1, longest, generator) for _ in range(2))
        pooled = window % 2 == 0 and turn % 2 == 1
        if pooled:  # at least one query
            height, width = (side + side % 2 if window == 0 else max(2, side) for side in (height, width))
        d = plan.head_widths[integer(0, len(plan.head_widths) - 1, generator)]
        yield Shape(integer(1, plan.batch, generator), height, width, window, integer(1, 3, generator), d, pooled)


def window_draw(shape: Shape, dtype: torch.dtype, generator: torch.Generator, device: torch.device) -> Draw:
    """Normal projections of the shape, for the launcher itself; under autocast, as often, the bias stays fp32."""
    from sam2fast.kernels.window_attention import kernel as launch

    channels, seed = 3 * shape.heads * shape.d, integer(0, 2**31, generator)
    qkv = random(shape.batch, shape.height, shape.width, channels, device=device, dtype=dtype, seed=seed)
    of_bias = (dtype, torch.float32)[integer(0, 1, generator)]
    bias = random(channels, device=device, dtype=of_bias, seed=seed + 1)
    rest = shape.heads, shape.window, (2, 2) if shape.pooled else None
    return Draw(
        in_float64(qkv, bias, *rest),
        window_attention_reference(qkv, bias, *rest),
        lambda _: launch.window_attention_triton(qkv, bias, *rest),
        str(shape),
    )


def in_float64(qkv: Tensor, bias: Tensor, heads: int, window: int, stride: tuple[int, int] | None) -> Tensor:
    """The reference in float64, one map at a time: the scores of whole maps are held."""
    # Under inference, the reference takes long rows on the CPU in fp32.
    with torch.enable_grad():
        each = [window_attention_reference(x.double(), bias.double(), heads, window, stride) for x in qkv.split(1)]
    return torch.cat(each).detach()


TINY = QUICK._replace(head_widths=(8, 24), real=((8, 4, 2, 24, True), (8, 7, 1, 8, False)), seed=0)


@pytest.mark.parametrize(("window", "inputs"), [(4, 3), (7, 3), (0, 2)])
@pytest.mark.parametrize("dtype", FEW_DTYPES, ids=str)
def test_rows(triton_device, dtype, window, inputs):
    """Of the real maps and the small ones; each ran twice."""
    row = row_of(dtype, window, TINY, triton_device)
    assert (row["inputs"], row["runs"], row["wrong"]) == (inputs, 2 * inputs, 0)
    assert 0 < row["largest error"] < (1e-5 if dtype == torch.float32 else 0.1)


@pytest.mark.parametrize("changes", [[1e-3], [float("nan")], [0, 3e-6]], ids=["wrong", "NaN", "race"])
def test_a_wrong_kernel_is_seen(triton_device, monkeypatch, changes):
    from sam2fast.kernels.window_attention import kernel as launch

    right, change = launch.window_attention_triton, itertools.cycle(changes)
    monkeypatch.setattr(launch, "window_attention_triton", lambda *inputs: right(*inputs) + next(change))
    for window in (4, 7, 0):
        row = row_of(torch.float32, window, TINY, triton_device)
        assert row["wrong"] == row["inputs"]


def test_all_shapes_can_be_launched():
    """Random ones have queries, fit what the kernel takes, and are of every kind."""
    plan = Plan(draws=200)
    for window in plan.windows:
        shapes = list(small_shapes(window, plan, torch.Generator().manual_seed(0)))
        for shape in shapes:
            stride = 2 if shape.pooled else 1
            assert shape.height // stride and shape.width // stride and shape.d in plan.head_widths
            assert not shape.pooled or window % 2 == 0
            assert window or not shape.pooled or shape.height % 2 == shape.width % 2 == 0
        assert {shape.pooled for shape in shapes} == ({False} if window == 7 else {False, True})
        assert {1, 2} <= {shape.height for shape in shapes} and any(s.height != s.width for s in shapes)


def test_real_maps():
    plan = Plan()
    assert {own for _, own, *_ in plan.real} == set(plan.windows)
    assert {d for *_, d, _ in plan.real} == {56, 72, 96}
