"""Automatic masks of whole models against the official generator, live, on identical tame weights at 1024x1024.

Random weights give masks that fill the image, so NMS and the score filters are off; what they do is compared on painted
masks in ``test_automatic_masks.py``.
"""

from typing import Any, NamedTuple

import numpy as np
import oracle
import pytest
from mask_records import assert_same_masks
from parity import build_pair, picture
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
    """Both models, and what their encoders made of the picture."""

    official: Any
    ours: Any
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


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair(*build_pair("sam2.1_t"), {"official": {}, "ours": {}})


def generators(pair: Pair, **options: Any) -> tuple[Any, Any]:
    options = ALL | {"point_grids": [POINTS]} | options
    official, ours = OfficialGenerator(pair.official, **options), SAM2AutomaticMaskGenerator(pair.ours, **options)
    remember_features(official.predictor, pair.features["official"])
    remember_features(ours.predictor, pair.features["ours"])
    return official, ours


@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_masks(pair, options):
    official, ours = generators(pair, **options)
    expected = official.generate(picture())
    with oracle.written_out_attention():
        assert_same_masks(expected, official.generate(picture()))  # or the comparison would show nothing
    assert len(expected) > 2
    assert_same_masks(expected, ours.generate(picture()))


def test_small_regions_are_removed_by_both(pair):
    plain, filled = (generators(pair, min_mask_region_area=area) for area in (0, 40))
    for before, after in zip(plain, filled, strict=True):
        pairs = zip(before.generate(picture()), after.generate(picture()), strict=True)
        assert sum(a["area"] != b["area"] for a, b in pairs) > 6


def test_filters_drop_some(pair):
    some, every = (len(generators(pair, **options)[0].generate(picture())) for options in (CASES["filters"], {}))
    assert some < every == 12


@pytest.mark.slow
@pytest.mark.parametrize("size", ["sam2.1_t", "sam2_b+"])
def test_crops(size):
    """In a picture so small that the crops' edges count as its own, else these masks, which fill crops, would go."""
    models = build_pair(size)
    options = ALL | {"point_grids": [POINTS, POINTS[:2]], "crop_n_layers": 1, "use_m2m": True}
    expected, actual = (
        kind(model, **options).generate(picture(50, 54))
        for kind, model in zip((OfficialGenerator, SAM2AutomaticMaskGenerator), models, strict=True)
    )
    assert len(expected) == 3 * (4 + 4 * 2)
    assert_same_masks(expected, actual)
