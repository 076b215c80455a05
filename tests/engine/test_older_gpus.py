"""GPUs without kernels: torch's operations in float16."""

import json

import float16_masks
import numpy as np
import pytest
import torch
from checkout import ROOT
from fake_cuda import SHALLOW, fake_cuda, steady_frames
from older_gpus import WithoutKernels, attention, build, work

from sam2fast import nano
from sam2fast.build_sam import build_sam2_video_predictor


@pytest.fixture
def unfilled_memory():
    """Turns off deterministic algorithms, with which torch fills new memory."""
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("unfilled_memory")
def test_committed_work():
    """Tests that the present code has the work in docs/devices.md."""
    *_, path = sorted((ROOT / "bench" / "results").rglob("older-gpus-*.json"))
    data = json.loads(path.read_text())
    assert list(work()) == data["work"]
    assert attention() == data["attention"]


def test_a_frame_without_kernels():
    """The host waits only for copies and connected components, and no attention stores its scores."""
    cuda = WithoutKernels()
    with fake_cuda(cuda):
        predictor = build(build_sam2_video_predictor, nano.CONFIG, hydra_overrides_extra=SHALLOW)
        seen = steady_frames(cuda, predictor, 1, 1)[0]
    assert not seen.replays and not [name for name in seen.launches if name.endswith("_kernel")]
    seen.check(("blocking copy", ""), ("shape by values", "kernels/connected_components.py"))
    # Before compute capability 8.0, torch's memory-efficient attention needs float16 or float32, and such widths.
    assert {dtype for dtype, *_ in cuda.attended} == {torch.float16}
    assert not any(width % 8 for _, *widths in cuda.attended for width in widths)


def test_float16_masks(monkeypatch):
    monkeypatch.setattr(float16_masks, "PHOTOGRAPHS", float16_masks.PHOTOGRAPHS[1:])
    expected, scores = float16_masks.photograph_logits(nano, torch.float32)
    with float16_masks.by_torch(), float16_masks.LargestValue() as largest:
        logits, _ = float16_masks.photograph_logits(nano, torch.float16)
    best = np.arange(len(logits)), scores.argmax(1)
    assert float16_masks.ious("clicks", expected[best], logits[best])["clicks_worst"] > 0.99
    assert 1 < largest.value < torch.finfo(torch.float16).max / 100
