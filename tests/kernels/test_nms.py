"""Non-maximum suppression: the CPU implementation, the reference and the kernel against a slow definition."""

import math
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kernel_checks import by_kernel

from sam2fast.kernels.nms import box_nms, box_nms_reference, mask_nms, mask_nms_reference

# In the interpreter 0/0 warns.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow|divide by zero):RuntimeWarning")
THRESHOLDS = (0.0, 0.1, 0.5, 0.7, 1.0, -1.0, math.nan, 1 / 3)


def slowly(scores, overlap, threshold):
    """The published rule, one pair after the other: NaN is the best score, and of equal ones the first is better."""
    order = sorted(
        range(len(scores)), key=lambda i: (not math.isnan(scores[i]), -scores[i] if scores[i] == scores[i] else 0)
    )
    kept = []
    for i in order:
        if not any(overlap(j, i) > threshold for j in kept):
            kept.append(i)
    return kept


def slow_boxes(boxes, scores, threshold):
    overlap, real = overlap_of_boxes(boxes)
    return slowly(scores.tolist(), overlap, real(threshold))


@cache
def overlap_of_boxes(boxes):
    """Overlaps in the dtype of the boxes, by numpy's scalars; and that dtype. Each pair is computed once."""
    real = boxes.numpy().dtype.type
    corners = [[real(x) for x in box] for box in boxes.tolist()]

    def clamped(x):
        return x if x > 0 else real(0)

    def area(box):
        return (box[2] - box[0]) * (box[3] - box[1])

    @cache
    def overlap(i, j):
        a, b = corners[i], corners[j]
        with np.errstate(all="ignore"):
            width = clamped(min(a[2], b[2]) - max(a[0], b[0]))
            height = clamped(min(a[3], b[3]) - max(a[1], b[1]))
            shared = width * height
            return shared / (area(a) + area(b) - shared)

    return overlap, real


def slow_masks(masks, scores, threshold):
    return slowly(scores.tolist(), overlap_of_masks(masks), threshold)


@cache
def overlap_of_masks(masks):
    pixels = [set(mask.flatten().nonzero()[:, 0].tolist()) for mask in masks]

    @cache
    def overlap(i, j):
        union = len(pixels[i] | pixels[j])
        return len(pixels[i] & pixels[j]) / union if union else math.nan

    return overlap


def random_boxes(count, seed=0, whole=True):
    """Boxes with large overlaps; with integer sides some overlap exactly by a tenth or a half."""
    generator = torch.Generator().manual_seed(seed)
    corner, size = torch.rand(2, count, 2, generator=generator) * torch.tensor([[[20.0]], [[12.0]]])
    boxes = torch.cat([corner, corner + size], 1)
    return boxes.round() if whole else boxes


def random_scores(count, seed=0, levels=7):
    """With many that are equal."""
    return torch.randint(levels, (count,), generator=torch.Generator().manual_seed(seed)) / levels


def hostile_boxes():
    boxes = random_boxes(40)
    inf, nan = math.inf, math.nan
    boxes[3, 0], boxes[5, 2], boxes[9, 3] = nan, nan, nan
    boxes[6] = torch.tensor([-inf, -inf, inf, inf])
    boxes[11] = boxes[6]
    boxes[12] = torch.tensor([0, 0, inf, inf])
    boxes[14] = torch.tensor([inf, inf, inf, inf])
    boxes[15] = torch.tensor([3.0, 3, 3, 9])  # no area
    boxes[16] = boxes[15]
    boxes[17] = torch.tensor([9.0, 3, 3, 9])  # ends before it begins
    boxes[18] = torch.tensor([9.0, 9, 3, 3])
    boxes[19] = torch.tensor([1e20, 1e20, 3e20, 3e20])  # an area beyond fp32
    boxes[20] = boxes[19]
    boxes[21] = torch.tensor([0, 0, 1e-30, 1e-30])
    boxes[22] = boxes[21]
    return boxes


BOXES = {
    "none": random_boxes(0),
    "one": random_boxes(1),
    "all equal": torch.tensor([[1.0, 2, 5, 9]]).expand(70, 4),
    "touching": torch.tensor([[float(x), y, x + 4, y + 4] for x in range(0, 20, 4) for y in range(0, 20, 4)]),
    "one inside the other": torch.tensor([[float(i), i, 40 - i, 40 - i] for i in range(20)]),
    "whole numbers": random_boxes(130),
    "fractions": random_boxes(130, whole=False),
    "a word": random_boxes(64),
    "a word and one": random_boxes(65),
    "hostile": hostile_boxes(),
    "every second": random_boxes(150)[::2],
    "columns": random_boxes(30).T.contiguous().T,
    "float64": random_boxes(100, whole=False).double(),
}
ALL_BOXES = pytest.mark.parametrize("boxes", BOXES.values(), ids=BOXES.keys())


def thresholds_of(boxes):
    return THRESHOLDS if boxes is BOXES["hostile"] or boxes is BOXES["whole numbers"] else (0.1, 0.5)


@ALL_BOXES
def test_boxes(boxes):
    for threshold in thresholds_of(boxes):
        for scores in (random_scores(len(boxes)), torch.zeros(len(boxes)), torch.linspace(0, 1, len(boxes))):
            expected = slow_boxes(boxes, scores, threshold)
            kept = box_nms(boxes, scores, threshold)
            assert kept.dtype == torch.int64 and kept.tolist() == expected, threshold
            assert box_nms_reference(boxes, scores, threshold).tolist() == expected, threshold


def test_scores_that_are_nan():
    boxes = torch.tensor([[0.0, 0, 4, 4]]).repeat(4, 1)
    inf, nan = math.inf, math.nan
    assert box_nms(boxes, torch.tensor([1.0, inf, 2, -inf]), 0.5).tolist() == [1]
    assert box_nms(boxes, torch.tensor([1.0, inf, nan, nan]), 0.5).tolist() == [2]
    assert box_nms(boxes, torch.tensor([1.0, inf, nan, nan]), 1.0).tolist() == [2, 3, 1, 0]
    assert box_nms(boxes, torch.tensor([0.0, -0.0, 0.0, 0.0]), 1.0).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int32])
def test_other_dtypes_are_computed_in_fp32(dtype):
    boxes, scores = random_boxes(100).to(dtype), random_scores(100)
    assert box_nms(boxes, scores.to(torch.float16), 0.4).tolist() == slow_boxes(
        boxes.float(), scores.to(torch.float16).float(), 0.4
    )


@pytest.mark.parametrize("spread", [40, 1000])
def test_ten_thousand_boxes(spread):
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(10_000, 2, generator=generator) * spread
    boxes = torch.cat([corner, corner + torch.rand(10_000, 2, generator=generator) * 20], 1)
    scores = torch.rand(10_000, generator=generator)
    kept = box_nms(boxes, scores, 0.6)
    assert torch.equal(kept, box_nms_reference(boxes, scores, 0.6)) and 100 < len(kept) < 10_000
    assert scores[kept].diff().max() <= 0


def random_masks(count, H, W, seed=0):
    """Blobs, many of which are nearly others."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(max(1, count // 3), 1, 4, 5, generator=generator) - 0.5
    chosen = torch.randint(len(coarse), (count,), generator=generator)
    logits = F.interpolate(coarse, (H, W), mode="bilinear")[chosen, 0]
    return logits + torch.randn(count, H, W, generator=generator) * 0.15 > 0


def shifted_squares():
    """Overlaps of 1/3, 1/7, 1/4 and so on, exactly."""
    masks = torch.zeros(30, 12, 40, dtype=torch.bool)
    for i in range(30):
        masks[i, 2:10, i : i + 8] = True
    return masks


def with_empty_ones():
    masks = random_masks(20, 9, 14)
    masks[[0, 3, 4, 19]] = False
    masks[[5, 6]] = True
    return masks


MASKS = {
    "none": torch.zeros(0, 5, 7, dtype=torch.bool),
    "no pixels": torch.zeros(3, 0, 7, dtype=torch.bool),
    "one": random_masks(1, 5, 7),
    "all empty": torch.zeros(5, 5, 7, dtype=torch.bool),
    "some empty": with_empty_ones(),
    "all full": torch.ones(70, 3, 5, dtype=torch.bool),
    "one pixel": torch.tensor([True, False, True, True])[:, None, None],
    "squares": shifted_squares(),
    "blobs": random_masks(130, 17, 23),
    "of sixteen pixels": random_masks(66, 4, 4),
    "noise": torch.rand(60, 10, 16, generator=torch.Generator().manual_seed(0)) < 0.6,
    "every second": random_masks(40, 30, 30)[::2, ::2, 1::2],
}
ALL_MASKS = pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS.keys())


@ALL_MASKS
def test_masks(masks):
    for threshold in THRESHOLDS if masks is MASKS["some empty"] or masks is MASKS["squares"] else (0.0, 1 / 3):
        for scores in (random_scores(len(masks)), torch.zeros(len(masks))):
            expected = slow_masks(masks, scores, threshold)
            kept = mask_nms(masks, scores, threshold)
            assert kept.dtype == torch.int64 and kept.tolist() == expected, threshold
            assert mask_nms_reference(masks, scores, threshold).tolist() == expected, threshold


def test_masks_of_more_pixels_than_are_multiplied_at_once():
    masks = random_masks(12, 300, 400)
    scores = random_scores(12)
    expected = slow_masks(masks, scores, 0.6)
    assert mask_nms(masks, scores, 0.6).tolist() == mask_nms_reference(masks, scores, 0.6).tolist() == expected


def test_masks_apart_are_not_compared(monkeypatch):
    """Of a thousand masks in different places no pixels are compared."""
    masks = torch.zeros(1000, 32, 32, dtype=torch.bool)
    masks.view(1000, -1)[torch.arange(1000), torch.arange(1000)] = True
    counted, right = [], np.count_nonzero
    monkeypatch.setattr(np, "count_nonzero", lambda x: counted.append(1) or right(x))
    assert len(mask_nms(masks, torch.zeros(1000), 0.0)) == 1000
    assert len(counted) == 1000  # their areas


def test_other_input_is_refused():
    with pytest.raises(ValueError, match=r"expected boxes \(N, 4\), got torch.float32 \(3, 5\)"):
        box_nms(torch.zeros(3, 5), torch.zeros(3), 0.5)
    with pytest.raises(ValueError, match=r"expected bool masks \(N, H, W\), got torch.float32"):
        mask_nms(torch.zeros(3, 5, 5), torch.zeros(3), 0.5)
    for nms, things in ((box_nms, torch.zeros(3, 4)), (mask_nms, torch.zeros(3, 4, 4, dtype=torch.bool))):
        with pytest.raises(ValueError, match=r"expected 3 scores, one per box or mask, got shape \(4,\)"):
            nms(things, torch.zeros(4), 0.5)


def by_triton(nms, things, scores, threshold, device):
    """What the kernels keep."""
    given = things.to(device), scores.to(device), threshold
    return by_kernel(nms, *given, name="nms", launched=int(len(things) > 0)).tolist()


@ALL_BOXES
def test_kernel_of_boxes(boxes, triton_device):
    scores = random_scores(len(boxes))
    for threshold in thresholds_of(boxes):
        assert by_triton(box_nms, boxes, scores, threshold, triton_device) == slow_boxes(boxes, scores, threshold)


def test_kernel_of_more_boxes(triton_device):
    """Ten words; items of later words are suppressed by every earlier word, in any order of programs."""
    boxes, scores = random_boxes(600, whole=False) * 2, random_scores(600, levels=10_000)
    expected = box_nms(boxes, scores, 0.3).tolist()
    assert 20 < len(expected) < 300
    assert by_triton(box_nms, boxes, scores, 0.3, triton_device) == expected


@ALL_MASKS
def test_kernel_of_masks(masks, triton_device):
    scores = random_scores(len(masks))
    for threshold in (0.0, 1 / 3):
        assert by_triton(mask_nms, masks, scores, threshold, triton_device) == slow_masks(masks, scores, threshold)
