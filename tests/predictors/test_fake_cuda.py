"""The CUDA path of the image predictor, on fake CUDA tensors."""

import logging
from functools import partial

import fake_cuda
import numpy as np
import pytest
import torch
from PIL import Image

from sam2fast.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2fast.build_sam import build_sam2
from sam2fast.engine import replay
from sam2fast.engine.graphs import AHEAD, AWAITED
from sam2fast.kernels._dispatch import backend
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.utils.async_copies import copy_to_device

NANO = "configs/nano/sam2fast_nano.yaml"

# Models of a few layers, whose weights have no values.
build = partial(fake_cuda.build, build_sam2, NANO, hydra_overrides_extra=fake_cuda.SHALLOW)
# The only wait of a prediction: for the copy of its results.
RESULTS = "waits", "sam2fast/utils/async_copies.py"

IMAGE = fake_cuda.frames(1)[0]
POINT = {"point_coords": np.array([[20.0, 40.0]]), "point_labels": np.array([1])}
POINTS = {"point_coords": np.full((3, 2, 2), 30.0), "point_labels": np.ones((3, 2))}
BOX = {"box": [10, 10, 60, 50]}


@pytest.fixture
def cuda():
    with fake_cuda.fake_cuda() as mode:
        yield mode


def check_answer(seen, count=1):
    """Each of ``count`` predictions waits once, for one pinned copy."""
    seen.check(RESULTS)
    down = [copy for copy in seen.copies if not copy.to_device]
    assert len(seen.faults) == len(down) == count and all(copy.is_pinned for copy in down)


def test_an_image(cuda):
    predictor = SAM2ImagePredictor(build(dtype=torch.bfloat16))
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
    one = {"multimask_output": False}
    ragged = {"point_coords": [[[30, 30]], [[20, 20], [40, 40]]], "point_labels": [[1], [1, 0]]}
    modes = [{**POINTS, "output_mode": mode} for mode in ("bool", "low_res")]
    for prompt in (POINT, POINTS, {**POINT, **BOX, **one}, {**BOX, **mask}, ragged, *modes):
        with cuda.watched() as seen:
            masks, ious, low_res = predictor.predict(**prompt)
        check_answer(seen)
        size = low_res.shape[-2:] if prompt.get("output_mode") == "low_res" else IMAGE.shape[:2]
        (copied,) = [copy.bytes for copy in seen.copies if not copy.to_device]
        bits = masks[..., :1].size * -(-size[1] // 8)
        assert copied == bits + 4 * (low_res.size + ious.size), "logits and scores are fp32"
        assert masks.shape[-2:] == size and masks.dtype == (bool if "output_mode" in prompt else np.float32)
        assert all(x.flags.owndata for x in (masks, ious, low_res)) and low_res.dtype == ious.dtype == np.float32
    with cuda.watched() as seen:  # fp32 logits are copied as they are
        masks, ious, low_res = predictor.predict(**POINT, return_logits=True)
    seen.check(RESULTS, ("blocking copy", " _results: "))
    assert masks.shape[-2:] == IMAGE.shape[:2] and low_res.shape[-1] == side and masks.dtype == np.float32


def test_holes_and_sprinkles(cuda):
    predictor = SAM2ImagePredictor(build(), max_hole_area=8, max_sprinkle_area=8)
    predictor.set_image(IMAGE)
    with cuda.watched() as seen:
        predictor.predict(**POINT)
    check_answer(seen)
    assert seen.launches["_merge_kernel"]


def test_a_batch(cuda):
    predictor = SAM2ImagePredictor(build())
    for images, replays in ([IMAGE, IMAGE[:50]] * 4, 1), ([IMAGE, IMAGE[:50], IMAGE], 0), ([IMAGE, IMAGE[:50]], 1):
        with cuda.watched() as seen:
            predictor.set_image_batch(images)
        seen.check()
        assert seen.replays == replays
    with cuda.watched() as seen:
        predictor.predict_batch([POINT["point_coords"]] * 2, [POINT["point_labels"]] * 2)
    check_answer(seen, 2)


# ---- recordings ----


@pytest.fixture
def predictor(cuda):
    return SAM2ImagePredictor(build())


def test_an_image_and_a_click_are_a_replay_each(cuda, predictor):
    """Without a wait but for the results; the first time they are recorded, and replayed, too."""
    for _ in range(3):
        for call, faults in ((lambda: predictor.set_image(IMAGE), 0), (lambda: predictor.predict(**POINT), 1)):
            with cuda.watched() as seen:
                call()
            seen.check(RESULTS)
            assert seen.replays == 1 and len(seen.faults) == faults
            assert seen.replayed[0].priority == AWAITED < AHEAD
    with cuda.watched() as seen:
        features = predictor.encode(IMAGE)
        predictor.predict(**BOX, features=features)
        predictor.predict(**POINT, features=features)
    assert seen.replays == 3


def test_batches_of_automatic_masks_are_replays(cuda, predictor):
    """If they are full, which is 64 points. What is left runs eagerly."""
    generator = SAM2AutomaticMaskGenerator(predictor.model)
    generator.predictor.set_image(IMAGE)
    for count, replays in ((64, 1), (16, 0), (64, 1)):
        points = torch.zeros(count, 2, device=fake_cuda.GPU)
        with cuda.watched() as seen, torch.no_grad():
            generator._predict(points, None, True)
        seen.check()
        assert seen.replays == replays


def test_where_nothing_is_recorded(cuda, predictor):
    def replays():
        with cuda.watched() as seen:
            predictor.set_image(IMAGE)
            predictor.predict(**POINT)
        return seen.replays

    assert replays() == 2
    predictor.fast = False
    assert replays() == 0
    predictor.fast = None
    with backend("torch"):
        assert replays() == 0
        predictor.fast = True
        with pytest.raises(RuntimeError, match="fast is True, but the active backend"):
            predictor.set_image(IMAGE)
    hook = predictor.model.sam_mask_decoder.register_forward_hook(lambda *given: None)
    assert replays() == 1, "the encoding"
    hook.remove()
    assert replays() == 2


def test_prompts_on_the_cpu_are_refused_as_ever(cuda, predictor):
    """Also where the same shape is recorded, into whose input they could be copied."""
    predictor.set_image(IMAGE)
    point = torch.zeros(1, 1, 2, device=fake_cuda.GPU), torch.ones(1, 1, device=fake_cuda.GPU)
    predictor._predict_low_res(*point)
    with cuda.watched() as seen, pytest.raises(RuntimeError):
        predictor._predict_low_res(torch.zeros(1, 1, 2, device="cpu"), torch.ones(1, 1, device="cpu"))
    assert seen.replays == 0


def test_another_stream(cuda, predictor, monkeypatch):
    """It waits for the last replay, and the memory of the input is not used again before its own."""
    predictor.set_image(IMAGE)
    waited, used, other = [], [], fake_cuda.Stream()
    monkeypatch.setattr(fake_cuda.Stream, "wait_event", lambda self, event: waited.append(self))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: used.append((self, stream)))
    predictor.set_image(IMAGE)
    assert not waited
    with torch.cuda.stream(other):
        predictor.set_image(IMAGE)
    (x,) = replay.graph_calls_of(predictor.model)._inputs.values()
    assert waited == [other] and any(one is x and stream is other for one, stream in used)
    predictor.release_recordings()
    assert waited[1:] == [cuda.stream], "weights may be written next"


def test_a_model_that_is_moved_leaves_nothing(cuda, predictor, caplog):
    predictor.set_image(IMAGE)
    assert predictor.model in replay._by_model
    with caplog.at_level(logging.WARNING):
        predictor.model.to("meta")
        assert not replay._may_record(predictor.model, None)
    assert predictor.model not in replay._by_model and not caplog.records


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
