"""Wrong calls of the image predictor: one clear exception each, and unchanged state."""

import numpy as np
import pytest
import torch
from parity import random_image

from sam2fast import SAM2ImagePredictor

S = 32  # side of the low-resolution logits
ONE = {"point_coords": [[20, 30]], "point_labels": [1]}
BOX = [5, 8, 40, 30]
RAGGED = {
    "point_coords": [[[26, 14]], [[50, 35], [45, 21]], [[9, 9], [3, 4], [20, 8]], [[30, 30]]],
    "point_labels": [[1], [1, 0], [1, 0, 1], [0]],
}
WRONG_PROMPTS = [
    ({"point_coords": [[1, 2]]}, "belong together"),
    ({"point_coords": [[1, 2]], "point_labels": [1, 0]}, r"point_labels has shape \(2,\); expected \(1,\)"),
    ({"point_coords": [[1, 2, 3]], "point_labels": [1]}, r"point_coords has shape \(1, 3\)"),
    ({"point_coords": [[1, 2]], "point_labels": [5]}, "point_labels holds 5"),
    ({"point_coords": [[np.nan, 2]], "point_labels": [1]}, "point_coords holds NaN"),
    ({"point_coords": [[1, 2], [3]], "point_labels": [1, 1]}, r"point_coords\[0\] has shape \(2,\)"),
    ({"box": [10, 10, 5, 20]}, r"box \[10.0, 10.0, 5.0, 20.0\] .* wrong way round"),
    ({"box": [1, 2, 3]}, r"box has shape \(3,\)"),
    ({"mask_input": np.zeros((1, 257, 257))}, r"mask_input has shape \(1, 257, 257\); expected \(1, 32, 32\)"),
    ({"mask_input": np.zeros((1, 32, 64))}, r"mask_input has shape \(1, 32, 64\); expected \(1, 32, 32\)"),
    ({"box": [BOX] * 2, "mask_input": np.zeros((3, 1, S, S))}, "2 of box, 3 of mask_input"),
    (
        {"point_coords": [[10, 10], [20, 20]], "point_labels": [1, 1], "box": [BOX] * 2},
        r"give point_coords \(2, N, 2\)",
    ),
    # Lists of several lengths.
    (RAGGED | {"point_labels": [[1]] * 4}, r"point_labels\[1\] has shape \(1,\); expected \(2,\)"),
    (RAGGED | {"point_labels": [1]}, "a list of 4 lists"),
    (RAGGED | {"point_labels": 1}, "a list of 4 lists"),
    (RAGGED | {"point_labels": None}, "belong together"),
    (RAGGED | {"point_coords": [*RAGGED["point_coords"], 5]}, "point_coords is no array"),
    ({"point_coords": [np.zeros((2, 1, 2)), [[1, 2]]], "point_labels": [[[1], [1]], [1]]}, "for each"),
    ({"point_coords": [[[1, 2]], [[3, 4]]], "point_labels": [[1], [1, 0]]}, "point_labels .* different lengths"),
    (RAGGED | {"mask_input": np.zeros((3, 1, S, S))}, "3 of mask_input"),
    (RAGGED | {"mask_input": 0.0}, r"mask_input has shape \(\)"),
    (RAGGED | {"box": [BOX] * 3}, "4 of points, 3 of box"),
]


@pytest.fixture
def predictor(model):
    predictor = SAM2ImagePredictor(model)
    predictor.set_image(random_image(60, 80))
    return predictor


@pytest.mark.parametrize(("prompt", "word"), WRONG_PROMPTS)
def test_wrong_prompts(predictor, prompt, word):
    with pytest.raises(ValueError, match=word):
        predictor.predict(**prompt)
    predictor.predict(**ONE)  # still works


WRONG_CALLS = {
    "predict": (lambda p: p.predict(), RuntimeError, "no image is set"),
    "predict_batch": (lambda p: p.predict_batch(), RuntimeError, "no image is set"),
    "get_image_embedding": (lambda p: p.get_image_embedding(), RuntimeError, "no image is set"),
    "predict_batch after set_image": (
        lambda p: p.set_image(random_image(30, 40)) or p.predict_batch(),
        RuntimeError,
        "set_image_batch",
    ),
    "an image for a batch": (lambda p: p.set_image_batch(random_image(30, 40)), TypeError, "list of images"),
    "no images": (lambda p: p.set_image_batch([]), ValueError, "empty"),
    "one box for two images": (
        lambda p: p.set_image_batch([random_image(30, 40)] * 2) or p.predict_batch(box_batch=[BOX]),
        ValueError,
        "1 entries for 2 images",
    ),
}


@pytest.mark.parametrize(("call", "error", "word"), WRONG_CALLS.values(), ids=WRONG_CALLS)
def test_wrong_calls(model, call, error, word):
    with pytest.raises(error, match=word):
        call(SAM2ImagePredictor(model))


class OnTheGPU:
    """An array such as cupy's, which cannot become a numpy array."""

    __cuda_array_interface__ = {"shape": (1, 2)}  # noqa: RUF012

    def __init__(self, values):
        self.values = values

    def __array__(self, *arguments, **named):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")


def test_prompts_of_other_libraries_on_a_gpu(predictor, monkeypatch):
    as_tensor = torch.as_tensor
    monkeypatch.setattr(torch, "as_tensor", lambda x, **kw: as_tensor(getattr(x, "values", x), **kw))
    expected = predictor.predict(**ONE)
    for coords in (OnTheGPU([[20.0, 30.0]]), [OnTheGPU([20, 30])]):
        for a, b in zip(expected, predictor.predict(coords, OnTheGPU([1])), strict=True):
            assert np.array_equal(a, b)


def test_embedding_of_the_last_image(predictor):
    assert predictor.get_image_embedding().shape == (1, 128, 8, 8)
    predictor.set_image_batch([random_image(60, 80)] * 2)
    assert predictor.get_image_embedding().shape == (2, 128, 8, 8)


def test_no_autocast_or_grad_mode_leaks(predictor):
    assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    assert not predictor.get_image_embedding().requires_grad


def test_inference_mode_then_training(model):
    """Tables that are created in inference mode must not break autograd later."""
    with torch.inference_mode():
        SAM2ImagePredictor(model).set_image(random_image(60, 80))
    model.encode_image(torch.zeros(1, 3, 128, 128))[-1].sum().backward()
    model.zero_grad()
