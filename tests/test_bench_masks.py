"""The measuring tools for masks: parity finds wrong kernels, cases are right, and all of them are tuned."""

import pytest
import torch

pytest.importorskip("triton")
import mask_parity  # noqa: E402
import tune  # noqa: E402
from mask_parity import QUICK  # noqa: E402
from masks import LOW, PHOTOGRAPH, counted_at_full_size, mask_cases, mask_logits  # noqa: E402
from registry import cases  # noqa: E402

from sam2fast.kernels._launch import launch_table  # noqa: E402
from sam2fast.kernels.mask_ops import launch, mask_statistics_reference  # noqa: E402

CPU = torch.device("cpu")
SMALL = QUICK._replace(dtypes=(torch.float32,), draws=1)


@pytest.fixture(autouse=True)
def always_the_same(monkeypatch):
    monkeypatch.setattr(mask_parity.time, "time", lambda: 2)


@pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")
def test_right_kernels_are_right(triton_device):
    rows = []
    assert mask_parity.mask_parity(triton_device, rows.append, SMALL._replace(draws=4))
    (row,) = rows[-1]
    assert row["inputs"] == 4 and row["wrong"] == row["overlaps wrong"] == 0 and row["pixels"] > 1000


@pytest.mark.parametrize(
    "name", ["upsample_and_threshold", "upsample_and_pack", "pack_masks", "unpack_masks", "suppress_overlaps"]
)
@pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")
def test_wrong_kernels_are_wrong(name, monkeypatch, triton_device):
    right = getattr(launch, f"{name}_triton")

    def wrong(*inputs):
        out = right(*inputs)
        out.view(-1)[0] = 0 if out.view(-1)[0] else 1
        return out

    monkeypatch.setattr(launch, f"{name}_triton", wrong)
    assert not mask_parity.mask_parity(triton_device, lambda rows: None, SMALL)


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.filterwarnings("ignore:(invalid value|overflow):RuntimeWarning")
def test_wrong_statistics_are_wrong(part, monkeypatch, triton_device):
    right = launch.mask_statistics_triton

    def wrong(*inputs):
        out = right(*inputs)
        out[part][-1, -1] += 1
        return out

    monkeypatch.setattr(launch, "mask_statistics_triton", wrong)
    assert not mask_parity.mask_parity(triton_device, lambda rows: None, SMALL)


def test_the_yardstick_counts_right():
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


def test_all_cases_are_measured_and_tuned():
    mine = list(mask_cases())
    assert {case.name for case in mine} <= {case.name for case in cases()}
    assert len({case.name for case in mine}) == len(mine)
    searches = {search.shape: search for search in tune.SEARCHES if search.op == "mask_ops"}
    assert set(searches) == {case.launch for case in mine} == {row.shape for row in launch_table()["mask_ops"]}
    for case in mine:
        assert case.op in searches[case.launch].cases
