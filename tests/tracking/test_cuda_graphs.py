"""Steps as real CUDA graphs: the plain path's masks, no allocation, nobody waits."""

import sys
from pathlib import Path

import pytest
import torch
from parity import NARROW, NothingDrawn

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import tracking_parity as check  # noqa: E402

from sam2fast import build_sam  # noqa: E402
from sam2fast.tracking.recorders import Direct, RecordingError  # noqa: E402


def make_narrow(monkeypatch):
    """The check's models, for the CPU."""
    right = build_sam.build_sam2_video_predictor

    def narrow(*args, hydra_overrides_extra, **kwargs):
        with NothingDrawn():
            return right(*args, hydra_overrides_extra=[*hydra_overrides_extra, *NARROW], **kwargs)

    monkeypatch.setattr(build_sam, "build_sam2_video_predictor", narrow)


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)],
)
def test_recorded_steps(device, monkeypatch):
    if device == "cpu":
        make_narrow(monkeypatch)
    rows = []
    plan = check.Plan(image_size=64, objects=(1, 3), frames=3)
    assert check.tracking_parity(torch.device(device), lambda found: rows.extend(found[-1:]), plan)
    assert [row["objects"] for row in rows] == [1, 3, 1, 3]
    assert all(len(row["allocations a frame"]) == 1 for row in rows), "as many on every frame: those of the answer"
    assert all(row["reserved grew by MiB"] == 0 for row in rows)
    assert all(row["recorded"] > 0 and not row["gave up"] for row in rows)


def test_steps_that_cannot_be_recorded_are_no_success(monkeypatch):
    """Tracking goes on without them, and gives the right masks."""

    def record(self, function):
        function()
        raise RecordingError("not here")

    make_narrow(monkeypatch)
    monkeypatch.setattr(Direct, "record", record)
    rows = []
    plan = check.Plan(image_size=64, dtypes=(torch.float32,), objects=(1,), frames=3)
    assert not check.tracking_parity(torch.device("cpu"), lambda found: rows.extend(found[-1:]), plan)
    assert [(row["wrong"], row["recorded"], row["gave up"]) for row in rows] == [(0, 0, True)]
