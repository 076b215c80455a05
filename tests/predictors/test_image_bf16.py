"""bfloat16: at most twice the official package's own error in bfloat16, both against fp32, step by step."""

import contextlib
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from parity import NothingDrawn, build_pair, config_name, official_image_predictor, random_image

from sam2fast import SAM2ImagePredictor, build_sam2
from sam2fast.utils.testing import relative_error

SLACK = 2.0
# Models and the sides of their input; on the smaller one a larger share of the windows sticks out of the map.
MODELS = [
    ("sam2.1_t", 288),
    *(pytest.param((size, 1024), marks=pytest.mark.slow) for size in ("sam2.1_t", "sam2.1_b+", "sam2.1_l")),
]
PROMPTS = {
    "point": {"point_coords": np.array([[310.0, 240.0]]), "point_labels": np.array([1])},
    "points": {"point_coords": np.array([[310.0, 240.0], [90.0, 500.0]]), "point_labels": np.array([1, 0])},
    "box": {"box": np.array([120.0, 80.0, 560.0, 420.0])},
    "boxes": {"box": np.array([[120.0, 80.0, 560.0, 420.0], [5.0, 400.0, 200.0, 590.0]])},
}


def autocast() -> Any:
    return torch.autocast("cpu", torch.bfloat16)


class Case(NamedTuple):
    """The official predictor, its features in fp32 and bfloat16, and ours with cast weights or under autocast."""

    official: Any
    exact: dict[str, Any]
    theirs: dict[str, Any]
    ours: SAM2ImagePredictor
    context: Any


@pytest.fixture(scope="module", params=MODELS, ids=str)
def models(request):
    size, side = request.param
    overrides = [f"++model.image_size={side}"]
    official, ours = build_pair(size, overrides)
    predictor = official_image_predictor(official)
    predictor.set_image(random_image())
    exact = predictor._features
    with autocast():
        predictor.set_image(random_image())
    with NothingDrawn():
        cast = build_sam2(config_name(size), None, device="cpu", dtype=torch.bfloat16, hydra_overrides_extra=overrides)
    cast.load_state_dict(official.state_dict())
    return predictor, exact, predictor._features, ours, cast


@pytest.fixture(params=["autocast", "cast once"])
def case(request, models) -> Case:
    official, exact, theirs, ours, cast = models
    if request.param == "autocast":
        return Case(official, exact, theirs, SAM2ImagePredictor(ours), autocast)
    return Case(official, exact, theirs, SAM2ImagePredictor(cast), contextlib.nullcontext)


def test_weights_are_cast_once(models):
    cast = models[4]
    dtypes = {name: p.dtype for name, p in cast.named_parameters()}
    assert dtypes["image_encoder.trunk.blocks.0.attn.qkv.weight"] == torch.bfloat16
    assert dtypes["image_encoder.trunk.blocks.0.norm1.weight"] == torch.float32
    assert dtypes["sam_prompt_encoder.point_embeddings.0.weight"] == torch.float32


def test_encoder(case):
    with case.context():
        case.ours.set_image(random_image())
    maps = ("embedding", "stride 4", "stride 8")
    exact, official, ours = (
        [f["image_embed"], *f["high_res_feats"]] for f in (case.exact, case.theirs, case.ours._features)
    )
    for name, e, theirs, mine in zip(maps, exact, official, ours, strict=True):
        assert relative_error(e, mine) <= SLACK * relative_error(e, theirs), name


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_decoder_from_the_same_features(case, prompt):
    for predictor in (case.official, case.ours):
        predictor._features, predictor._orig_hw, predictor._is_image_set = case.exact, [(600, 800)], True
    exact = case.official.predict(**prompt, return_logits=True)
    with autocast():
        theirs = case.official.predict(**prompt, return_logits=True)
    with case.context():
        mine = case.ours.predict(**prompt, return_logits=True)
    for name, e, t, m in zip(("masks", "scores", "low-res logits"), exact, theirs, mine, strict=True):
        assert m.dtype == np.float32
        assert relative_error(e, m) <= SLACK * relative_error(e, t), name
