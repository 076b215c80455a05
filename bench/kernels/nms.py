"""Non-maximum suppression of boxes and of masks, beside torchvision's."""

import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench/, where a script's imports are

import torch
from backend_calls import may_refuse, ours
from inputs import FULL_HD, meta, random, small
from kernel_records.mask_ops import LOW, PHOTOGRAPH, mask_logits
from kernel_records.run_lengths import random_masks
from parity_rows import EXACT, Draw, Plan, equal_to, integer, simple_check
from registry import Call, Calls, Case, Record, Sample, Work, search
from torch import Tensor

from sam2fast.kernels.nms import box_nms, box_nms_reference, mask_nms, mask_nms_reference


def crowd(count: int, clusters: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Boxes of a photograph, in clusters that are nearly one box, and scores."""
    size = torch.tensor([PHOTOGRAPH[1], PHOTOGRAPH[0]])
    corner, sides = (random(clusters, 2, device=torch.device("cpu"), seed=i).sigmoid() for i in (0, 1))
    chosen = torch.randint(clusters, (count,), generator=torch.Generator().manual_seed(2))
    jitter = random(count, 4, device=torch.device("cpu"), seed=3) * 4
    boxes = torch.cat([corner * size, corner * size + sides * 300 + 10], 1)[chosen] + jitter
    return boxes.to(device), random(count, device=device, seed=4).sigmoid()


def box_nms_case(count: int, clusters: int) -> Case:
    def prepare(on: torch.device) -> Calls:
        boxes, scores = crowd(count, clusters, on)
        return {
            "reference": lambda: box_nms_reference(boxes, scores, 0.7),
            "torchvision": may_refuse(lambda: import_module("torchvision.ops").nms(boxes, scores, 0.7)),
        } | ours(lambda: box_nms(boxes, scores, 0.7), on)

    return Case("box_nms", f"{count} boxes, {clusters} clusters", "float32", prepare, Work(20 * count))


def mask_nms_case(count: int, distinct: int) -> Case:
    def prepare(on: torch.device) -> Calls:
        chosen = torch.randint(distinct, (count,), generator=torch.Generator().manual_seed(0)).to(on)
        masks = mask_logits(distinct, on)[chosen] + random(count, 1, 1, device=on, seed=1) > 0
        scores = random(count, device=on, seed=2).sigmoid()
        reference = {"reference": lambda: mask_nms_reference(masks, scores, 0.7)}
        return reference | ours(lambda: mask_nms(masks, scores, 0.7), on)

    shape, done = f"{count}x{LOW[0]}x{LOW[1]}, {distinct} distinct", Work(count * math.prod(LOW))
    return Case("mask_nms", shape, "bool", prepare, done, launch="masks")


def box_work(boxes: int) -> Work:
    """Pairs at and right of the diagonal, 64 by 64: 13 operations each; half of the words written, and read at most."""
    words = _words(boxes)
    return Work(16.0 * boxes + 2 * 8 * words + boxes, vector=13 * 64 * words)


def mask_work(masks: int, pixels: int) -> Work:
    """The pixels of each pair multiplied as int8, at and right of the diagonal; pixels read for the areas, too."""
    words = _words(masks)
    return Work(2.0 * masks * pixels + 2 * 8 * words + masks, products=2 * 64 * words * pixels)


def _words(count: int) -> float:
    """Of 64 pairs each, at and right of the diagonal of blocks."""
    blocks = math.ceil(count / 64)
    return 64 * blocks * (blocks + 1) / 2


def lines() -> Iterable[tuple[str, str, Work]]:
    for boxes in (300, 3000, 10_000):
        yield f"`box_nms`, {boxes:,} boxes", "int8", box_work(boxes)
    for masks, (height, width) in ((64, LOW), (512, LOW), (512, FULL_HD)):
        yield f"`mask_nms`, {masks} masks of {height}×{width}", "int8", mask_work(masks, height * width)


def _draw(nms: Callable[..., Tensor], items: Tensor, generator: torch.Generator, device: torch.device) -> Draw:
    """With scores of which many are equal and some NaN."""
    scores = torch.randint(integer(1, 1000, generator), (len(items),), generator=generator).float()
    scores[torch.rand(len(items), generator=generator) < 0.01] = torch.nan
    threshold = (0.0, 1.0, 0.5, 0.7, float(torch.rand((), generator=generator)))[integer(0, 4, generator)]
    expected = nms(items, scores, threshold)
    return Draw(lambda _: nms(items.to(device), scores.to(device), threshold), judge=equal_to(expected))


def of_boxes(most: tuple[int, ...], _: None, generator: torch.Generator, device: torch.device) -> Draw:
    """Whole numbers, whose overlaps are often the threshold itself, or fractions; some are NaN or infinite."""
    count, spread = integer(1, most[0], generator), integer(10, 2000, generator)
    corner = torch.rand(count, 2, generator=generator) * spread
    boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=generator) * 50], 1)
    boxes = boxes.round() if integer(0, 1, generator) else boxes
    boxes[torch.rand(count, 4, generator=generator) < 0.002] = torch.nan
    boxes[torch.rand(count, 4, generator=generator) < 0.002] = torch.inf
    return _draw(box_nms, boxes.double() if integer(0, 3, generator) == 0 else boxes, generator, device)


def of_masks(most: tuple[int, ...], _: None, generator: torch.Generator, device: torch.device) -> Draw:
    """Copies of a few masks, of sides up to the first size, each with a little noise."""
    distinct = random_masks(integer(1, 20, generator), most[0], generator)
    masks = distinct[torch.randint(len(distinct), (integer(1, most[1], generator),), generator=generator)]
    masks = masks ^ (torch.rand(masks.shape, generator=generator) < 0.05)
    return _draw(mask_nms, masks, generator, device)


def launched() -> Iterator[Call]:
    """Masks, and boxes in both dtypes; one word, and as many as 3,000 and 10,000 have."""
    for count in (64, 3000, 10_000):
        yield Call("mask_nms", (meta(count, 256, 256, dtype=torch.bool), meta(count), 0.7), "int8", "masks")
        for dtype in (torch.float64, torch.float32):
            yield Call("box_nms", (meta(count, 4, dtype=dtype), meta(count), 0.7), str(dtype).removeprefix("torch."))


RECORD = Record(
    cases=[
        *(box_nms_case(*each) for each in ((300, 60), (3000, 300), (10_000, 1000))),
        *(mask_nms_case(*each) for each in ((64, 16), (512, 64))),
    ],
    small=[box_nms_case(20, 5), mask_nms_case(4, 2)],
    searches=[
        search("nms", "KEEP_WARPS num_warps", itertools.product((1, 4, 8), (4, 8)), cases=("box_nms",)),
        search(
            "nms",
            "BLOCK_K KEEP_WARPS num_warps num_stages",
            itertools.product((64, 128, 256), (4,), (4, 8), (2, 3, 4)),
            shape="masks",
            cases=("mask_nms",),
        ),
    ],
    work=lines,
    samples={
        "box_nms": Sample(
            box_nms, lambda: ((small((20, 4)).abs() * 9).cumsum(1), small((20,)), 0.3), "nms", "box_nms", 2
        ),
        "mask_nms": Sample(mask_nms, lambda: (small((20, 6, 7)) > 0, small((20,), 1), 0.3), "nms", "mask_nms", 2),
    },
    launched=launched,
    parity={
        "box_nms": simple_check(
            of_boxes,
            *(Plan(200, (5000,)), Plan(30, (5000,)), Plan(4, (150,)), Plan(2, (80,))),
            launchers=["nms_triton.box_nms_triton"],
            **EXACT,
        ),
        "mask_nms": simple_check(
            of_masks,
            *(Plan(200, (200, 400)), Plan(30, (200, 400)), Plan(4, (50, 70)), Plan(2, (25, 30))),
            launchers=["nms_triton.mask_nms_triton"],
            **EXACT,
        ),
    },
)

if __name__ == "__main__":
    from one_op import main

    main(RECORD)
