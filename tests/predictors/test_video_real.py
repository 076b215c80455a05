"""A real clip with random weights, and with real image weights if available."""

import pytest
import tame_weights
import torch

from sam2fast import build_sam2_video_predictor
from sam2fast.build_sam import cast_weights
from sam2fast.checkpoints import CheckpointError, read_checkpoint

pytestmark = pytest.mark.weights
CONFIG = "configs/sam2/sam2_hiera_t.yaml"


@pytest.mark.parametrize("source", ["bedroom", "bedroom.mp4"])
def test_a_clip_end_to_end(source, checkpoint, data_folder):
    """From a folder and from a video file; what counts is that it runs and finds something where it was told to."""
    overrides = ["++model.image_size=256"]
    predictor = build_sam2_video_predictor(CONFIG, None, device="cpu", hydra_overrides_extra=overrides)
    tame_weights.fill(predictor, seed=0)
    given = {name: x.float() for name, x in read_checkpoint(checkpoint).items()}
    assert not predictor.load_state_dict(given, strict=False).unexpected_keys
    predictor = cast_weights(predictor, torch.bfloat16)
    state = predictor.init_state(data_folder / "videos" / source)
    height, width = state.video_size
    predictor.add_new_points_or_box(state, 0, "point", [[width * 0.22, height * 0.65]], [1])
    predictor.add_new_points_or_box(state, 0, "box", box=[width * 0.3, 0, width * 0.55, height * 0.75])
    tracked = list(predictor.propagate_in_video(state, max_frame_num_to_track=4, progress=False))
    assert len(tracked) == 5 and all(masks.isfinite().all() for _, _, masks in tracked)
    assert all(0 < float((mask > 0).float().mean()) < 1 for mask in tracked[0][2])


def test_image_weights_alone_are_refused(checkpoint):
    with pytest.raises(CheckpointError, match="weights for images only.*memory_encoder"):
        build_sam2_video_predictor(CONFIG, checkpoint, device="cpu")
