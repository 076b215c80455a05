"""Hooks and replaced methods of every module of the prompt encoder and the mask decoder, with several prompts at once.

As in the original, lists of layers and embeddings of which only the weight is read are not called.
"""

import re
import types

import numpy as np
import pytest
from mini_model import mini_model
from parity import random_image

from sam2fast import SAM2AutomaticMaskGenerator, SAM2ImagePredictor

PARTS = ("sam_prompt_encoder", "sam_mask_decoder")
NAMES = [name for name, _ in mini_model().named_modules() if name.startswith(PARTS)]
UNCALLED = re.compile(r".*(embeddings(\.\d)?|_embed|r\.\w+_tokens?|layers|_mlps|output_upscaling)")
POINTS = np.array([[[20, 30]], [[50, 12]], [[70, 40]], [[8, 55]]])
MASKS = np.random.default_rng(0).normal(size=(4, 1, 32, 32)).astype(np.float32)
PROMPTS = {
    "clicks": {"point_coords": POINTS, "point_labels": np.ones((4, 1))},
    "boxes": {"box": [[5, 8, 40, 30], [10, 10, 60, 50], [2, 3, 30, 59], [40, 20, 79, 58]], "multimask_output": False},
    "masks": {"mask_input": MASKS, "point_coords": POINTS, "point_labels": np.ones((4, 1))},
}
EVERYWHERE = {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "output_mode": "coco_rle"}


@pytest.fixture(scope="module")
def predictor():
    predictor = SAM2ImagePredictor(mini_model())
    predictor.set_image(random_image(60, 80))
    return predictor


def results(predictor) -> list[np.ndarray]:
    found = [part for prompts in PROMPTS.values() for part in predictor.predict(**prompts, output_mode="low_res")]
    records = SAM2AutomaticMaskGenerator(predictor.model, **EVERYWHERE).generate(random_image(60, 80))
    return [*found, np.array([record["predicted_iou"] for record in records])]


@pytest.fixture(scope="module")
def expected(predictor):
    return results(predictor)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_hook_and_a_replaced_forward_see_every_call(name, predictor, expected):
    calls, module = [], predictor.model.get_submodule(name)
    forward = type(module).forward

    def counted(self, *args, **kwargs):
        calls.append("forward")
        return forward(self, *args, **kwargs)

    hook = module.register_forward_hook(lambda *args: calls.append("hook"))
    hooked = results(predictor)
    hook.remove()
    module.forward = types.MethodType(counted, module)
    replaced = results(predictor)
    del module.forward
    for found in (hooked, replaced):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert calls.count("hook") == calls.count("forward")
    assert bool(calls) != bool(UNCALLED.fullmatch(name))
