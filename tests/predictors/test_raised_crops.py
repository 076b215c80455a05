"""``crop_n_layers`` that is raised after the construction, which is an IndexError in the original."""

import numpy as np
import pytest
from painted_model import PaintedModel, generator

from sam2fast.automatic_mask_generator import SAM2AutomaticMaskGenerator

OPTIONS = {"points_per_side": 6, "pred_iou_thresh": 0.4, "stability_score_thresh": 0.6}
IMAGE = np.zeros((150, 200, 3), dtype=np.uint8)


def ours(**options):
    return generator(SAM2AutomaticMaskGenerator, PaintedModel(), **(OPTIONS | options))


def assert_same(actual, expected):
    assert len(actual) == len(expected) > 0
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_equal(a, b)


@pytest.mark.parametrize("factor", [1, 2])
def test_records_are_those_of_the_constructor(factor):
    expected = ours(crop_n_layers=2, crop_n_points_downscale_factor=factor)
    raised, done = ours(crop_n_points_downscale_factor=factor), []
    before = raised.generate(IMAGE)
    raised.crop_n_layers, raised.progress = 2, lambda *x: done.append(x)
    assert_same(raised.generate_batch([IMAGE])[0], expected.generate(IMAGE))
    assert done[-1] == (done[-1][1],) * 2
    raised.crop_n_layers = 0
    assert_same(raised.generate(IMAGE), before)


def test_explicit_grids_name_what_is_missing():
    generator = ours(points_per_side=None, point_grids=[np.array([[0.5, 0.5]])])
    generator.crop_n_layers = 1
    with pytest.raises(ValueError, match="point_grids holds 1 grids, but crop_n_layers 1 needs 2"):
        generator.generate(IMAGE)
