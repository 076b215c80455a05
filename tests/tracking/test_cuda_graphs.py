"""Steps as real CUDA graphs: the plain path's masks, no allocation, nobody waits."""

import sys
from pathlib import Path

import pytest
import torch
from parity import NARROW, NothingDrawn

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import tracking_parity as check  # noqa: E402


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)],
)
def test_recorded_steps(device, monkeypatch):
    right = check.build_sam2_video_predictor

    def narrow(*args, hydra_overrides_extra, **kwargs):
        with NothingDrawn():
            return right(*args, hydra_overrides_extra=[*hydra_overrides_extra, *NARROW], **kwargs)

    if device == "cpu":
        monkeypatch.setattr(check, "build_sam2_video_predictor", narrow)
    rows = []
    plan = check.Plan(image_size=64, objects=(1, 3), frames=3)
    assert check.tracking_parity(torch.device(device), lambda found: rows.extend(found[-1:]), plan)
    assert [row["objects"] for row in rows] == [1, 3, 1, 3]
    assert all(len(row["allocations a frame"]) == 1 for row in rows), "as many on every frame: those of the answer"
    assert all(row["reserved grew by MiB"] == 0 for row in rows)
