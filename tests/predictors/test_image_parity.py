"""The image predictor against the official one, live, on identical tame weights; published ones at 1024 are slow."""

from typing import Any, NamedTuple

import numpy as np
import oracle
import pytest
import torch
from parity import CHECK_ITSELF, NARROW, TOLERANCE, build_pair, official_image_predictor, random_image

from sam2fast import SAM2ImagePredictor
from sam2fast.utils.testing import relative_error

# The generations differ in memory only, the models in widths and depths: one is enough for every run.
SIZES = [("sam2.1_t", 1024, *NARROW), ("sam2.1_t", 320)]
SLOW_SIZES = [
    pytest.param((size, 1024), marks=pytest.mark.slow)
    for size in ("sam2.1_t", "sam2_t", "sam2_b+", "sam2.1_b+", "sam2_s", "sam2.1_s", "sam2_l", "sam2.1_l")
]

POINT = {"point_coords": np.array([[310.0, 240.0]]), "point_labels": np.array([1])}
POINTS = {
    "point_coords": np.array([[310.0, 240.0], [90.0, 500.0], [700.5, 33.25], [820.0, -20.0]]),
    "point_labels": np.array([1, 0, 1, 0]),
}
BOX = {"box": np.array([120.0, 80.0, 560.0, 420.0])}
BOXES = {"box": np.array([[120.0, 80.0, 560.0, 420.0], [0.0, 0.0, 799.0, 599.0], [5.0, 400.0, 200.0, 590.0]])}
POINT_ROWS = {
    "point_coords": np.array([[[310.0, 240.0], [90.0, 500.0]], [[600.0, 100.0], [0.0, 0.0]]]),
    "point_labels": np.array([[1, 0], [1, -1]]),
}
SINGLE = {"multimask_output": False}
PROMPTS = {
    "one point": POINT,
    "one point, single mask": POINT | SINGLE,
    "many points": POINTS,
    "many points, single mask": POINTS | SINGLE,
    "box": BOX | SINGLE,
    "box and point": BOX | POINT,
    "normalised coordinates": {
        "point_coords": np.array([[0.4, 0.4]]),
        "point_labels": np.array([1]),
        "normalize_coords": False,
    },
    "batch of boxes": BOXES | SINGLE,
    "batch of boxes, three masks": BOXES,
    "batch of points": POINT_ROWS,
    "nothing": {},
}


class Pair(NamedTuple):
    """Both predictors with the same image set."""

    official: Any
    ours: SAM2ImagePredictor


def features(predictor: Any) -> list[torch.Tensor]:
    return [*predictor._features["high_res_feats"], predictor._features["image_embed"]]


def with_own_attention(predictor: Any, image: np.ndarray) -> list[torch.Tensor]:
    """Features of the official encoder under a harmless change of rounding."""
    with oracle.written_out_attention():
        predictor.set_image(image)
    changed = features(predictor)
    predictor.set_image(image)
    return changed


def predictors(size: str, side: int, *overrides: str) -> tuple[Any, SAM2ImagePredictor]:
    official_model, model = build_pair(size, [f"++model.image_size={side}", *overrides])
    return official_image_predictor(official_model), SAM2ImagePredictor(model)


@pytest.fixture(
    scope="module",
    params=SIZES + SLOW_SIZES,
    ids=lambda size: f"{size[0]}-{size[1]}" + "-narrow" * (size[2:] == NARROW),
)
def pair(request) -> Pair:
    official, ours = predictors(*request.param)
    official.set_image(random_image())
    ours.set_image(random_image())
    return Pair(official, ours)


@pytest.mark.slow
def test_case_is_tame(pair):
    """The oracle must agree with itself far below the tolerance; otherwise a failed comparison means nothing."""
    changed = with_own_attention(pair.official, random_image())
    assert max(map(relative_error, features(pair.official), changed)) < TOLERANCE / 3


def test_image_features(pair):
    names = ("stride 4", "stride 8", "embedding")
    for name, expected, actual in zip(names, features(pair.official), features(pair.ours), strict=True):
        assert relative_error(expected, actual) <= TOLERANCE, name


def assert_same_results(official: Any, ours: Any, check_itself: bool = True, **prompt: Any) -> None:
    """Logits, scores and low-resolution logits agree, and the oracle agrees with itself three times better."""
    names = ("masks", "scores", "low-res logits")
    expected = official.predict(**prompt, return_logits=True)
    if check_itself:
        with oracle.written_out_attention():
            changed = official.predict(**prompt, return_logits=True)
        for name, e, c in zip(names, expected, changed, strict=True):
            assert relative_error(e, c) < TOLERANCE / 3, f"{name}: the case is not tame"
    actual = ours.predict(**prompt, return_logits=True)
    for name, e, a in zip(names, expected, actual, strict=True):
        assert e.dtype == a.dtype
        assert relative_error(e, a) <= TOLERANCE, name


@CHECK_ITSELF
@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
def test_prompts(pair, prompt, check_itself):
    assert_same_results(pair.official, pair.ours, check_itself, **prompt)


@pytest.mark.parametrize("with_point", [False, True], ids=["mask alone", "mask and point"])
def test_mask_input(pair, with_point):
    _, _, low_res = pair.official.predict(**POINT)
    assert_same_results(pair.official, pair.ours, mask_input=low_res[1:2], **(POINT if with_point else {}))


def test_thresholded_masks_have_the_official_dtype_and_values(pair):
    expected, actual = pair.official.predict(**BOXES)[0], pair.ours.predict(**BOXES)[0]
    assert expected.dtype == actual.dtype == np.float32
    assert set(np.unique(actual)) <= {0.0, 1.0}
    assert (expected != actual).mean() < 1e-5  # pixels whose logit is within rounding of the threshold
    assert np.array_equal(actual, pair.ours.predict(**BOXES, return_logits=True)[0] > 0)


@pytest.mark.parametrize(
    ("threshold", "hole", "sprinkle"), [(0.0, 60, 0), (0.0, 0, 60), (0.4, 40, 90)], ids=["holes", "sprinkles", "both"]
)
def test_holes_and_sprinkles(pair, threshold, hole, sprinkle):
    options = {"mask_threshold": threshold, "max_hole_area": hole, "max_sprinkle_area": sprinkle}
    official, ours = (
        official_image_predictor(pair.official.model, **options),
        SAM2ImagePredictor(pair.ours.model, **options),
    )
    for copy, original in ((official, pair.official), (ours, pair.ours)):
        copy.__dict__.update({k: original.__dict__[k] for k in ("_features", "_orig_hw", "_is_image_set", "_is_batch")})
    for point in ([310.0, 240.0], [600.0, 100.0], [40.0, 560.0], [333.0, 333.0]):
        prompt = {"point_coords": np.array([point]), "point_labels": np.array([1]), "return_logits": True}
        plain, expected, actual = (p.predict(**prompt) for p in (pair.official, official, ours))
        # A logit within rounding of the threshold may join or split components: such an image is drawn again.
        if ((expected[2] > threshold) == (actual[2] > threshold)).all():
            break
    else:
        pytest.fail("no prompt without logits at the threshold")
    changed = relative_error(plain[0], expected[0])
    assert changed > 0.01, "the official post-processing changed nothing"
    assert relative_error(expected[0], actual[0]) <= TOLERANCE
    assert np.array_equal(ours.predict(**prompt | {"return_logits": False})[0], actual[0] > threshold)


def test_batches_of_images():
    official, ours = predictors("sam2.1_t", 512, *NARROW)
    images = [random_image(600, 800, seed=1), random_image(500, 333, seed=2)]
    prompts = {
        "point_coords_batch": [np.array([[310.0, 240.0]]), np.array([[[10.0, 20.0]], [[300.0, 400.0]]])],
        "point_labels_batch": [np.array([1]), np.array([[1], [0]])],
    }
    for predictor in (official, ours):
        predictor.set_image_batch(images)
    for expected, actual in zip(features(official), features(ours), strict=True):
        assert relative_error(expected, actual) <= TOLERANCE
    expected, actual = (p.predict_batch(**prompts, return_logits=True) for p in (official, ours))
    for e_list, a_list in zip(expected, actual, strict=True):
        for e, a in zip(e_list, a_list, strict=True):
            assert relative_error(e, a) <= TOLERANCE


@pytest.mark.parametrize("side", [320, 736])
def test_other_image_sizes(side):
    official, ours = predictors("sam2.1_t", side, *NARROW)
    for predictor in (official, ours):
        predictor.set_image(random_image())
    for expected, actual in zip(features(official), features(ours), strict=True):
        assert relative_error(expected, actual) <= TOLERANCE
    assert_same_results(official, ours, **POINT)
