"""EfficientTAM beside its package on PyPI (``efficient-track-anything``): same weights, clips and prompts, fp32.

In an environment of its own, since the package has the name ``sam2``: ``make test-family``. Where it departs from what
is compared, and what is made of it here:

- It has no configurations; it is built from ours, under its names.
- It has no ``add_new_points_or_box``, which ``add_new_points`` becomes; a box is its corners.
- Memories are stored as bfloat16; they are made to store fp32.
- Its predictor is from before December 2024: all objects are prompted on the same frames before the first propagation,
  where it does what the present one does.
"""

import pytest

pytest.importorskip("sam2.modeling.backbones.vitdet", reason="needs an environment of its own: make test-family")

import family_scenarios
import importable_torchvision  # noqa: F401  (before torchvision)
import numpy as np
import tame_weights
import torch
from family_scenarios import PROMPTS, SCENARIOS, TOLERANCE, compare_images, compare_videos, write_clip
from float32_memory import Float32Memory
from hydra.utils import instantiate
from omegaconf import OmegaConf
from sam2 import sam2_video_predictor as their_module
from sam2.sam2_image_predictor import SAM2ImagePredictor as TheirImagePredictor

from sam2fast._official_names import MODULES
from sam2fast.build_sam import VIDEO_POSTPROCESSING, build_sam2_video_predictor
from sam2fast.config import load_config
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.utils.testing import relative_error

THEIRS = {ours: theirs for theirs, ours in MODULES.items()} | {
    "sam2fast.modeling.vit": "sam2.modeling.backbones.vitdet",
    "sam2fast.modeling.attention": "sam2.modeling.sam.transformer",
}

SEED = 1  # of the weights; with 0 rounding grows to 3e-4 in a video of S


def both(name, size):
    """Both video predictors of a configuration, for images of a size."""
    grid = size // 16
    layer = "++model.memory_attention.layer"
    overrides = [f"++model.image_size={size}"]
    overrides += [f"{layer}.{kind}_attention.feat_sizes=[{grid},{grid}]" for kind in ("self", "cross")]
    ours = build_sam2_video_predictor(name, device="cpu", hydra_overrides_extra=overrides)
    predictor = "++model._target_=sam2fast.sam2_video_predictor.SAM2VideoPredictor"
    text = OmegaConf.to_yaml(load_config(name, [predictor, *overrides, *VIDEO_POSTPROCESSING]))
    for module, official in THEIRS.items():
        text = text.replace(f"_target_: {module}.", f"_target_: {official}.")
    assert "sam2fast" not in text
    theirs = tame_weights.fill(instantiate(OmegaConf.create(text).model).eval(), SEED)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


@pytest.fixture(scope="module")
def small():
    """The published model for images of 512 pixels."""
    return both("efficienttam_s_512x512", 512)


def add_new_points_or_box(self, state, frame, obj, points=None, labels=None, box=None):
    corners = None if box is None else (box.reshape(2, 2), np.array([2, 3], np.int32))
    return self.add_new_points(state, frame, obj, *(corners or (points, labels)))


@pytest.fixture(autouse=True)
def repaired(monkeypatch):
    method = "add_new_points_or_box"
    monkeypatch.setattr(their_module.SAM2VideoPredictor, method, add_new_points_or_box, raising=False)
    monkeypatch.setattr(their_module, "torch", Float32Memory())


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("video"))


@pytest.mark.parametrize("name", ["s", "ti", "s_1", "s_2", "ti_1", "ti_2", "ti_512x512"])
def test_names_and_shapes(name):
    models = both(f"efficienttam_{name}", 512)
    ours, theirs = ({name: tuple(x.shape) for name, x in model.state_dict().items()} for model in models)
    assert len(ours) == 455 and ours == theirs


@pytest.mark.parametrize("size", [256, 512, 1024])
@torch.no_grad()
def test_level(small, size):
    """Windows are padded at each of these sizes, and the position embeddings resized."""
    ours, theirs = small
    image = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 3, size, size))).float()
    expected, actual = theirs.forward_image(image), ours.forward_image(image)
    for key in ("backbone_fpn", "vision_pos_enc"):
        assert len(expected[key]) == len(actual[key]) == 1
        assert relative_error(expected[key][0], actual[key][0]) <= TOLERANCE


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("multimask", [False, True])
def test_image(small, prompt, multimask):
    compare_images(SAM2ImagePredictor(small[0]), TheirImagePredictor(small[1]), prompt, multimask)


@pytest.mark.parametrize("scenario", SCENARIOS)
@torch.inference_mode()
def test_video(small, video, scenario):
    compare_videos(*small, video, scenario)


@pytest.mark.parametrize("name", ["ti_1", "ti_2"])
@pytest.mark.parametrize("scenario", [family_scenarios.two_frames, family_scenarios.two_objects])
@torch.inference_mode()
def test_video_with_means(video, name, scenario):
    """A frame with one memory is attended to as it is; a frame with two conditioning frames is not."""
    compare_videos(*both(f"efficienttam_{name}", 512), video, scenario)


@torch.inference_mode()
def test_video_at_1024(tmp_path):
    compare_videos(*both("efficienttam_ti_2", 1024), write_clip(tmp_path, 3), family_scenarios.one_click, 3)
