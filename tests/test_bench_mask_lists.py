"""The measuring tools for lists of masks: parity finds wrong kernels, the yardstick is right, all rows are tuned."""

import pytest
import torch

pytest.importorskip("triton")
import mask_list_parity  # noqa: E402
import tune  # noqa: E402
from mask_list_parity import QUICK  # noqa: E402
from mask_lists import crowd, mask_list_cases, mask_nms_case, run_lengths_one_by_one  # noqa: E402
from registry import cases, check  # noqa: E402

from sam2fast.kernels._launch import launch_table  # noqa: E402
from sam2fast.kernels.nms import launch as of_nms  # noqa: E402
from sam2fast.kernels.run_lengths import encode_masks  # noqa: E402
from sam2fast.kernels.run_lengths import launch as of_run_lengths  # noqa: E402

CPU = torch.device("cpu")
SMALL = QUICK._replace(draws=2, side=25, masks=2, boxes=80, crowd=30)
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")


@pytest.fixture(autouse=True)
def always_the_same(monkeypatch):
    monkeypatch.setattr(mask_list_parity.time, "time", lambda: 1)


def test_right_kernels_are_right(triton_device):
    saved = []
    assert mask_list_parity.mask_list_parity(triton_device, lambda rows: saved.append(list(rows)), SMALL)
    assert [row["op"] for row in saved[-1]] == ["encode_masks", "encode_upsampled", "box_nms", "mask_nms"]
    assert all(row["inputs"] == 2 and row["wrong"] == 0 for row in saved[-1])


@pytest.mark.parametrize(
    ("module", "name", "at"),
    [
        (of_run_lengths, "encode_masks_triton", 0),
        (of_run_lengths, "decode_masks_triton", 0),
        (of_run_lengths, "encode_upsampled_triton", 1),
        (of_nms, "box_nms_triton", 2),
        (of_nms, "mask_nms_triton", 3),
    ],
)
def test_wrong_kernels_are_wrong(module, name, at, monkeypatch, triton_device):
    right, saved = getattr(module, name), []

    def wrong(*inputs):
        out = right(*inputs)
        if name == "decode_masks_triton":
            return ~out
        changed = out.counts if at < 2 else out
        changed[-1] += 1
        return out

    monkeypatch.setattr(module, name, wrong)
    assert not mask_list_parity.mask_list_parity(triton_device, lambda rows: saved.append(list(rows)), SMALL)
    assert [row["wrong"] > 0 for row in saved[-1]] == [i == at for i in range(4)]


def test_a_kernel_that_is_not_launched_is_noticed(monkeypatch, triton_device):
    monkeypatch.setattr(of_nms, "count_launch", lambda op: None)
    with pytest.raises(RuntimeError, match="the kernel of nms was not launched"):
        mask_list_parity.mask_list_parity(triton_device, lambda rows: None, SMALL._replace(draws=1))


def test_the_yardstick_is_right():
    masks = torch.rand(5, 13, 21, generator=torch.Generator().manual_seed(0)) < 0.5
    masks[2], masks[3] = True, False
    assert all(map(torch.equal, run_lengths_one_by_one(masks), encode_masks(masks)[:2]))


def test_boxes_come_in_crowds():
    boxes, scores = crowd(300, 60, CPU)
    assert boxes.shape == (300, 4) and bool((boxes[:, 2:] - boxes[:, :2] > 0).float().mean() > 0.9)
    assert len(scores.unique()) == 300


def test_a_case_is_right():
    case = mask_nms_case(12, 4)
    assert list(check(case, case.prepare(CPU), CPU)) == ["torch twin", "sam2fast"]


def test_all_cases_are_measured_and_tuned():
    mine = list(mask_list_cases())
    assert {case.name for case in mine} <= {case.name for case in cases()}
    assert len({case.name for case in mine}) == len(mine)
    for op in ("run_lengths", "nms"):
        searches = {search.shape: search for search in tune.SEARCHES if search.op == op}
        assert set(searches) == {row.shape for row in launch_table()[op]}
        for row in launch_table()[op]:
            assert (dict(row.meta), dict(row.options)) in searches[row.shape].candidates
            assert any(case.launch == row.shape and case.op in searches[row.shape].cases for case in mine)
