"""Wrong calls of the image predictor: one clear exception each, and unchanged state."""

import numpy as np
import pytest
import torch
from parity import build_pair, random_image

from sam2fast import SAM2ImagePredictor

ONE = {"point_coords": [[20, 30]], "point_labels": [1]}


@pytest.fixture(scope="module")
def model():
    return build_pair("sam2.1_t", ["++model.image_size=256"])[1]


@pytest.fixture
def predictor(model):
    predictor = SAM2ImagePredictor(model)
    predictor.set_image(random_image(60, 80))
    return predictor


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"point_coords": [[1, 2]]}, "belong together"),
        ({"point_coords": [[1, 2]], "point_labels": [1, 0]}, r"point_labels has shape \(2,\); expected \(1,\)"),
        ({"point_coords": [[1, 2, 3]], "point_labels": [1]}, r"point_coords has shape \(1, 3\)"),
        ({"point_coords": [[1, 2]], "point_labels": [5]}, "point_labels holds 5"),
        ({"point_coords": [[np.nan, 2]], "point_labels": [1]}, "point_coords holds NaN"),
        ({"point_coords": [[1, 2], [3]], "point_labels": [1, 1]}, r"point_coords\[0\] has shape \(2,\)"),
        ({"box": [10, 10, 5, 20]}, r"box \[10.0, 10.0, 5.0, 20.0\] has its corners the wrong way round"),
        ({"box": [1, 2, 3]}, r"box has shape \(3,\)"),
        ({"mask_input": np.zeros((1, 32, 32))}, r"mask_input has shape \(1, 32, 32\); expected \(1, 64, 64\)"),
        ({"box": [[0, 0, 5, 5]] * 2, "mask_input": np.zeros((3, 1, 64, 64))}, "2 of box, 3 of mask_input"),
    ],
)
def test_wrong_prompts(predictor, prompt, message):
    with pytest.raises(ValueError, match=message):
        predictor.predict(**prompt)
    predictor.predict(**ONE)  # still works


@pytest.mark.parametrize("call", ["predict", "predict_batch", "get_image_embedding"])
def test_without_an_image(model, call):
    with pytest.raises(RuntimeError, match="no image is set"):
        getattr(SAM2ImagePredictor(model), call)()


def test_batch_calls(predictor, model):
    with pytest.raises(RuntimeError, match="set_image_batch"):
        predictor.predict_batch()
    with pytest.raises(TypeError, match="list of images"):
        predictor.set_image_batch(random_image())
    with pytest.raises(ValueError, match="empty"):
        predictor.set_image_batch([])
    predictor.set_image_batch([random_image(60, 80), random_image(30, 40)])
    with pytest.raises(ValueError, match="box_batch has 1 entries for 2 images"):
        predictor.predict_batch(box_batch=[[0, 0, 5, 5]])


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
    assert predictor.get_image_embedding().shape == (1, 256, 16, 16)
    predictor.set_image_batch([random_image(60, 80)] * 2)
    assert predictor.get_image_embedding().shape == (2, 256, 16, 16)


def test_no_autocast_or_grad_mode_leaks(predictor):
    assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    assert not predictor.get_image_embedding().requires_grad


def test_inference_mode_then_training(model):
    """Tables that are created in inference mode must not break autograd later."""
    with torch.inference_mode():
        SAM2ImagePredictor(model).set_image(random_image(60, 80))
    model.encode_image(torch.zeros(1, 3, 256, 256))[-1].sum().backward()
    model.zero_grad()
