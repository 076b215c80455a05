"""``propagate_both``: two passes as one, each frame once, and each object from its own first prompt on."""

import numpy as np
import pytest
import torch

from sam2fast.build_sam import build_sam2_video_predictor_hf

HEIGHT = WIDTH = 64
LENGTH = 9


@pytest.fixture(scope="module")
def predictor():
    smaller = ["++model.image_size=128"]
    return build_sam2_video_predictor_hf("sam2fast/nano", device="cpu", hydra_overrides_extra=smaller)


def clip():
    """Two squares that move towards each other."""
    frames = np.full((LENGTH, HEIGHT, WIDTH, 3), 40, np.uint8)
    for t in range(LENGTH):
        frames[t, 10:26, 4 + 3 * t : 20 + 3 * t] = (220, 60, 60)
        frames[t, 38:54, 44 - 3 * t : 60 - 3 * t] = (60, 220, 60)
    return frames


def prompted(predictor, places):
    state = predictor.init_state(clip())
    for obj_id, frame in places.items():
        x = 12 + 3 * frame if obj_id == "red" else 52 - 3 * frame
        predictor.add_new_points_or_box(state, frame, obj_id, [[x, 18 if obj_id == "red" else 46]], [1])
    return state


def test_one_prompted_frame_is_two_passes(predictor):
    found = list(predictor.propagate_both(prompted(predictor, {"red": 4, "green": 4}), progress=False))
    state = prompted(predictor, {"red": 4, "green": 4})
    forward = list(predictor.propagate_in_video(state, progress=False))
    backward = list(predictor.propagate_in_video(state, reverse=True, progress=False))[1:]
    assert [item[0] for item in found] == [4, 5, 6, 7, 8, 3, 2, 1, 0]
    for (frame, ids, masks), (other_frame, other_ids, others) in zip(found, forward + backward, strict=True):
        assert (frame, ids) == (other_frame, other_ids) and torch.equal(masks, others)


def test_each_object_begins_at_its_own_prompt(predictor):
    places = {"red": 2, "green": 5}
    options = {"return_scores": True, "progress": False, "output": "low_res"}
    found = list(predictor.propagate_both(prompted(predictor, places), **options))
    state = prompted(predictor, places)
    forward = {item[0]: item[2:] for item in predictor.propagate_in_video(state, 2, **options)}
    backward = {item[0]: item[2:] for item in predictor.propagate_in_video(state, 5, reverse=True, **options)}
    assert [item[0] for item in found] == [5, 6, 7, 8, 4, 3, 2, 1, 0]
    for frame, ids, masks, scores in found:
        assert ids == ["red", "green"]
        for row, obj_id in enumerate(ids):
            masks_of_pass, scores_of_pass = (forward if frame >= places[obj_id] else backward)[frame]
            assert torch.equal(masks[row], masks_of_pass[row])
            assert torch.equal(scores.iou[row], scores_of_pass.iou[row])
    assert not torch.equal(forward[4][0], backward[4][0])  # so that the choice shows


def test_the_first_frame_needs_no_second_pass(predictor):
    found = predictor.propagate_both(prompted(predictor, {"red": 0}), progress=False, lag=1)
    assert [item[0] for item in found] == list(range(LENGTH))


def test_errors(predictor):
    with pytest.raises(RuntimeError, match="[Nn]o"):
        next(predictor.propagate_both(predictor.init_state(clip())))
    with pytest.raises(TypeError, match="session"):
        next(predictor.propagate_both(None))
    state = prompted(predictor, {"red": 1})
    assert state["output_dict_per_obj"]
    with pytest.raises(RuntimeError, match="call propagate_in_video, and again with reverse=True"):
        next(predictor.propagate_both(state))
