"""The kernels of run lengths and non-maximum suppression against what the CPU finds: equal integers, in two runs."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from inputs import random
from parity_rows import Rows, integer
from torch import Tensor

from sam2fast.kernels._dispatch import backend, launches
from sam2fast.kernels.mask_ops import upsample_and_threshold
from sam2fast.kernels.nms import box_nms, mask_nms
from sam2fast.kernels.run_lengths import decode_masks, encode_masks, encode_upsampled

CPU = torch.device("cpu")


class Plan(NamedTuple):
    """What is tried."""

    draws: int = 200  # of each op
    side: int = 1500  # longest of masks
    masks: int = 20  # at once
    boxes: int = 5000
    crowd: int = 400  # masks that are compared with each other
    many: bool = True  # one input whose masks together have more than 2**31 pixels


# For a short visit to a GPU.
SHORT = Plan(draws=30)
# For memory checkers and interpreters, which take a hundred times as long.
QUICK = Plan(draws=4, side=50, masks=3, boxes=150, crowd=70, many=False)


def mask_list_parity(device: torch.device, save: Callable[[Rows], None], plan: Plan | None = None) -> bool:
    """A row per op, saved as they come; false if a result is wrong or differs between two runs."""
    plan, seed, rows = plan or Plan(), int(time.time()), []
    checks = {
        "encode_masks": _encoded_right,
        "encode_upsampled": _upsampled_right,
        "box_nms": _boxes_right,
        "mask_nms": _masks_right,
    }
    for op, right in checks.items():
        generator = torch.Generator().manual_seed(seed)
        wrong = sum(not right(plan, generator, device) for _ in range(plan.draws))
        rows.append({"op": op, "inputs": plan.draws, "wrong": wrong, "seed": seed})
        save(rows)
        print(rows[-1], flush=True)
    if plan.many:
        rows.append({"op": "encode_masks", "inputs": 1, "wrong": int(not _many_are_right(device)), "seed": 0})
        save(rows)
        print(rows[-1], flush=True)
    return not any(row["wrong"] for row in rows)


def _twice(op: str, call: Callable[[], Any]) -> Iterator[Any]:
    """Two results of the kernel, which is seen to have run."""
    for _ in range(2):
        before = launches[op]
        with backend("triton"):
            result = call()
        if launches[op] == before:
            raise RuntimeError(f"the kernel of {op} was not launched")
        yield result


def _masks(count: int, plan: Plan, generator: torch.Generator) -> Tensor:
    """Noise of any density or blobs, of any size, on the host."""
    H, W = (integer(1, plan.side, generator) for _ in range(2))
    seed, smooth = integer(0, 2**31, generator), integer(0, 1, generator)
    noise = random(count, H + 6, W + 6, device=CPU, seed=seed)
    values = F.avg_pool2d(noise, 7, stride=1) * 7 if smooth else noise[:, 6:, 6:]
    return values > 2 * float(torch.randn((), generator=generator))


def _encoded_right(plan: Plan, generator: torch.Generator, device: torch.device) -> bool:
    masks = _masks(integer(1, plan.masks, generator), plan, generator)
    expected = encode_masks(masks)
    for runs in _twice("run_lengths", lambda: encode_masks(masks.to(device))):
        if not all(torch.equal(a, b.cpu()) for a, b in zip(expected[:2], runs[:2], strict=True)):
            return False
    return all(torch.equal(masks, found.cpu()) for found in _twice("run_lengths", lambda: decode_masks(runs)))


def _upsampled_right(plan: Plan, generator: torch.Generator, device: torch.device) -> bool:
    """As the kernel that upsamples and compares has it, which is compared with torch elsewhere."""
    count, *sides = (integer(1, limit, generator) for limit in (plan.masks, 300, 300, plan.side, plan.side))
    (h, w), (H, W) = (min(side, plan.side) for side in sides[:2]), sides[2:]
    # At the borders as often as not.
    above, below, left, right = (integer(0, 1, generator) * integer(1, 99, generator) for _ in range(4))
    logits = random(count, h, w, device=device, seed=integer(0, 2**31, generator))
    if integer(0, 3, generator) == 0:
        logits.view(-1)[:: integer(2, 99, generator)] = torch.nan
    canvas = torch.zeros(count, above + H + below, left + W + right, dtype=torch.bool, device=device)
    with backend("triton"):
        canvas[:, above : above + H, left : left + W] = upsample_and_threshold(logits, (H, W), 0.3)
    expected = encode_masks(canvas.cpu())
    size = (canvas.shape[1], canvas.shape[2])
    found = _twice("run_lengths", lambda: encode_upsampled(logits, (H, W), 0.3, (above, left), size))
    return all(torch.equal(a, b.cpu()) for runs in found for a, b in zip(expected[:2], runs[:2], strict=True))


def _threshold(generator: torch.Generator) -> float:
    return (0.0, 1.0, 0.5, 0.7, float(torch.rand((), generator=generator)))[integer(0, 4, generator)]


def _scores(count: int, generator: torch.Generator) -> Tensor:
    """Many of them equal, some NaN."""
    scores = torch.randint(integer(1, 1000, generator), (count,), generator=generator).float()
    scores[torch.rand(count, generator=generator) < 0.01] = torch.nan
    return scores


def _boxes_right(plan: Plan, generator: torch.Generator, device: torch.device) -> bool:
    """Whole numbers, whose overlaps are often the threshold itself, or fractions; some are NaN or infinite."""
    count, spread = integer(1, plan.boxes, generator), integer(10, 2000, generator)
    corner = torch.rand(count, 2, generator=generator) * spread
    boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 50], 1)
    boxes = boxes.round() if integer(0, 1, generator) else boxes
    boxes[torch.rand(count, 4, generator=generator) < 0.002] = torch.nan
    boxes[torch.rand(count, 4, generator=generator) < 0.002] = torch.inf
    boxes = boxes.double() if integer(0, 3, generator) == 0 else boxes
    scores, threshold = _scores(count, generator), _threshold(generator)
    expected = box_nms(boxes, scores, threshold)
    found = _twice("nms", lambda: box_nms(boxes.to(device), scores.to(device), threshold))
    return all(torch.equal(expected, kept.cpu()) for kept in found)


def _masks_right(plan: Plan, generator: torch.Generator, device: torch.device) -> bool:
    """Copies of a few masks, each with a little noise."""
    small = plan._replace(side=min(plan.side, 200))
    distinct = _masks(integer(1, 20, generator), small, generator)
    count = integer(1, plan.crowd, generator)
    masks = distinct[torch.randint(len(distinct), (count,), generator=generator)]
    masks = masks ^ (torch.rand(masks.shape, generator=generator) < 0.05)
    scores, threshold = _scores(count, generator), _threshold(generator)
    expected = mask_nms(masks, scores, threshold)
    found = _twice("nms", lambda: mask_nms(masks.to(device), scores.to(device), threshold))
    return all(torch.equal(expected, kept.cpu()) for kept in found)


def _many_are_right(device: torch.device) -> bool:
    """The first and the last of so many masks that their pixels pass 2**31, and a few that lie between."""
    size = (1200, 1800)
    count = 2**31 // (size[0] * size[1]) + 8
    some = torch.tensor([0, 1, count // 2, count - 2, count - 1], device=device)
    masks = torch.zeros(count, *size, dtype=torch.bool, device=device)
    masks[some] = random(len(some), *size, device=device) > 1
    with backend("triton"):
        few, all_runs = encode_masks(masks[some]), encode_masks(masks)
        back = torch.equal(decode_masks(all_runs), masks)
    runs = torch.ones(count, dtype=torch.int64, device=device)
    runs[some] = few.offsets.diff()
    pieces = [all_runs.counts[all_runs.offsets[n] : all_runs.offsets[n + 1]] for n in some.tolist()]
    return back and torch.equal(all_runs.offsets.diff(), runs) and torch.equal(torch.cat(pieces), few.counts)
