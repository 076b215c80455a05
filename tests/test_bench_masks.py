"""The cases of masks and of lists of masks: what they are compared with is right, and all of them are tuned."""

import pytest
import torch

pytest.importorskip("triton")
import tune  # noqa: E402
from mask_lists import crowd, mask_list_cases, mask_nms_case, run_lengths_one_by_one  # noqa: E402
from masks import LOW, PHOTOGRAPH, counted_at_full_size, mask_cases, mask_logits  # noqa: E402
from registry import cases, check  # noqa: E402

from sam2fast.kernels._launch import launch_table  # noqa: E402
from sam2fast.kernels.mask_ops import mask_statistics_reference  # noqa: E402
from sam2fast.kernels.run_lengths import encode_masks  # noqa: E402

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
    assert PHOTOGRAPH == (1200, 1800)


def test_all_cases_of_masks_are_measured_and_tuned():
    mine = list(mask_cases())
    assert {case.name for case in mine} <= {case.name for case in cases()}
    assert len({case.name for case in mine}) == len(mine)
    searches = {search.shape: search for search in tune.SEARCHES if search.op == "mask_ops"}
    assert set(searches) == {case.launch for case in mine} == {row.shape for row in launch_table()["mask_ops"]}
    for case in mine:
        assert case.op in searches[case.launch].cases


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


def test_all_cases_of_lists_are_measured_and_tuned():
    mine = list(mask_list_cases())
    assert {case.name for case in mine} <= {case.name for case in cases()}
    assert len({case.name for case in mine}) == len(mine)
    for op in ("run_lengths", "nms"):
        searches = {search.shape: search for search in tune.SEARCHES if search.op == op}
        assert set(searches) == {row.shape for row in launch_table()[op]}
        for row in launch_table()[op]:
            assert (dict(row.meta), dict(row.options)) in searches[row.shape].candidates
            assert any(case.launch == row.shape and case.op in searches[row.shape].cases for case in mine)
