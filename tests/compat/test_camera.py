"""The camera predictor of forks, with their programs' calls, compared with a stream."""

import inspect

import numpy as np
import pytest
import torch
from small_video import SIZE, video_frames

from sam2fast.build_sam import build_sam2_camera_predictor
from sam2fast.compat.camera import SAM2CameraPredictor
from sam2fast.utils.embedded import EMBEDDED
from sam2fast.video_io import VideoError

FRAMES = video_frames(6)
BOX = np.array([[10, 20], [50, 60]], dtype=np.float32)


@pytest.fixture(scope="module")
def predictor():
    nano = EMBEDDED["sam2fast/nano"]
    overrides = [f"++model.image_size={SIZE}"]
    return build_sam2_camera_predictor(nano.config, nano.weights, "cpu", hydra_overrides_extra=overrides)


def test_masks_are_those_of_a_stream(predictor):
    """With boxes, clicks and a mask, and an object that comes later, on a frame added for it."""
    mask = np.zeros((SIZE, SIZE), bool)
    mask[80:105, 80:105] = True
    stream = predictor.open_stream()
    stream.step(FRAMES[0])
    expected = [
        stream.add_new_points_or_box("disc", box=BOX.flatten()),
        stream.add_new_points_or_box("disc", [[30, 40]], [1], clear_old_points=False),
        stream.add_new_mask("square", mask),
        stream.step(FRAMES[1]),
    ]
    stream.step(FRAMES[2])
    expected.append(stream.add_new_points_or_box("late", [[0.5, 0.5]], [1], normalize_coords=False))
    expected.append(stream.step(FRAMES[3]))

    predictor.load_first_frame(FRAMES[0])
    answers = [
        predictor.add_new_prompt(frame_idx=0, obj_id="disc", bbox=BOX),
        predictor.add_new_points(0, "disc", [[30, 40]], [1], False),
        predictor.add_new_mask(frame_idx=0, obj_id="square", mask=mask),
        (1, *predictor.track(FRAMES[1])),
    ]
    predictor.add_conditioning_frame(FRAMES[2])
    current = predictor.condition_state["num_frames"] - 1
    answers.append(predictor.add_new_prompt(current, "late", [[0.5, 0.5]], [1], normalize_coords=False))
    answers.append((3, *predictor.track(FRAMES[3])))
    for (frame, ids, masks), result in zip(answers, expected, strict=True):
        assert (frame, ids) == (result.frame, result.obj_ids) and torch.equal(masks, result.masks)
    assert predictor.condition_state == {
        "obj_ids": ["disc", "square", "late"], "num_frames": 4, "video_height": SIZE, "video_width": SIZE,
    }  # fmt: skip


def test_a_new_object_by_its_box_joins_others_without_clearing(predictor):
    """As Roboflow's inference calls it."""
    predictor.load_first_frame(FRAMES[0])
    for obj_id, box in enumerate([[[10, 20, 50, 60]], torch.tensor([88, 78, 117, 107])]):
        _, ids, masks = predictor.add_new_prompt(
            frame_idx=0, obj_id=obj_id, bbox=box, clear_old_points=False, normalize_coords=True
        )
    assert ids == [0, 1] and (masks > 0).flatten(1).any(1).all()
    with pytest.raises(ValueError, match="a box cannot join earlier points"):
        predictor.add_new_prompt(0, 0, bbox=BOX, clear_old_points=False)
    predictor.reset_state()
    assert predictor.condition_state["obj_ids"] == [] and predictor.condition_state["num_frames"] == 1
    predictor.load_first_frame(FRAMES[1])
    assert predictor.track(FRAMES[2])[1].shape == (0, 1, SIZE, SIZE)


def test_errors(predictor):
    fresh = SAM2CameraPredictor(predictor.predictor)
    assert fresh.condition_state == {}
    for call in (lambda: fresh.track(FRAMES[0]), lambda: fresh.add_new_prompt(0, 1, bbox=BOX)):
        with pytest.raises(RuntimeError, match="load_first_frame"):
            call()
    with pytest.raises(FileNotFoundError):
        fresh.load_first_frame("nowhere.jpg")
    assert fresh.condition_state == {}
    fresh.load_first_frame(FRAMES[0])
    with pytest.raises(ValueError, match="the current frame, 0"):
        fresh.add_new_points(3, 1, [[1, 1]], [1])
    with pytest.raises(VideoError, match="64x64"):
        fresh.track(FRAMES[0][:64, :64])


def test_it_is_a_module_with_the_predictors_attributes_and_the_forks_parameters(predictor):
    assert predictor.to("cpu").eval() is predictor and not predictor.training
    assert predictor.image_size == SIZE and predictor.device == torch.device("cpu")
    with pytest.raises(AttributeError, match="nothing"):
        getattr(predictor, "nothing")  # noqa: B009
    taken = inspect.signature(SAM2CameraPredictor.add_new_prompt).parameters
    assert [*taken][1:] == ["frame_idx", "obj_id", "points", "labels", "bbox", "clear_old_points", "normalize_coords"]
