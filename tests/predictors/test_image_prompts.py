"""Prompts of no object, ragged lists of points, and masks in place of logits."""

import warnings

import numpy as np
import pytest
import torch
from parity import random_image

from sam2fast import SAM2ImagePredictor
from sam2fast.utils.testing import relative_error

S = 32  # side of the low-resolution logits
H, W = 40, 60
BOX = [5, 8, 40, 30]


@pytest.fixture(scope="module")
def predictor(model):
    predictor = SAM2ImagePredictor(model)
    predictor.set_image(random_image(H, W))
    return predictor


def assert_close(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype and relative_error(a, b) <= 1e-5


NO_OBJECTS = {
    "boxes": {"box": np.zeros((0, 4))},
    "an empty list": {"box": []},
    "a tensor": {"box": torch.zeros(0, 4)},
    "points": {"point_coords": np.zeros((0, 2, 2)), "point_labels": np.zeros((0, 2))},
    "masks": {"mask_input": np.zeros((0, 1, S, S))},
    "boxes and a mask for all": {"box": np.zeros((0, 4)), "mask_input": np.zeros((1, 1, S, S))},
    "boxes and no points": {"box": [], "point_coords": [], "point_labels": []},
}


@pytest.mark.parametrize("prompt", NO_OBJECTS.values(), ids=NO_OBJECTS)
@pytest.mark.parametrize(("several", "output_mode"), [(True, "float"), (False, "coco_rle"), (True, "low_res")])
def test_no_objects(predictor, prompt, several, output_mode):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        masks, ious, low_res = predictor.predict(**prompt, multimask_output=several, output_mode=output_mode)
    C = 3 if several else 1
    assert masks.shape == (0, C, *{"float": (H, W), "coco_rle": (), "low_res": (S, S)}[output_mode])
    assert ious.shape == (0, C) and low_res.shape == (0, C, S, S)


@pytest.mark.parametrize("nothing", [np.zeros((0, 4)), []], ids=["array", "list"])
def test_one_image_of_a_batch_without_boxes(model, nothing):
    predictor = SAM2ImagePredictor(model)
    predictor.set_image_batch([random_image(30, 30), random_image(H, W)])
    masks, ious, low_res = predictor.predict_batch(box_batch=[nothing, [BOX, BOX]])
    assert [x.shape for x in masks] == [(0, 3, 30, 30), (2, 3, H, W)]
    assert [x.shape for x in ious] == [(0, 3), (2, 3)] and [x.shape for x in low_res] == [(0, 3, S, S), (2, 3, S, S)]


@pytest.mark.parametrize("boxes", [BOX, [BOX, [1, 1, 20, 20]]], ids=["one box", "two"])
@pytest.mark.parametrize("points", [([], []), (np.zeros((0, 2)), np.zeros(0))], ids=["lists", "arrays"])
def test_boxes_without_points(predictor, boxes, points):
    assert_close(predictor.predict(*points, box=boxes), predictor.predict(box=boxes))


def test_boxes_with_a_list_of_no_points_for_each(predictor):
    boxes = [BOX, [1, 1, 20, 20]]
    assert_close(predictor.predict([[], []], [[], []], box=boxes), predictor.predict(box=boxes))


COORDS = [[[26, 14]], [[50, 35], [45, 21]], [[9, 9], [3, 4], [20, 8]], [[30, 30]]]
LABELS = [[1], [1, 0], [1, 0, 1], [0]]
RAGGED = {
    "lists": (COORDS, LABELS),
    "arrays": ([np.array(x) for x in COORDS], [np.array(x) for x in LABELS]),
    "tensors": (tuple(torch.tensor(x) for x in COORDS), tuple(torch.tensor(x) for x in LABELS)),
    "arrays of lists": (np.array(COORDS, dtype=object), np.array(LABELS, dtype=object)),
}


@pytest.mark.parametrize(("coords", "labels"), RAGGED.values(), ids=RAGGED)
def test_ragged_points(predictor, coords, labels):
    found = predictor.predict(coords, labels, return_logits=True)
    for i in range(4):
        alone = predictor.predict(COORDS[i], LABELS[i], return_logits=True)
        assert_close([x[i] for x in found], alone)


def test_ragged_points_with_boxes_and_masks(predictor):
    coords, labels = [[], [[50, 35]], [[9, 9], [30, 4]]], [[], [0], [1, 1]]
    boxes = np.array([BOX, [1, 1, 30, 30], [20, 3, 50, 39]])
    logits = np.random.default_rng(0).normal(0, 5, (3, 1, S, S)).astype(np.float32)
    for masks in (logits, logits[:1], logits[0], logits[0, 0]):  # one serves all
        found = predictor.predict(coords, labels, boxes, masks, multimask_output=False)
        for i in range(3):
            of_one = logits[i if masks is logits else 0]
            alone = predictor.predict(coords[i], labels[i], boxes[i], of_one, multimask_output=False)
            assert_close([x[i] for x in found[1:]], alone[1:])


def test_ragged_points_of_an_image_of_a_batch(model, predictor):
    batch = SAM2ImagePredictor(model)
    batch.set_image_batch([random_image(30, 30), random_image(H, W)])
    found = batch.predict_batch([None, COORDS], [None, LABELS], [BOX, None], return_logits=True)
    assert_close([x[1] for x in found], predictor.predict(COORDS, LABELS, return_logits=True))


def square(high, dtype):
    mask = np.zeros((1, S, S), dtype)
    mask[:, 8:20, 8:20] = high
    return mask


MASKS = {
    "bool": square(True, bool),
    "0 and 255": square(255, np.uint8),
    "0 and 1": square(1, np.float32),
    "probabilities": square(0.7, np.float64),
    "a tensor": torch.from_numpy(square(True, bool)),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_masks_taken_for_logits(predictor, mask):
    with pytest.warns(UserWarning, match="mask_input has no negative values, like a mask, but is read as logits"):
        found = predictor.predict(box=BOX, mask_input=mask)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logits = torch.as_tensor(mask).float() + 1e-6  # any positive number
        assert_close(found, predictor.predict(box=BOX, mask_input=logits))


@pytest.mark.parametrize("logits", [np.zeros((1, S, S)), square(9.0, float) - 4, np.full((1, S, S), 3.0)])
def test_logits_give_no_warning(predictor, logits):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor.predict(box=BOX, mask_input=logits)
