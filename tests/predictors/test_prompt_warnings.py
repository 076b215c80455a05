"""Prompts that show no object give the official masks, and one warning for each predictor."""

import warnings

import numpy as np
import pytest
from parity import random_image
from video import narrow_predictor

from sam2fast import SAM2ImagePredictor

S = 32  # side of the low-resolution logits
H, W = 40, 60
BOX = [5, 8, 40, 30]
SILENT = {
    "points on the edge": {"point_coords": [[W, H], [0, 0]], "point_labels": [1, 0]},
    "padding": {"point_coords": [[-1, -1], [9, 9]], "point_labels": [-1, 1]},
    "corners of a box": {"point_coords": [[-5, -5], [W + 5, H + 5]], "point_labels": [2, 3]},
    "a box beyond the edge": {"box": [-5, -5, W + 5, H + 5]},
    "a box and no points": {"box": BOX, "point_coords": [], "point_labels": []},
    "no boxes": {"box": []},
    "no objects": {"point_coords": np.zeros((0, 2, 2)), "point_labels": np.zeros((0, 2))},
    "a mask": {"mask_input": np.full((1, S, S), 3.0)},
    "fractions": {"point_coords": [[0, 1]], "point_labels": [1], "normalize_coords": False},
}
WARNED = {
    "right of it": ({"point_coords": [[5, 5], [61, 5]], "point_labels": [1, 0]}, r"\[61.0, 5.0\] is outside the 60x40"),
    "above it": ({"point_coords": [[5, -1]], "point_labels": [1], "box": BOX}, r"\[5.0, -1.0\] is outside"),
    "ragged": ({"point_coords": [[[5, 5]], [[5, 5], [5, 41]]], "point_labels": [[1], [1, 1]]}, r"\[5.0, 41.0\]"),
    "pixels": ({"point_coords": [[5, 0.5]], "point_labels": [1], "normalize_coords": False}, "normalize_coords=False"),
    "nothing": ({}, "there is no prompt"),
    "no points": ({"point_coords": [], "point_labels": []}, "there is no prompt"),
}


@pytest.fixture
def predictor(model):
    predictor = SAM2ImagePredictor(model)
    predictor.set_image(random_image(H, W))
    return predictor


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("prompt", SILENT.values(), ids=SILENT)
def test_other_prompts_give_none(predictor, prompt):
    predictor.predict(**prompt)


@pytest.mark.parametrize(("prompt", "text"), WARNED.values(), ids=WARNED)
def test_one_warning(predictor, prompt, text):
    with pytest.warns(UserWarning, match=text) as caught:
        predictor.predict(**prompt)
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor.predict(**prompt)
        predictor.predict(**prompt, features=predictor.encode(random_image(H, W)))


def test_images_of_a_batch(model):
    predictor = SAM2ImagePredictor(model)
    predictor.set_image_batch([random_image(H, W), random_image(90, 90)])
    with pytest.warns(UserWarning, match=r"\[80.0, 80.0\] is outside the 60x40"):
        predictor.predict_batch([[[80, 80]], [[80, 80]]], [[1], [1]])


def test_videos_warn_of_points_outside_once():
    predictor = narrow_predictor()
    state = predictor.init_state(np.zeros((2, H, W, 3), np.uint8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor.add_new_points_or_box(state, 0, 1, box=[-5, -5, W + 5, H + 5])
    with pytest.warns(UserWarning, match=r"\[70.0, 5.0\] is outside the 60x40"):
        predictor.add_new_points_or_box(state, 0, 1, [[70, 5]], [1])
    with warnings.catch_warnings(), predictor.open_stream() as stream:
        warnings.simplefilter("error")
        stream.step(np.zeros((H, W, 3), np.uint8))
        stream.add_new_points_or_box(1, [[70, 5]], [1])
