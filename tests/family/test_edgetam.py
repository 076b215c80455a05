"""EdgeTAM beside its published code (``edgetam-dimos``): same weights, clips and prompts, fp32 on the CPU.

In an environment of its own, since the package has the name ``sam2``: ``make test-family``. Where it departs from what
is compared, and what is made of it here:

- Building it downloads weights of the trunk; here it builds the trunk without.
- Memories are stored as bfloat16; they are made to store fp32.
- ``forward_2d`` of its perceiver fails for several objects; it gets one object after the other.
- Rotations of the cross-attention are for 1024 pixels, whatever the image; at another size they get its grid.
- Its predictor is from before December 2024: all objects are prompted on the same frames before the first propagation,
  where it does what the present one does.
"""

import sys

import pytest

pytest.importorskip("sam2.modeling.perceiver", reason="needs an environment of its own: make test-family")

import importable_torchvision  # noqa: F401  (before torchvision)
import numpy as np
import tame_weights
import torch
import torchvision
from family_scenarios import PROMPTS, SCENARIOS, TOLERANCE, compare_images, compare_videos, write_clip
from float32_memory import Float32Memory

torchvision.extension._has_ops = lambda: True
torchvision.ops.boxes._assert_has_ops = lambda: None

import timm  # noqa: E402
from sam2.build_sam import build_sam2_video_predictor as build_theirs  # noqa: E402
from sam2.modeling import perceiver  # noqa: E402
from sam2.modeling.backbones import timm as backbones  # noqa: E402
from sam2.sam2_image_predictor import SAM2ImagePredictor as TheirImagePredictor  # noqa: E402

from sam2fast.build_sam import build_sam2_video_predictor  # noqa: E402
from sam2fast.sam2_image_predictor import SAM2ImagePredictor  # noqa: E402
from sam2fast.utils.testing import relative_error  # noqa: E402

CONFIG = "configs/edgetam/edgetam.yaml"
SIZE = 512


@pytest.fixture(scope="module", params=[SIZE, 1024], ids=str)
def pair(request):
    """Both video predictors for images of one size."""
    return both(request.param)


@pytest.fixture(scope="module")
def small():
    return both(SIZE)


def both(size):
    grid = size // 16
    overrides = [f"++model.image_size={size}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "create_model", lambda name, pretrained, **kw: timm.create_model(name, **kw))
        cross = f"++model.memory_attention.layer.cross_attention.q_sizes=[{grid},{grid}]"
        theirs = build_theirs("configs/edgetam.yaml", None, "cpu", hydra_overrides_extra=[*overrides, cross])
    ours = build_sam2_video_predictor(CONFIG, device="cpu", hydra_overrides_extra=overrides)
    ours.load_state_dict(tame_weights.fill(theirs, 0).state_dict(), strict=True)
    return ours, theirs


def each_object(self, x):
    parts = [forward_2d(self, one) for one in x.split(1)]
    return tuple(torch.cat(part) for part in zip(*parts, strict=True))


forward_2d = perceiver.PerceiverResampler.forward_2d


@pytest.fixture(autouse=True)
def repaired(monkeypatch):
    monkeypatch.setattr(perceiver.PerceiverResampler, "forward_2d", each_object)
    monkeypatch.setattr(sys.modules["sam2.sam2_video_predictor"], "torch", Float32Memory())


def their_image_predictor(theirs):
    predictor, grid = TheirImagePredictor(theirs), theirs.image_size // 16
    predictor._bb_feat_sizes = [(4 * grid, 4 * grid), (2 * grid, 2 * grid), (grid, grid)]
    return predictor


def test_names_and_shapes(small):
    ours, theirs = ({name: tuple(x.shape) for name, x in model.state_dict().items()} for model in small)
    assert len(ours) == 982 and ours == theirs


@torch.no_grad()
def test_levels(pair):
    ours, theirs = pair
    image = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 3, ours.image_size, ours.image_size))).float()
    expected, actual = theirs.forward_image(image), ours.forward_image(image)
    for name in ("backbone_fpn", "vision_pos_enc"):
        assert len(expected[name]) == len(actual[name]) == 3
        for a, b in zip(expected[name], actual[name], strict=True):
            assert relative_error(a, b) <= TOLERANCE


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("multimask", [False, True])
def test_image(small, prompt, multimask):
    compare_images(SAM2ImagePredictor(small[0]), their_image_predictor(small[1]), prompt, multimask)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("video"))


@pytest.mark.parametrize("scenario", SCENARIOS)
@torch.inference_mode()
def test_video(small, video, scenario):
    compare_videos(*small, video, scenario)
