"""Automatic masks with real weights on real photographs, with the defaults, against the official generator."""

import numpy as np
import oracle  # noqa: F401  (makes the official package importable)
import pytest
import torch
from mask_records import IOU, assert_same_mask, match, near_threshold
from PIL import Image
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator as OfficialGenerator
from sam2.build_sam import build_sam2 as official_build_sam2

from sam2fast import build_sam2
from sam2fast.automatic_mask_generator import SAM2AutomaticMaskGenerator

pytestmark = [pytest.mark.weights, pytest.mark.slow]
CONFIG = "configs/sam2/sam2_hiera_t.yaml"


@pytest.mark.parametrize("name", ["truck.jpg", "cars.jpg", "groceries.jpg"])
def test_photographs(checkpoint, data_folder, name):
    """A mask may be missing on one side only if it lies at a threshold, within rounding; which one is printed."""
    image = np.array(Image.open(data_folder / "images" / name).convert("RGB"))
    model = official_build_sam2(CONFIG, None, device="cpu")
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"], strict=False)
    official = OfficialGenerator(model)
    ours = SAM2AutomaticMaskGenerator(build_sam2(CONFIG, checkpoint, device="cpu"))
    expected, actual = official.generate(image), ours.generate(image)
    assert len(expected) > 20

    matching = match(expected, actual, least=IOU)
    for i, j, _ in matching.pairs:
        assert_same_mask(expected[i], actual[j])
    names = ("pred_iou_thresh", "stability_score_thresh", "box_nms_thresh")
    thresholds = {name: getattr(official, name) for name in names}
    for side, unmatched, mine, others in (
        ("official", matching.left, expected, actual),
        ("ours", matching.right, actual, expected),
    ):
        for i in unmatched:
            threshold = near_threshold(mine[i], others, thresholds)
            print(f"{name}: only {side} has the mask at {mine[i]['point_coords']}, at {threshold}")
            assert threshold is not None
    # What both have is in the same order, but for scores that are equal within rounding.
    order = [actual[j]["predicted_iou"] for _, j, _ in sorted(matching.pairs)]
    assert all(a >= b - 1e-4 for a, b in zip(order[:-1], order[1:], strict=True))
