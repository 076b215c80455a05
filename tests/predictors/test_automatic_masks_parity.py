"""Automatic masks of whole models against the official generator, live, on identical tame weights.

Random weights give masks that fill the image, so NMS and the score filters are off; ``test_automatic_masks.py`` has
those.
"""

from typing import Any, NamedTuple

import numpy as np
import oracle
import pytest
from mask_records import assert_same_masks
from numpy.typing import NDArray
from parity import CHECK_ITSELF, NARROW, build_pair, random_image
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator as OfficialGenerator

from sam2fast.automatic_mask_generator import SAM2AutomaticMaskGenerator

ALL = {
    "points_per_side": None,
    "pred_iou_thresh": 0.0,
    "stability_score_thresh": 0.0,
    "box_nms_thresh": 1.0,
    "crop_nms_thresh": 1.0,
}
POINTS = np.random.default_rng(0).random((4, 2))
CASES = {
    "three masks a point": {},
    "one mask a point": {"multimask_output": False},
    "m2m": {"use_m2m": True},
    "small regions": {"min_mask_region_area": 40},
    "small regions, m2m, thresholds": {
        "min_mask_region_area": 40,
        "use_m2m": True,
        "mask_threshold": 0.2,
        "stability_score_offset": 0.1,
    },
    "filters": {"pred_iou_thresh": 0.42, "stability_score_thresh": 0.05},
}


class Pair(NamedTuple):
    """Both models, the image, and its features."""

    official: Any
    ours: Any
    image: NDArray[np.uint8]
    features: dict[str, dict[str, Any]]


def remember_features(predictor: Any, known: dict[str, Any]) -> None:
    """The encoder runs once for all tests of a model."""
    encode = predictor.set_image

    def set_image(image: np.ndarray) -> None:
        if not known:
            encode(image)
            known.update(predictor._features)
        predictor._features, predictor._orig_hw = dict(known), [image.shape[:2]]
        predictor._is_image_set, predictor._is_batch = True, False

    predictor.set_image = set_image


def pair_of(side: int, image: NDArray[np.uint8], *overrides: str) -> Pair:
    models = build_pair("sam2.1_t", [f"++model.image_size={side}", *overrides])
    return Pair(*models, image, {"official": {}, "ours": {}})


@pytest.fixture(scope="module", params=[256, pytest.param(1024, marks=pytest.mark.slow)])
def pair(request) -> Pair:
    return pair_of(request.param, random_image(*(side * request.param // 1024 for side in (600, 800))))


def generators(pair: Pair, **options: Any) -> tuple[Any, Any]:
    options = ALL | {"point_grids": [POINTS]} | options
    official, ours = OfficialGenerator(pair.official, **options), SAM2AutomaticMaskGenerator(pair.ours, **options)
    side = pair.official.image_size  # the official predictor knows the maps of 1024
    official.predictor._bb_feat_sizes = [(side // stride, side // stride) for stride in (4, 8, 16)]
    remember_features(official.predictor, pair.features["official"])
    remember_features(ours.predictor, pair.features["ours"])
    return official, ours


def compare(pair: Pair, check_itself: bool, **options: Any) -> None:
    official, ours = generators(pair, **options)
    expected = official.generate(pair.image)
    if check_itself:
        with oracle.written_out_attention():
            assert_same_masks(expected, official.generate(pair.image))
    assert len(expected) > 2
    assert_same_masks(expected, ours.generate(pair.image))


@CHECK_ITSELF
@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_masks(pair, options, check_itself):
    compare(pair, check_itself, **options)


@CHECK_ITSELF
def test_the_usual_size(check_itself):
    compare(pair_of(1024, random_image(300, 400), *NARROW), check_itself, **CASES["one mask a point"])


def test_small_regions_are_removed_by_both(pair):
    plain, filled = (generators(pair, min_mask_region_area=area) for area in (0, 40))
    for before, after in zip(plain, filled, strict=True):
        pairs = zip(before.generate(pair.image), after.generate(pair.image), strict=True)
        assert sum(a["area"] != b["area"] for a, b in pairs) > 6


def test_filters_remove_some(pair):
    some, every = (len(generators(pair, **options)[0].generate(pair.image)) for options in (CASES["filters"], {}))
    assert some < every == 12


@pytest.mark.slow
@pytest.mark.parametrize("size", ["sam2.1_t", "sam2_b+"])
def test_crops(size):
    """The image is so small that crop edges count as its own; otherwise masks that fill a crop would go."""
    models = build_pair(size)
    options = ALL | {"point_grids": [POINTS, POINTS[:2]], "crop_n_layers": 1, "use_m2m": True}
    expected, actual = (
        kind(model, **options).generate(random_image(50, 54))
        for kind, model in zip((OfficialGenerator, SAM2AutomaticMaskGenerator), models, strict=True)
    )
    assert len(expected) == 3 * (4 + 4 * 2)
    assert_same_masks(expected, actual)
