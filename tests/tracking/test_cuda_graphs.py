"""Steps as real CUDA graphs: the plain path's masks, no allocation, nobody waits."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

from tracking_parity import Plan, tracking_parity  # noqa: E402


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)],
)
def test_recorded_steps(device):
    rows = []
    plan = Plan(image_size=64, objects=(1, 3), frames=3)
    assert tracking_parity(torch.device(device), lambda found: rows.extend(found[-1:]), plan)
    assert [row["objects"] for row in rows] == [1, 3, 1, 3]
    assert all(len(row["allocations a frame"]) == 1 for row in rows), "as many on every frame: those of the answer"
    assert all(row["reserved grew by MiB"] == 0 for row in rows)
