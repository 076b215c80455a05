"""Real weights on real photographs: the published scores, and the official package's masks."""

import numpy as np
import oracle  # noqa: F401  (makes the official package importable)
import pytest
import torch
from PIL import Image
from sam2.build_sam import build_sam2 as official_build_sam2
from sam2.sam2_image_predictor import SAM2ImagePredictor as OfficialPredictor

from sam2fast import SAM2ImagePredictor, build_sam2
from sam2fast.utils.testing import mask_iou

pytestmark = pytest.mark.weights
CONFIG = "configs/sam2/sam2_hiera_t.yaml"
POINT = {"point_coords": np.array([[500, 375]]), "point_labels": np.array([1])}
WHEEL = {"box": np.array([425, 600, 700, 875]), "multimask_output": False}


@pytest.fixture(scope="module")
def truck(data_folder):
    return np.array(Image.open(data_folder / "images" / "truck.jpg"))


@pytest.fixture(scope="module")
def official(checkpoint, truck):
    model = official_build_sam2(CONFIG, None, device="cpu")
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["model"], strict=False)
    predictor = OfficialPredictor(model)
    predictor.set_image(truck)
    return predictor


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def ours(request, checkpoint, truck):
    predictor = SAM2ImagePredictor(build_sam2(CONFIG, checkpoint, device="cpu", dtype=request.param))
    predictor.set_image(truck)
    return predictor


def tolerances(predictor):
    fp32 = predictor.model.image_encoder.trunk.patch_embed.proj.weight.dtype == torch.float32
    return (0.999, 0.001) if fp32 else (0.98, 0.03)


def test_point_on_the_window(official, ours):
    iou, score = tolerances(ours)
    expected, actual = official.predict(**POINT), ours.predict(**POINT)
    assert actual[1] == pytest.approx([0.046, 0.920, 0.523], abs=max(score, 0.0006))
    assert actual[1] == pytest.approx(expected[1], abs=score)
    best = expected[1].argmax()
    assert mask_iou(expected[0][best], actual[0][best]) >= iou


def test_box_around_the_wheel(official, ours):
    iou, score = tolerances(ours)
    expected, actual = official.predict(**WHEEL), ours.predict(**WHEEL)
    assert actual[1] == pytest.approx([0.968], abs=max(score, 0.0006))
    assert mask_iou(expected[0], actual[0]) >= iou


def test_features_agree(official, ours):
    from sam2fast.utils.testing import relative_error

    limit = 1e-4 if tolerances(ours)[0] == 0.999 else 0.5
    assert relative_error(official.get_image_embedding(), ours.get_image_embedding()) <= limit
