"""Features of each stage and level against the official trunk and neck, and against the model's own."""

import numpy as np
import oracle  # noqa: F401  (makes the official package importable)
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from parity import random_image, random_map

from sam2fast import nano
from sam2fast.build_sam import build_sam2
from sam2fast.config import load_config
from sam2fast.research import stage_features
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.utils.testing import relative_error


@pytest.fixture(scope="module")
def model():
    return build_sam2(nano.CONFIG, nano.WEIGHTS, device="cpu")


def official_encoder(model):
    """The official package's classes in nano's shape, with nano's weights."""
    config = OmegaConf.to_yaml(load_config(nano.CONFIG).model.image_encoder)
    for ours, theirs in (
        ("sam2fast.modeling.image_encoder.", "sam2.modeling.backbones.image_encoder."),
        ("sam2fast.modeling.hiera.", "sam2.modeling.backbones.hieradet."),
        ("sam2fast.modeling.position_encoding.", "sam2.modeling.position_encoding."),
    ):
        config = config.replace(ours, theirs)
    encoder = instantiate(OmegaConf.create(config)).eval()
    encoder.load_state_dict(model.image_encoder.state_dict(), strict=True)
    return encoder


@torch.no_grad()
def test_the_official_stages_and_levels(model):
    images = random_map(2, 3, 256, 256)
    official = official_encoder(model)
    stages = official.trunk(images)
    levels, _ = official.neck(stages)
    found = stage_features(model, images)
    assert [x.shape for x in found.stages] == [(2, 32 * 2**i, 64 >> i, 64 >> i) for i in range(4)]
    assert len(found.levels) == 4
    for name, expected, actual in (("stage", stages, found.stages), ("level", levels, found.levels)):
        for i, (a, b) in enumerate(zip(expected, actual, strict=True)):
            assert relative_error(a, b) < 1e-5, f"{name} {i}"


@torch.no_grad()
def test_the_models_own_features(model):
    images = random_map(1, 3, 256, 256)
    levels, decoder = stage_features(model, images).levels, model.sam_mask_decoder
    s0, s1, embedding = model.encode_image(images)
    assert torch.equal(levels[2], embedding)
    assert (
        relative_error(decoder.conv_s0(levels[0]), s0) < 1e-5 and relative_error(decoder.conv_s1(levels[1]), s1) < 1e-5
    )


def test_images_of_an_image_predictor(model):
    predictor, images = SAM2ImagePredictor(model), [random_image(60, 80), random_image(90, 50, seed=1)]
    predictor.set_image(images[1])
    before = predictor.get_image_embedding().clone()
    with torch.no_grad():
        found = stage_features(predictor, images)
        alone = stage_features(predictor, images[0])
        embedding = found.levels[2][1] + model.no_mem_embed.reshape(-1, 1, 1)
    assert len(found.levels[2]) == 2 and relative_error(alone.stages[3][0], found.stages[3][0]) < 1e-5
    assert relative_error(before[0], embedding) < 1e-5
    assert torch.equal(predictor.get_image_embedding(), before)


def test_gradients_flow(model):
    images = random_map(1, 3, 256, 256).requires_grad_()
    stage_features(model, images).stages[1].sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("images", "error", "word"),
    [
        (torch.zeros(1, 3, 128, 128), ValueError, r"\(B, 3, 256, 256\)"),
        (torch.zeros(1, 3, 256, 256, dtype=torch.uint8), ValueError, "torch.uint8"),
        (np.zeros((40, 60, 3), np.uint8), TypeError, "SAM2ImagePredictor"),
    ],
    ids=["size", "pixels", "image"],
)
def test_refused(model, images, error, word):
    with pytest.raises(error, match=word):
        stage_features(model, images)
    with pytest.raises(ValueError, match="empty"):
        stage_features(SAM2ImagePredictor(model), [])
