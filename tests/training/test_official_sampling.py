"""Sampling of prompts, compared with the official functions."""

import sys
from types import ModuleType
from typing import Any

import numpy as np
import oracle  # noqa: F401  (makes the official package importable)
import pytest
import sam2.modeling.sam2_utils as official
import scipy.ndimage
import torch
from random_blobs import random_blobs

from sam2fast.training import official_sampling


@pytest.mark.parametrize(
    "arguments",
    [{}, {"noise": 0.0}, {"noise": 0.5, "noise_bound": 2}, {"top_left_label": 7, "bottom_right_label": 8}],
    ids=str,
)
def test_boxes(arguments):
    """The same generator gives the same boxes and ends in the same state."""
    masks = random_blobs(12, seed=1)[1:]
    results, states = [], []
    for module in (official, official_sampling):
        torch.manual_seed(3)
        results.append(module.sample_box_points(masks, **arguments))
        states.append(torch.get_rng_state())
    (corners, labels), (our_corners, our_labels) = results
    torch.testing.assert_close(our_corners, corners.float())
    assert our_corners.dtype == torch.float32
    assert our_labels.dtype == labels.dtype and torch.equal(our_labels, labels)
    assert torch.equal(*states)


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("with_guess", [True, False])
def test_random_errors(count, with_guess):
    """Every click is at a pixel where the official code may click, with the same label."""
    truth = random_blobs(20, seed=2)
    guess = random_blobs(20, seed=3) if with_guess else None
    if guess is not None:
        guess[5] = truth[5]  # nothing wrong: the background is clicked
    shapes = []
    for module in (official, official_sampling):
        points, labels = module.sample_random_points_from_errors(truth, guess, count)
        assert points.dtype == torch.float32 and labels.dtype == torch.int32
        shapes.append((points.shape, labels.shape))
        for i in range(20):
            predicted = torch.zeros_like(truth[i]) if guess is None else guess[i]
            nothing_wrong = torch.equal(truth[i], predicted)
            for (x, y), label in zip(points[i].long().tolist(), labels[i].tolist(), strict=True):
                assert label == (truth[i, 0, y, x] and not nothing_wrong)
                assert nothing_wrong or truth[i, 0, y, x] != predicted[0, y, x]
    assert shapes[0] == shapes[1]


def test_several_random_errors_differ():
    truth = torch.ones(1, 1, 24, 24, dtype=torch.bool)
    points, _ = official_sampling.sample_random_points_from_errors(truth, None, 50)
    assert len({tuple(p) for p in points[0].tolist()}) > 40


def test_random_errors_of_no_masks():
    points, labels = official_sampling.sample_random_points_from_errors(
        torch.zeros(0, 1, 4, 4, dtype=torch.bool), None, 2
    )
    assert points.shape == (0, 2, 2) and labels.shape == (0, 2)


@pytest.fixture
def cv2(monkeypatch):
    """OpenCV's distance transform by scipy; as in OpenCV, an image without zeros has equal distances."""

    def distance_transform(mask, kind, size):
        distance = scipy.ndimage.distance_transform_edt(mask) if (mask == 0).any() else np.full(mask.shape, 8192)
        return distance.astype(np.float32)

    module: Any = ModuleType("cv2")
    module.DIST_L2, module.distanceTransform = 2, distance_transform
    monkeypatch.setitem(sys.modules, "cv2", module)


@pytest.mark.usefixtures("cv2")
@pytest.mark.parametrize("padding", [True, False])
def test_centres_of_errors(padding):
    truth = random_blobs(30, seed=6)
    for guess in (None, random_blobs(30, seed=7), truth.clone()):
        expected = official.sample_one_point_from_error_center(truth, guess, padding=padding)
        actual = official_sampling.sample_one_point_from_error_center(truth, guess, padding=padding)
        for e, a in zip(expected, actual, strict=True):
            assert e.dtype == a.dtype and torch.equal(e, a)


@pytest.mark.usefixtures("cv2")
def test_next_point():
    truth, guess = random_blobs(8, seed=8), random_blobs(8, seed=9)
    for e, a in zip(*(m.get_next_point(truth, guess, "center") for m in (official, official_sampling)), strict=True):
        assert torch.equal(e, a)
    points, labels = official_sampling.get_next_point(gt_masks=truth, pred_masks=guess, method="uniform")
    assert points.shape == (8, 1, 2) and labels.shape == (8, 1)
    for module in (official, official_sampling):
        with pytest.raises(ValueError, match="unknown sampling method"):
            module.get_next_point(truth, guess, "best")
