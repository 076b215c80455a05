"""The CUDA path of the image predictor, on fake CUDA tensors."""

import fake_cuda
import numpy as np
import pytest
import torch
from PIL import Image

from sam2fast.build_sam import build_sam2
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.utils.async_copies import copy_to_device

NANO, TINY = "configs/nano/sam2fast_nano.yaml", "configs/sam2.1/sam2.1_hiera_t.yaml"

# The only copies that a prediction waits for: those of its three results.
RESULTS = "blocking copy", " _to_numpy: "

IMAGE = fake_cuda.frames(1)[0]
POINT = {"point_coords": np.array([[20.0, 40.0]]), "point_labels": np.array([1])}
POINTS = {"point_coords": np.full((3, 2, 2), 30.0), "point_labels": np.ones((3, 2))}
BOX = {"box": [10, 10, 60, 50]}


@pytest.fixture
def cuda():
    with fake_cuda.fake_cuda() as mode:
        yield mode


def check_answer(seen, count=1):
    seen.check(RESULTS)
    assert len(seen.faults) == 3 * count


@pytest.mark.parametrize(("config", "dtype"), [(NANO, None), (TINY, torch.bfloat16)])
def test_an_image(cuda, config, dtype):
    predictor = SAM2ImagePredictor(fake_cuda.build(build_sam2, config, dtype=dtype))
    for image in (
        IMAGE,
        IMAGE / 255.0,
        IMAGE[..., 0],
        Image.fromarray(IMAGE),
        torch.from_numpy(IMAGE).permute(2, 0, 1),
    ):
        with cuda.watched() as seen:
            predictor.set_image(image)
        seen.check()
        assert seen.launches["_resize_and_normalise_kernel"] == 1
    side = predictor.model.sam_prompt_encoder.mask_input_size[0]
    mask = {"mask_input": np.zeros((1, side, side))}
    one, logits = {"multimask_output": False}, {"return_logits": True}
    for prompt in (POINT, POINTS, {**POINT, **BOX, **one}, {**BOX, **mask}, {**POINT, **logits}):
        with cuda.watched() as seen:
            masks, ious, low_res = predictor.predict(**prompt)
        check_answer(seen)
        assert masks.shape[-2:] == IMAGE.shape[:2] and low_res.shape[-1] == side and masks.dtype == np.float32


def test_holes_and_sprinkles(cuda):
    predictor = SAM2ImagePredictor(fake_cuda.build(build_sam2, NANO), max_hole_area=8, max_sprinkle_area=8)
    predictor.set_image(IMAGE)
    with cuda.watched() as seen:
        predictor.predict(**POINT)
    check_answer(seen)
    assert seen.launches["_merge_kernel"]


def test_a_batch(cuda):
    predictor = SAM2ImagePredictor(fake_cuda.build(build_sam2, NANO))
    with cuda.watched() as seen:
        predictor.set_image_batch([IMAGE, IMAGE[:50]])
    seen.check()
    with cuda.watched() as seen:
        predictor.predict_batch([POINT["point_coords"]] * 2, [POINT["point_labels"]] * 2)
    check_answer(seen, 2)


@pytest.mark.parametrize("pinned", [False, True])
def test_uploads(cuda, pinned):
    """Keeps the strides of the tensor, and does not read memory that the caller may overwrite."""
    x = torch.zeros(3, 4, 5, device="cpu", pin_memory=pinned).permute(1, 2, 0)
    with cuda.watched() as seen:
        out = copy_to_device(x, fake_cuda.GPU)
    seen.check()
    assert out.is_cuda and out.shape == x.shape and out.stride() == x.stride()
    assert len(cuda._pinned) == 1 + pinned
    assert copy_to_device(x, "cpu") is x and copy_to_device(out, fake_cuda.GPU) is out
