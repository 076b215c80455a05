"""The kernels of run lengths and non-maximum suppression against what the CPU finds: equal integers, in two runs."""

from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from inputs import random
from parity_rows import Row, finish, integer, planned, seeded, twice
from torch import Tensor

from sam2fast.kernels._dispatch import backend
from sam2fast.kernels.mask_ops import upsample_and_threshold
from sam2fast.kernels.nms import box_nms, mask_nms
from sam2fast.kernels.nms import kernel as of_nms
from sam2fast.kernels.run_lengths import decode_masks, encode_masks, encode_upsampled
from sam2fast.kernels.run_lengths import kernel as of_run_lengths

pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")


class Plan(NamedTuple):
    """What is tried."""

    draws: int = 200  # of each op
    side: int = 1500  # longest of masks
    masks: int = 20  # at once
    boxes: int = 5000
    crowd: int = 400  # masks that are compared with each other
    many: bool = True  # one input whose masks together have more than 2**31 pixels


QUICK = Plan(draws=4, side=50, masks=3, boxes=150, crowd=70, many=False)
PLAN = planned(Plan(), Plan(draws=30), QUICK, QUICK._replace(draws=1))


def row_of(op: str, plan: Plan, device: torch.device, seed: int | None = None) -> Row:
    generator = seeded(seed)
    wrong = sum(not CHECKS[op](plan, generator, device) for _ in range(plan.draws))
    return {"op": op, "inputs": plan.draws, "wrong": wrong, "seed": generator.initial_seed()}


def _masks(count: int, plan: Plan, generator: torch.Generator) -> Tensor:
    """Noise of any density or blobs, of any size, on the host."""
    H, W = (integer(1, plan.side, generator) for _ in range(2))
    seed, smooth = integer(0, 2**31, generator), integer(0, 1, generator)
    noise = random(count, H + 6, W + 6, device=torch.device("cpu"), seed=seed)
    values = F.avg_pool2d(noise, 7, stride=1) * 7 if smooth else noise[:, 6:, 6:]
    return values > 2 * float(torch.randn((), generator=generator))


def encoded_right(plan: Plan, generator: torch.Generator, device: torch.device) -> bool:
    masks = _masks(integer(1, plan.masks, generator), plan, generator)
    expected = encode_masks(masks)
    for runs in twice("run_lengths", lambda: encode_masks(masks.to(device))):
        if not all(torch.equal(a, b.cpu()) for a, b in zip(expected[:2], runs[:2], strict=True)):
            return False
    return all(torch.equal(masks, found.cpu()) for found in twice("run_lengths", lambda: decode_masks(runs)))


def upsampled_right(plan: Plan, generator: torch.Generator, device: torch.device) -> bool:
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
    found = twice("run_lengths", lambda: encode_upsampled(logits, (H, W), 0.3, (above, left), size))
    return all(torch.equal(a, b.cpu()) for runs in found for a, b in zip(expected[:2], runs[:2], strict=True))


def _threshold(generator: torch.Generator) -> float:
    return (0.0, 1.0, 0.5, 0.7, float(torch.rand((), generator=generator)))[integer(0, 4, generator)]


def _scores(count: int, generator: torch.Generator) -> Tensor:
    """Many of them equal, some NaN."""
    scores = torch.randint(integer(1, 1000, generator), (count,), generator=generator).float()
    scores[torch.rand(count, generator=generator) < 0.01] = torch.nan
    return scores


def boxes_right(plan: Plan, generator: torch.Generator, device: torch.device) -> bool:
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
    found = twice("nms", lambda: box_nms(boxes.to(device), scores.to(device), threshold))
    return all(torch.equal(expected, kept.cpu()) for kept in found)


def masks_right(plan: Plan, generator: torch.Generator, device: torch.device) -> bool:
    """Copies of a few masks, each with a little noise."""
    small = plan._replace(side=min(plan.side, 200))
    distinct = _masks(integer(1, 20, generator), small, generator)
    count = integer(1, plan.crowd, generator)
    masks = distinct[torch.randint(len(distinct), (count,), generator=generator)]
    masks = masks ^ (torch.rand(masks.shape, generator=generator) < 0.05)
    scores, threshold = _scores(count, generator), _threshold(generator)
    expected = mask_nms(masks, scores, threshold)
    found = twice("nms", lambda: mask_nms(masks.to(device), scores.to(device), threshold))
    return all(torch.equal(expected, kept.cpu()) for kept in found)


def many_are_right(device: torch.device) -> bool:
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


CHECKS = {
    "encode_masks": encoded_right,
    "encode_upsampled": upsampled_right,
    "box_nms": boxes_right,
    "mask_nms": masks_right,
}


@pytest.mark.gpu
@pytest.mark.parametrize("op", CHECKS)
def test_parity(triton_device, record_property, op):
    finish(row_of(op, PLAN, triton_device), record_property)


@pytest.mark.gpu
@pytest.mark.skipif(not PLAN.many, reason="too many for a memory checker and for the interpreter")
def test_more_pixels_than_31_bits_count(triton_device, record_property):
    wrong = int(not many_are_right(triton_device))
    finish({"op": "encode_masks", "inputs": 1, "wrong": wrong, "seed": 0}, record_property)


TINY = QUICK._replace(draws=2, side=25, masks=2, boxes=80, crowd=30)


@pytest.mark.parametrize("op", CHECKS)
def test_right_kernels_are_right(op, triton_device):
    row = row_of(op, TINY, triton_device, 1)
    assert (row["inputs"], row["wrong"]) == (2, 0)


@pytest.mark.parametrize(
    ("module", "name", "seen"),
    [
        (of_run_lengths, "encode_masks_triton", "encode_masks"),
        (of_run_lengths, "decode_masks_triton", "encode_masks"),
        (of_run_lengths, "encode_upsampled_triton", "encode_upsampled"),
        (of_nms, "box_nms_triton", "box_nms"),
        (of_nms, "mask_nms_triton", "mask_nms"),
    ],
)
def test_wrong_kernels_are_wrong(module, name, seen, monkeypatch, triton_device):
    right = getattr(module, name)

    def wrong(*inputs):
        out = right(*inputs)
        if name == "decode_masks_triton":
            return ~out
        changed = out.counts if module is of_run_lengths else out
        changed[-1] += 1
        return out

    monkeypatch.setattr(module, name, wrong)
    for op in CHECKS:
        assert (row_of(op, TINY, triton_device, 1)["wrong"] > 0) == (op == seen)


def test_a_kernel_that_is_not_launched_is_noticed(monkeypatch, triton_device):
    monkeypatch.setattr(of_nms, "count_launch", lambda op: None)
    with pytest.raises(RuntimeError, match="the kernel of nms was not launched"):
        row_of("box_nms", TINY, triton_device, 1)
