"""What the cases of masks and of lists of masks are compared with is right, and made of inputs like a decoder's."""

import torch
from kernel_records.mask_ops import LOW, counted_at_full_size, mask_logits
from kernel_records.nms import crowd, mask_nms_case
from kernel_records.run_lengths import run_lengths_one_by_one
from registry import check

from sam2fast.kernels.mask_ops import mask_statistics_reference
from sam2fast.kernels.run_lengths import encode_masks

CPU = torch.device("cpu")


def test_the_baseline_counts_right():
    logits = torch.cat([mask_logits(2, CPU, (40, 30)), torch.full((1, 40, 30), -9.0)])
    right = mask_statistics_reference(logits, (90, 77), 0.0, 1.0)
    for expected, actual in zip(right[1:], counted_at_full_size(logits, (90, 77)), strict=True):
        assert torch.equal(expected, actual)


def test_logits_are_like_a_decoders():
    logits = mask_logits(8, CPU)
    crossed = (logits > 0)[:, :-1] != (logits > 0)[:, 1:]
    assert logits.shape == (8, *LOW) and 0.1 < (logits > 0).float().mean() < 0.4
    assert 300 < crossed.sum() / 8 < 3000


def test_the_baseline_is_right():
    masks = torch.rand(5, 13, 21, generator=torch.Generator().manual_seed(0)) < 0.5
    masks[2], masks[3] = True, False
    assert all(map(torch.equal, run_lengths_one_by_one(masks), encode_masks(masks)[:2]))


def test_boxes_come_in_crowds():
    boxes, scores = crowd(300, 60, CPU)
    assert boxes.shape == (300, 4) and bool((boxes[:, 2:] - boxes[:, :2] > 0).float().mean() > 0.9)
    assert len(scores.unique()) == 300


def test_a_case_of_lists_is_right():
    case = mask_nms_case(12, 4)
    assert list(check(case, case.prepare(CPU), CPU)) == ["reference", "sam2fast"]
