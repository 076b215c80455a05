"""The kernels of masks against their torch twins: random sizes and levels, and more masks than 2**31 pixels hold.

An interpolated pixel may be a rounding away from its level. Where kernel and torch disagree there, that is no error,
and is counted apart; farther away it is one.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from inputs import random
from parity_rows import Rows, integer
from torch import Tensor

from sam2fast.kernels._dispatch import backend, launches
from sam2fast.kernels.mask_ops import (
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

# Of the largest logit and the level, in units of fp32's epsilon: what a rounding may decide.
ROUNDINGS = 4
OPS = ("mask_statistics", "upsample_and_threshold", "upsample_and_pack", "pack_masks", "unpack_masks")


class Plan(NamedTuple):
    """What is tried, for each dtype."""

    dtypes: Sequence[torch.dtype] = (torch.float32, torch.bfloat16, torch.float16)
    draws: int = 60
    low: int = 300  # longest side of logits
    side: int = 2000  # longest side of masks
    masks: int = 20  # at once
    many: bool = True  # one input whose masks together have more than 2**31 pixels


# For a short visit to a GPU.
SHORT = Plan(dtypes=(torch.float32, torch.bfloat16), draws=12)
# For memory checkers and interpreters, which take a hundred times as long.
QUICK = Plan(draws=6, low=20, side=60, masks=3, many=False)


def mask_parity(device: torch.device, save: Callable[[Rows], None], plan: Plan | None = None) -> bool:
    """A row per dtype, saved as they come; false if a result is wrong or differs between two runs."""
    plan, seed, rows = plan or Plan(), int(time.time()), []
    for dtype in plan.dtypes:
        generator = torch.Generator().manual_seed(seed)
        row: dict[str, Any] = {"op": "mask_ops", "dtype": str(dtype).removeprefix("torch."), "inputs": 0, "wrong": 0}
        row |= {"pixels": 0, "decided by rounding": 0}
        for _ in range(plan.draws):
            _try(*_draw(plan, dtype, generator, device), row)
        row["overlaps wrong"] = _overlaps_wrong(plan, dtype, generator, device)
        rows.append({**row, "seed": seed})
        save(rows)
        print(rows[-1], flush=True)
    if plan.many:
        rows.append({"op": "mask_ops", "dtype": "float32", "inputs": 1, "wrong": int(not _many_are_right(device))})
        save(rows)
        print(rows[-1], flush=True)
    return not any(row["wrong"] or row.get("overlaps wrong", 0) for row in rows)


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


def _try(logits: Tensor, size: tuple[int, int], level: float, offset: float, row: dict[str, Any]) -> None:
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


def _overlaps_wrong(plan: Plan, dtype: torch.dtype, generator: torch.Generator, device: torch.device) -> int:
    wrong = 0
    for logits in _frames(plan, generator):
        given = logits.to(device, dtype)
        with backend("triton"):
            runs = [suppress_overlaps(given) for _ in range(2)]
        right = suppress_overlaps_reference(given)
        wrong += not all(torch.equal(right.nan_to_num(1e4), run.nan_to_num(1e4)) for run in runs)
    return wrong


def _frames(plan: Plan, generator: torch.Generator) -> Iterator[Tensor]:
    """Logits of several objects on a frame, with ties and NaN."""
    for _ in range(plan.draws):
        N, H, W = (integer(low, high, generator) for low, high in ((2, 12), (1, plan.low), (1, plan.low)))
        logits = torch.randn(N, 1, H, W, generator=generator) * 12
        if integer(0, 1, generator):
            logits = logits.round()
            logits.view(-1)[::5] = torch.nan
        yield logits


def _many_are_right(device: torch.device) -> bool:
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
