"""EdgeTAM beside its published code (``edgetam-dimos``): same weights, clips and prompts, fp32 on the CPU.

In an environment of its own, since the package has the name ``sam2``: ``make test-family``. ``family_models.py`` says
where it departs from what is compared. Its predictor is from before December 2024: all objects are prompted on the same
frames before the first propagation, where it does what the present one does.
"""

import pytest

pytest.importorskip("sam2.modeling.perceiver", reason="needs an environment of its own: make test-family")

import family_models
import numpy as np
import torch
from family_scenarios import PROMPTS, SCENARIOS, TOLERANCE, compare_images, compare_videos, write_clip

from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.utils.testing import relative_error

SIZE = 512


@pytest.fixture(scope="module", params=[SIZE, 1024], ids=str)
def pair(request):
    """Both video predictors for images of one size."""
    return family_models.edgetam(request.param)


@pytest.fixture(scope="module")
def small():
    return family_models.edgetam(SIZE)


@pytest.fixture(autouse=True)
def repaired(monkeypatch):
    family_models.repair(monkeypatch)


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
    ours, theirs = small
    compare_images(SAM2ImagePredictor(ours), family_models.image_predictor(theirs), prompt, multimask)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("video"))


@pytest.mark.parametrize("scenario", SCENARIOS)
@torch.inference_mode()
def test_video(small, video, scenario):
    compare_videos(*small, video, scenario)
