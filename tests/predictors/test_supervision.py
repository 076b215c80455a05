"""The package ``supervision`` accepts the mask generator's records unchanged."""

import numpy as np
import pytest
from painted_model import PaintedModel, generator

from sam2fast.automatic_mask_generator import OUTPUT_MODES, SAM2AutomaticMaskGenerator

# It says so when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:OpenCV .* is not installed")
IMAGE = np.zeros((150, 200, 3), dtype=np.uint8)


def records_of(**options):
    options = {"points_per_side": 6, "pred_iou_thresh": 0.4, "stability_score_thresh": 0.6} | options
    return generator(SAM2AutomaticMaskGenerator, PaintedModel(), **options).generate(IMAGE)


@pytest.mark.parametrize("crops", [0, 1])
@pytest.mark.parametrize("output_mode", OUTPUT_MODES)
def test_detections_from_records(output_mode, crops):
    import supervision

    expected = sorted(records_of(crop_n_layers=crops), key=lambda record: -record["area"])
    assert len(expected) > 5
    detections = supervision.Detections.from_sam(records_of(output_mode=output_mode, crop_n_layers=crops))
    assert len(detections) == len(expected)
    np.testing.assert_array_equal(detections.mask, [record["segmentation"] for record in expected])
    # supervision's boxes end at the last pixel, as the records' do.
    np.testing.assert_array_equal(detections.xyxy, supervision.mask_to_xyxy(detections.mask))
    np.testing.assert_array_equal(detections.area, [record["area"] for record in expected])
