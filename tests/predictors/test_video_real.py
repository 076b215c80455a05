"""A real clip: drawn weights, and the real image weights where there are any."""

from pathlib import Path

import pytest
import torch
from track_video import build, track

from sam2fast import build_sam2_video_predictor
from sam2fast.checkpoints import CheckpointError

pytestmark = pytest.mark.weights
CONFIG = "configs/sam2/sam2_hiera_t.yaml"


@pytest.fixture(scope="module")
def image_weights(weights_folder) -> Path:
    return weights_folder / "sam2_hiera_tiny_image_fp16.pt"


@pytest.mark.parametrize("source", ["bedroom", "bedroom.mp4"])
def test_a_clip_end_to_end(source, image_weights, data_folder):
    """From a folder and from a video file; what counts is that it runs and finds something where it was told to."""
    predictor = build(CONFIG, image_weights, torch.bfloat16, image_size=256)
    report = track(predictor, data_folder / "videos" / source, frames=4)
    assert report["frames"] == 5
    assert all(0 < share < 1 for share in report["covered"]["first"])


def test_image_weights_alone_are_refused(image_weights):
    with pytest.raises(CheckpointError, match="no weights for .*memory_encoder.*which video needs"):
        build_sam2_video_predictor(CONFIG, image_weights, device="cpu")
