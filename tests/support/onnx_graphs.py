"""Runs the modules of exported models without an export, and compares images and videos with official predictors."""

from typing import Any

import numpy as np
from parity import TOLERANCE, official_image_predictor, random_image

from sam2fast.deploy.onnx.export import graphs_of, manifest_of, run_modules
from sam2fast.deploy.onnx.runtime.graphs import OnnxModel
from sam2fast.deploy.onnx.runtime.images import OnnxImagePredictor
from sam2fast.utils.testing import mask_iou, relative_error

CLICKS = {"point_coords": [[30, 20], [50, 41.5]], "point_labels": [1, 0]}
PROMPTS: dict[str, dict[str, Any]] = {
    "one click": {"point_coords": [[30, 20]], "point_labels": [1]},
    "clicks": CLICKS,
    "single mask": {**CLICKS, "multimask_output": False},
    "box": {"box": [3, 4, 50, 40], "multimask_output": False},
    "box and clicks": {"box": [3, 4, 50, 40], **CLICKS},
    "boxes": {"box": [[3, 4, 50, 40], [1, 2, 30, 40], [5, 5, 60, 49]]},
    "shares": {"point_coords": [[0.3, 0.2]], "point_labels": [1], "normalize_coords": False},
    "no points": {"point_coords": np.zeros((0, 2)), "point_labels": np.zeros(0)},
    "mask": {"mask_input": True, "multimask_output": False},
    "mask and click": {"mask_input": True, "point_coords": [[30, 20]], "point_labels": [1]},
}


def compare_images(official: Any, model: OnnxModel, prompt: dict[str, Any], **areas: float) -> float:
    """Asserts that results for a prompt equal the official ones. Returns how much ``areas`` change the masks."""
    side = model.manifest.image_size
    theirs, ours = official_image_predictor(official, **areas), OnnxImagePredictor(model, **areas)
    if prompt.get("mask_input"):
        logits = np.random.default_rng(2).standard_normal((1, side // 4, side // 4)).astype(np.float32)
        prompt = {**prompt, "mask_input": logits}
    theirs_prompt = {k: np.array(v) if isinstance(v, list) else v for k, v in prompt.items()}
    for predictor in (theirs, ours):
        predictor.set_image(random_image(60, 80))
    expected = theirs.predict(**theirs_prompt, return_logits=True)
    actual = ours.predict(**prompt, return_logits=True)
    for a, b in zip(expected, actual, strict=True):
        assert a.shape == b.shape and b.dtype == np.float32 and relative_error(a, b) <= TOLERANCE
    assert mask_iou(expected[0], actual[0]) >= 0.999
    assert np.array_equal(ours.predict(**prompt)[0], actual[0] > 0)
    return relative_error(actual[0], OnnxImagePredictor.predict(_without_areas(ours), **prompt, return_logits=True)[0])


def _without_areas(predictor: OnnxImagePredictor) -> OnnxImagePredictor:
    plain = OnnxImagePredictor(predictor.model)
    plain.set_image(random_image(60, 80))
    return plain


def several_objects(s: Any) -> None:
    """A scenario of ``video.Session``: clicks, a box and masks; corrections, tracking backwards, removals."""
    s.points(0, "a", (60, 40, 1))
    s.points(0, "a", (30, 20, 0), (70, 50, 1), clear_old_points=False)
    s.points(2, "b", box=[20, 20, 70, 60])
    rows, columns = np.mgrid[0:90, 0:120]
    s.mask(1, "c", (columns - 30) ** 2 + (rows - 60) ** 2 < 144)
    s.propagate()
    s.points(5, "a", (65, 45, 0))
    s.points(4, "d", (90, 20, 1))
    s.remove("b")
    s.propagate(start_frame_idx=5, max_frame_num_to_track=1)
    s.clear(5, "a")
    s.propagate(start_frame_idx=6, max_frame_num_to_track=2, reverse=True)
    s.mask(3, "a", np.zeros((90, 120), bool))
    s.propagate(start_frame_idx=3, max_frame_num_to_track=1)
    s.reset()
    s.points(0, "e", (0.5, 0.4, 1), normalize_coords=False)
    s.propagate(max_frame_num_to_track=0)


def model_of_modules(model: Any) -> OnnxModel:
    """Runs the modules that would be exported: seconds instead of the exporter's minute."""
    return OnnxModel(manifest_of(model), run_modules(graphs_of(model)))
