"""Wrong calls and internal failures change nothing; defects of the original are absent."""

import numpy as np
import pytest
from comparable import snapshot
from video import Session, clip, jpeg_folder

from sam2fast.tracking import outputs
from sam2fast.video_io import VideoError

# Prompts are encoded at the next propagation, and removing them needs no model.
NOT_NEEDED = {(call, "encode_memory") for call in ("prompt", "new object", "mask")} | {
    (call, part) for call in ("clear", "remove") for part in ("predict_objects", "encode_memory", "encode_image")
}
BREAKABLE = ["predict_objects", "encode_memory", "encode_image", "video_logits"]


@pytest.mark.parametrize("part", BREAKABLE)
@pytest.mark.parametrize("call", ["prompt", "new object", "mask", "clear", "remove", "propagate"])
def test_a_failure_inside_changes_nothing(part, call, tracked, monkeypatch):
    """For example out of memory: the state is unchanged, and the same call works afterwards."""
    p, state = tracked.predictor, tracked.state
    tracked.points(4, "b", (50, 50, 1))
    calls = {
        "prompt": lambda: p.add_new_points_or_box(state, 6, "a", [[60, 40]], [1]),
        "new object": lambda: p.add_new_points_or_box(state, 6, "n", [[60, 40]], [1]),
        "mask": lambda: p.add_new_mask(state, 6, "a", np.ones((9, 12))),
        "clear": lambda: p.clear_all_prompts_in_frame(state, 4, "b"),
        "remove": lambda: p.remove_object(state, "b"),
        "propagate": lambda: next(p.propagate_in_video(state, 5)),
    }
    if call == "propagate":  # without the preflight, which changes the state even if the frame fails
        p.propagate_in_video_preflight(state)
    state.features.kept.clear()
    before = snapshot(state)

    def fail(*args, **kwargs):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as m:
        m.setattr(outputs if part == "video_logits" else p, part, fail)
        if (call, part) in NOT_NEEDED:
            calls[call]()
            return
        with pytest.raises(RuntimeError, match="out of memory"):
            calls[call]()
    assert snapshot(state) == before
    calls[call]()


def test_preflight_requires_a_prompt_for_every_object(video_predictor, video):
    state = video_predictor.init_state(video)
    with pytest.raises(RuntimeError, match="no object to track"):
        next(video_predictor.propagate_in_video(state))
    video_predictor.add_new_points_or_box(state, 0, "a", [[60, 40]], [1])
    video_predictor.add_new_points_or_box(state, 1, "b", [[60, 40]], [1])
    video_predictor.clear_all_prompts_in_frame(state, 1, "b")
    before = snapshot(state)
    with pytest.raises(RuntimeError, match="object 'b' has no points, box or mask"):
        next(video_predictor.propagate_in_video(state))
    assert snapshot(state) == before
    video_predictor.remove_object(state, "b")
    assert len(list(video_predictor.propagate_in_video(state))) == 8


def test_clearing_an_unknown_object_does_not_create_it(tracked):
    frame, ids, masks = tracked.predictor.clear_all_prompts_in_frame(tracked.state, 1, "unknown")
    assert (frame, ids, len(masks)) == (1, ["a", "b"], 2)
    assert tracked.predictor.clear_all_prompts_in_frame(tracked.state, 1, "a", need_output=False) is None


def test_results_without_objects(video_predictor, video):
    state = video_predictor.init_state(video)
    _, ids, masks = video_predictor.clear_all_prompts_in_frame(state, 0, "unknown")
    assert ids == [] and masks.shape == (0, 1, 90, 120)
    assert video_predictor.remove_object(state, "unknown") == ([], [])


def test_a_video_of_one_frame(video_predictor, tmp_path):
    """Clicking again after propagation divides by zero in the original, and empties the mask."""
    s = Session(video_predictor, jpeg_folder(tmp_path, clip(1)))
    s.points(0, 1, (60, 40, 1))
    s.propagate()
    s.points(0, 1, (62, 42, 1))
    assert s.records[-1].masks.isfinite().all() and (s.records[-1].masks > 0).any()


def test_a_truncated_video(video_predictor, video):
    """All existing frames are tracked before the error; shorter or backward passes raise none."""
    s = Session(video_predictor, video)
    s.points(0, 1, (60, 40, 1))
    s.state.frames.truncated = "the video ends after frame 7, but says it has 9 frames"
    with pytest.raises(VideoError, match="says it has 9 frames"):
        s.propagate()
    assert [r.frame for r in s.records[1:]] == list(range(8))
    with pytest.raises(VideoError, match="says it has 9 frames"):
        s.propagate(start_frame_idx=6, max_frame_num_to_track=2)
    s.propagate(start_frame_idx=6, max_frame_num_to_track=1)
    s.propagate(start_frame_idx=7, max_frame_num_to_track=1, reverse=True)
    assert [r.frame for r in s.records[-4:]] == [6, 7, 7, 6]
