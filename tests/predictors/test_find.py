"""Objects of one photograph in others."""

import numpy as np
import pytest
import torch
from coloured_discs import BLUE, RED, SIZE, disc, painted

from sam2fast import SAM2ImagePredictor
from sam2fast.find import Match, Reference, Search, find


@pytest.fixture(scope="module")
def predictor() -> SAM2ImagePredictor:
    return SAM2ImagePredictor.from_pretrained("sam2fast/nano")


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return (mask & truth).sum() / (mask | truth).sum()


@pytest.fixture(scope="module")
def reference(predictor: SAM2ImagePredictor) -> Reference:
    mask = disc(80, 90, 34)
    return Reference(predictor, painted((mask, RED)), mask)


def test_an_object_is_found_at_another_place_and_size(predictor, reference):
    there = disc(190, 70, 24)
    image = painted((disc(60, 130, 30), BLUE), (there, RED))
    (match,) = find(predictor, reference, image)
    assert isinstance(match, Match)
    assert match.mask.shape == SIZE and match.mask.dtype == bool
    assert iou(match.mask, there) > 0.8


def test_copies_come_most_alike_first(predictor, reference):
    copies = disc(50, 60, 30), disc(190, 120, 38)
    image = painted(*((copy, RED) for copy in copies))
    found = find(predictor, reference, image, most=5)
    assert [one.likeness for one in found] == sorted((one.likeness for one in found), reverse=True)
    assert all(max(iou(one.mask, copy) for one in found) > 0.8 for copy in copies)
    for i, one in enumerate(found):
        assert not any(iou(one.mask, other.mask) > 0.3 for other in found[:i])
    assert len(find(predictor, reference, image, most=1)) == 1


def test_the_least_likeness(predictor, reference):
    alike = find(predictor, reference, painted((disc(170, 100, 30), RED)))[0].likeness
    other = find(predictor, reference, painted((disc(170, 100, 30), BLUE)))[0].likeness
    assert alike > other
    assert not find(predictor, reference, painted((disc(170, 100, 30), BLUE)), min_likeness=(alike + other) / 2)


def test_several_references(predictor, reference):
    mask = disc(120, 90, 40)
    blue = Reference(predictor, painted((mask, BLUE)), mask)
    image = painted((disc(60, 120, 30), BLUE), (disc(190, 60, 28), RED))
    found = find(predictor, [reference, blue], image, most=2)
    assert {
        max((iou(one.mask, truth), name) for truth, name in ((disc(60, 120, 30), "blue"), (disc(190, 60, 28), "red")))[
            1
        ]
        for one in found
    } == {"blue", "red"}
    # The most similar reference determines the likeness.
    best = max(find(predictor, one, image)[0].likeness for one in (reference, blue))
    assert found[0].likeness == pytest.approx(best)


def test_encoded_images_are_used_and_the_current_image_stays(predictor, reference, monkeypatch):
    image, mask = painted((disc(170, 100, 30), RED)), disc(80, 90, 34)
    features = predictor.encode(image)
    predictor.set_image(painted((mask, BLUE)))
    before = predictor.get_image_embedding()
    (without,), made = find(predictor, reference, image), Reference(predictor, image, disc(170, 100, 30))
    assert predictor.get_image_embedding() is before
    monkeypatch.setattr(predictor, "encode", None)
    (match,) = find(predictor, reference, image, features=features)
    np.testing.assert_array_equal(match.mask, without.mask)
    assert match[1:] == without[1:]
    assert torch.equal(Reference(predictor, image, disc(170, 100, 30), features=features).prototype, made.prototype)


def test_unusable_references(predictor, reference):
    image = painted((disc(80, 90, 34), RED))
    with pytest.raises(ValueError, match="mask is 10x20, but its image 192x256"):
        Reference(predictor, image, np.ones((10, 20)))
    with pytest.raises(ValueError, match="mask is empty"):
        Reference(predictor, image, np.zeros(SIZE))
    with pytest.raises(ValueError, match="no references"):
        find(predictor, [], image)
    other = SAM2ImagePredictor.from_pretrained("sam2fast/nano")
    with torch.no_grad():
        other.model.sam_mask_decoder.iou_token.weight.add_(1)
    with pytest.raises(ValueError, match="another model"):
        find(other, reference, image)


def test_a_mask_that_vanishes_at_the_size_of_the_image_is_no_result(predictor, reference, monkeypatch):
    monkeypatch.setattr(Search, "full_masks", lambda self, indices: np.zeros((len(indices), *SIZE), bool))
    assert find(predictor, reference, painted()) == []


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 40, 3), (1, 200, 3)])
def test_images_of_few_rows(predictor, reference, shape, recwarn):
    (match,) = find(predictor, reference, np.full(shape, 90, np.uint8))
    assert match.mask.shape == shape[:2]
    assert not list(recwarn)  # of clicks outside the image
