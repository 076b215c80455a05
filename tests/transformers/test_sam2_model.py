"""The image model beside transformers' ``Sam2Model``: same weights, same image, same prompts, fp32 on the CPU.

Their processor is not used. Images and prompts already have the model's input size, where it would only normalise.
"""

from typing import Any

import numpy as np
import pytest
import tame_weights
import torch
from counterpart import vision_config
from image_prompts import ImagePair, difference, our_answer, their_answer
from PIL import Image
from transformers import Sam2Config, Sam2Model

from sam2fast.build_sam import build_sam2
from sam2fast.checkpoints.loading import is_video_only
from sam2fast.checkpoints.transformers_layout import to_transformers
from sam2fast.sam2_image_predictor import SAM2ImagePredictor

TOLERANCE = 1e-4
SEED = 0
SIZE = 1024
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

MODELS = ("sam2.1_hiera_t", "sam2.1_hiera_b+")


def _image() -> np.ndarray:
    """A smooth random image of the model's input size, ``(S, S, 3)`` uint8."""
    coarse = np.random.default_rng(SEED).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def _mask_logits() -> np.ndarray:
    """A disc with a blurred outline, as ``(1, S/4, S/4)`` logits."""
    y, x = np.mgrid[: SIZE // 4, : SIZE // 4]
    return (0.2 * (60 - np.hypot(x - 120, y - 100)))[None].astype(np.float32).clip(-10, 10)


# Arguments of SAM2ImagePredictor.predict.
PROMPTS: dict[str, dict[str, Any]] = {
    "point": {"point_coords": [[500, 375]], "point_labels": [1]},
    "points": {"point_coords": [[500, 375], [20.5, 1000], [760, 310.25]], "point_labels": [1, 0, 1]},
    "box": {"box": [100, 220, 640, 901.5]},
    "box and points": {
        "box": [100, 220, 640, 901.5],
        "point_coords": [[300, 400], [600, 850]],
        "point_labels": [1, 0],
    },
    "mask and point": {"point_coords": [[480, 400]], "point_labels": [1], "mask_input": _mask_logits()},
    # A mask alone: our predictor, like the official predictor, adds no point; transformers adds this one.
    "mask and padding point": {"point_coords": [[0, 0]], "point_labels": [-1], "mask_input": _mask_logits()},
    "three prompts": {"point_coords": [[[500, 375]], [[90, 80]], [[800, 910]]], "point_labels": [[1], [1], [1]]},
}


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest) -> ImagePair:
    model = build_sam2(f"configs/sam2.1/{request.param}.yaml", None, device="cpu")
    tame_weights.fill(model, SEED)

    # What Sam2Model, which segments images, does not have; it has object scores.
    of_video = {name for name in model.state_dict() if is_video_only(name) and "pred_obj_score" not in name}
    weights = {name: tensor for name, tensor in model.state_dict().items() if name not in of_video}
    theirs = Sam2Model(Sam2Config(vision_config=vision_config(request.param, SIZE))).eval()
    # Every tensor of transformers' model is filled, and none of ours is left.
    theirs.load_state_dict(to_transformers(weights), strict=True)

    image = _image()
    ours = SAM2ImagePredictor(model)
    ours.set_image(image)
    pixels = (image / 255 - MEAN) / STD
    features = theirs.get_image_embeddings(torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None])
    return ImagePair(ours, theirs, features)


@pytest.mark.parametrize(("level", "channels"), [(0, 32), (1, 64), (2, 256)])
def test_image_features(pair: ImagePair, level: int, channels: int) -> None:
    features = pair.ours._features
    assert features is not None
    actual = [*features["high_res_feats"], pair.ours.get_image_embedding()][level]
    side = SIZE // 4 >> level
    assert actual.shape == (1, channels, side, side)
    assert difference(pair.their_features[level], actual) <= TOLERANCE


@pytest.mark.parametrize(
    ("multimask", "stable_from"), [(True, 0.98), (False, 0.98), (False, 0.5)], ids=["three", "best of three", "single"]
)
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_masks(
    pair: ImagePair, prompt: dict[str, Any], multimask: bool, stable_from: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # These masks have stabilities of 0.88 to 0.95, and the best of three leads by a predicted IoU of 0.01 or more:
    # no rounding changes the choice.
    for decoder in (pair.ours.model.sam_mask_decoder, pair.theirs.mask_decoder):
        monkeypatch.setattr(decoder, "dynamic_multimask_stability_thresh", stable_from)
    expected = their_answer(pair, prompt, multimask)
    actual = our_answer(pair.ours, prompt, multimask)
    assert actual[0].shape[1:] == (3 if multimask else 1, SIZE // 4, SIZE // 4)
    for name, a, b in zip(("mask logits", "IoUs", "object scores"), expected, actual, strict=True):
        assert difference(a, b) <= TOLERANCE, name
