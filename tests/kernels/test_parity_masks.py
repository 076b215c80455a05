"""The kernels of masks against their references: random sizes and levels, and more masks than 2**31 pixels hold.

An interpolated pixel may be a rounding away from its level. Where kernel and torch disagree there, that is no error,
and is counted apart; farther away it is one.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from inputs import random
from parity_rows import ALL_DTYPES, FEW_DTYPES, Row, finish, integer, name_of, planned, seeded, twice
from torch import Tensor

from sam2fast.kernels._dispatch import backend, launches
from sam2fast.kernels.mask_ops import (
    launch,
    mask_statistics,
    mask_statistics_reference,
    pack_masks,
    pack_masks_reference,
    suppress_overlaps,
    suppress_overlaps_reference,
    unpack_masks,
    upsample_and_pack,
    upsample_and_threshold,
)

pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")
# Of the largest logit and the level, in units of fp32's epsilon: what a rounding may decide.
ROUNDINGS = 4
OPS = ("mask_statistics", "upsample_and_threshold", "upsample_and_pack", "pack_masks", "unpack_masks")


class Plan(NamedTuple):
    """What is tried, for each dtype."""

    dtypes: Sequence[torch.dtype] = ALL_DTYPES
    draws: int = 60
    low: int = 300  # longest side of logits
    side: int = 2000  # longest side of masks
    masks: int = 20  # at once
    many: bool = True  # one input whose masks together have more than 2**31 pixels


QUICK = Plan(draws=6, low=20, side=60, masks=3, many=False)
PLAN = planned(Plan(), Plan(dtypes=FEW_DTYPES, draws=12), QUICK, QUICK._replace(dtypes=(torch.float32,), draws=1))


def row_of(dtype: torch.dtype, plan: Plan, device: torch.device, seed: int | None = None) -> Row:
    row: Row = {"op": "mask_ops", "dtype": name_of(dtype), "inputs": 0, "wrong": 0}
    row |= {"pixels": 0, "decided by rounding": 0}
    generator = seeded(seed)
    for _ in range(plan.draws):
        _try(*_draw(plan, dtype, generator, device), row)
    for logits in _frames(plan, generator):
        given = logits.to(device, dtype)
        right = suppress_overlaps_reference(given).nan_to_num(1e4)
        runs = twice("suppress_overlaps", lambda given=given: suppress_overlaps(given).nan_to_num(1e4))
        row["inputs"] += 1
        row["wrong"] += not all([torch.equal(right, run) for run in runs])
    return {**row, "seed": generator.initial_seed()}


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", PLAN.dtypes, ids=str)
def test_parity(triton_device, record_property, dtype):
    finish(row_of(dtype, PLAN, triton_device), record_property)


@pytest.mark.gpu
@pytest.mark.skipif(not PLAN.many, reason="too many for a memory checker and for the interpreter")
def test_more_pixels_than_31_bits_count(triton_device, record_property):
    wrong = int(not many_are_right(triton_device))
    finish({"op": "mask_ops", "dtype": "float32", "inputs": 1, "wrong": wrong}, record_property)


def _draw(
    plan: Plan, dtype: torch.dtype, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, tuple[int, int], float, float]:
    """Smooth or rough logits ``(N, h, w)`` on the device, sometimes with NaN, a size, a level and an offset."""
    N = integer(1, plan.masks, generator)
    h, w = (integer(1, plan.low, generator) for _ in range(2))
    size = integer(1, plan.side, generator), integer(1, plan.side, generator)
    logits = random(N, h + 4, w + 4, device=torch.device("cpu"), seed=integer(0, 2**31, generator)) * 8
    smooth = integer(0, 1, generator) == 1
    logits = F.avg_pool2d(logits, 5, stride=1) if smooth else logits[:, 4:, 4:].contiguous()
    if integer(0, 3, generator) == 0:
        logits.view(-1)[:: integer(2, 99, generator)] = torch.nan
    if integer(0, 3, generator) == 0:  # many ties
        logits = logits.round()
    level, offset = (float(torch.randn((), generator=generator)) * integer(0, 1, generator) for _ in range(2))
    return logits.to(device, dtype), size, level, offset


def _try(logits: Tensor, size: tuple[int, int], level: float, offset: float, row: Row) -> None:
    """Two runs of every kernel; errors are counted in ``row``."""
    runs, before = [], dict(launches)
    with backend("triton"):
        for _ in range(2):
            masks = upsample_and_threshold(logits, size, level)
            statistics = mask_statistics(logits, size, level, offset)
            packed = upsample_and_pack(logits, size, level)
            runs.append([masks, packed, pack_masks(masks), unpack_masks(packed, size[1]), *statistics])
    if any(launches[op] != before.get(op, 0) + 2 for op in OPS):
        raise RuntimeError("a kernel was not launched")
    same = all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    bits = pack_masks_reference(masks)
    same &= torch.equal(bits, packed) and torch.equal(bits, runs[0][2]) and torch.equal(masks, runs[0][3])
    same &= torch.equal(statistics.area, masks.sum((1, 2), dtype=torch.int32))

    expected = mask_statistics_reference(logits, size, level, offset)
    for n in range(len(logits)):
        values = F.interpolate(logits[n, None, None].float(), size, mode="bilinear", align_corners=False)[0, 0]
        largest = float(logits[n].float().nan_to_num(0).abs().max())
        allowed = []
        for count, right, at in zip(statistics, expected[:3], (level, level + offset, level - offset), strict=False):
            near = (values - at).abs() <= ROUNDINGS * torch.finfo(torch.float32).eps * (largest + abs(at))
            allowed.append(near)
            same &= bool((count[n] - right[n]).abs() <= near.sum())
        differing = masks[n] != (values > level)
        same &= not bool((differing & ~allowed[0]).any())
        same &= bool(allowed[0].any()) or torch.equal(statistics.boxes[n], expected.boxes[n])
        row["decided by rounding"] += int(differing.sum())
    row["pixels"] += masks.numel()
    row["inputs"] += 1
    row["wrong"] += not same


def _frames(plan: Plan, generator: torch.Generator) -> Iterator[Tensor]:
    """Logits of several objects on a frame, with ties and NaN."""
    for _ in range(plan.draws):
        N, H, W = (integer(low, high, generator) for low, high in ((2, 12), (1, plan.low), (1, plan.low)))
        logits = torch.randn(N, 1, H, W, generator=generator) * 12
        if integer(0, 1, generator):
            logits = logits.round()
            logits.view(-1)[::5] = torch.nan
        yield logits


def many_are_right(device: torch.device) -> bool:
    """The first and the last of so many masks that their pixels pass 2**31, and a few that lie between."""
    size = (1200, 1800)
    count = 2**31 // (size[0] * size[1]) + 8
    some = [0, 1, count // 2, count - 2, count - 1]
    logits = torch.full((count, 64, 64), -5.0, device=device)
    logits[some] = random(len(some), 64, 64, device=device)
    with backend("triton"):
        masks, packed = upsample_and_threshold(logits, size), upsample_and_pack(logits, size)
        statistics = mask_statistics(logits, size)
        few = upsample_and_threshold(logits[some], size)
        right = torch.equal(masks[some], few) and torch.equal(packed[some], upsample_and_pack(logits[some], size))
        right &= torch.equal(statistics.area[some], few.sum((1, 2), dtype=torch.int32))
        right &= int(statistics.area.sum()) == int(few.sum())
        right &= torch.equal(pack_masks(masks), packed) and torch.equal(unpack_masks(packed, size[1]), masks)
    return bool(right)


TINY = QUICK._replace(draws=1)


def test_right_kernels_are_right(triton_device):
    row = row_of(torch.float32, TINY._replace(draws=4), triton_device, 2)
    assert (row["inputs"], row["wrong"]) == (8, 0) and row["pixels"] > 1000


@pytest.mark.parametrize(
    "name", ["upsample_and_threshold", "upsample_and_pack", "pack_masks", "unpack_masks", "suppress_overlaps"]
)
def test_wrong_kernels_are_wrong(name, monkeypatch, triton_device):
    right = getattr(launch, f"{name}_triton")

    def wrong(*inputs):
        out = right(*inputs)
        out.view(-1)[0] = 0 if out.view(-1)[0] else 1
        return out

    monkeypatch.setattr(launch, f"{name}_triton", wrong)
    assert row_of(torch.float32, TINY, triton_device, 2)["wrong"]


@pytest.mark.parametrize("part", [0, 1])
def test_wrong_statistics_are_wrong(part, monkeypatch, triton_device):
    right = launch.mask_statistics_triton

    def wrong(*inputs):
        out = right(*inputs)
        out[part][-1, -1] += 1
        return out

    monkeypatch.setattr(launch, "mask_statistics_triton", wrong)
    assert row_of(torch.float32, TINY, triton_device, 2)["wrong"]
