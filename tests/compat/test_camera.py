"""The camera predictor of forks, with their programs' calls, compared with a stream."""

import inspect

import cv2
import numpy as np
import pytest
import torch
from parity import NARROW
from small_video import SIZE, video_frames
from video import SMALL, Record, build_video_pair, clip, compare, float32_memory, jpeg_folder

from sam2fast.build_sam import build_sam2_camera_predictor
from sam2fast.compat.camera import SAM2CameraPredictor, resize_as_opencv
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


@pytest.mark.parametrize("size", [(480, 640), (1080, 1920), (128, 128), (333, 517), (31, 2000), (1, 1), (7, 5)])
@pytest.mark.parametrize("side", [256, 1024])
def test_arrays_are_resized_as_by_opencv(size, side):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert np.array_equal(resize_as_opencv(image, side), cv2.resize(image, (side, side)))


def forks_answers(official, frames, folder):
    """The forks' masks by the official methods: resized by OpenCV, and tracked with the forks' memories."""
    state = official.init_state(str(jpeg_folder(folder, frames[:1])))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = [torch.from_numpy(cv2.resize(frame, (SMALL, SMALL)) / 255).float() for frame in frames]
    state["images"] = torch.stack([((x - mean) / std).permute(2, 0, 1) for x in pixels])
    state["cached_features"] = {}  # of the JPEG file
    answers = [official.add_new_points_or_box(state, 0, 1, [[60, 50]], [1])]
    official.propagate_in_video_preflight(state)
    outputs = state["output_dict_per_obj"][0]
    for t in range(1, len(frames)):
        state["num_frames"] = t + 1  # so far
        found, masks = official._run_single_frame_inference(
            state, outputs, t, batch_size=1, is_init_cond_frame=False, point_inputs=None, mask_inputs=None,
            reverse=False, run_mem_encoder=True,
        )  # fmt: skip
        outputs["non_cond_frame_outputs"][t] = found
        outputs["non_cond_frame_outputs"].pop(t - official.num_maskmem, None)
        answers.append((t, [1], official._get_orig_video_res_output(state, masks)[1]))
    return [Record("", frame, list(ids), masks.clone()) for frame, ids, masks in answers]


def test_masks_are_the_forks(tmp_path):
    """On more frames than there are object pointers."""
    official, ours = build_video_pair("sam2.1_t", NARROW, image_size=SMALL)
    camera, frames = SAM2CameraPredictor(ours), clip(20, 90, 120)
    with float32_memory(), torch.inference_mode():
        expected = forks_answers(official, frames, tmp_path)
    camera.load_first_frame(frames[0])
    answers = [camera.add_new_prompt(0, 1, [[60, 50]], [1])]
    answers += [(t, *camera.track(frame)) for t, frame in enumerate(frames[1:], 1)]
    compare(expected, [Record("", frame, list(ids), masks) for frame, ids, masks in answers])
    plain = ours.open_stream()
    plain.step(frames[0])
    plain.add_new_points_or_box(1, [[60, 50]], [1])
    assert not torch.allclose(plain.step(frames[1]).masks, answers[1][2], atol=1e-3)
