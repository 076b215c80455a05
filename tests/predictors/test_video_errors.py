"""Wrong calls and internal failures change nothing; defects of the original are absent."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from comparable import snapshot
from video import Session, clip, jpeg_folder

from sam2fast.tracking import outputs
from sam2fast.video_io import VideoError

NAN = [[float("nan"), 1.0]]
WRONG_CALLS: dict[str, tuple[Callable[[Any, Any], Any], type[Exception], str]] = {
    "frame beyond the end": (
        lambda p, s: p.add_new_points_or_box(s, 8, "n", [[1, 1]], [1]),
        IndexError,
        "frame 8 is not in this video of 8 frames",
    ),
    "negative frame": (lambda p, s: p.add_new_points_or_box(s, -1, "n", [[1, 1]], [1]), IndexError, "frame -1"),
    "no frame number": (lambda p, s: p.add_new_points_or_box(s, 1.5, "n", [[1, 1]], [1]), TypeError, "float"),
    "points alone": (
        lambda p, s: p.add_new_points_or_box(s, 1, "n", points=[[1, 1]]),
        ValueError,
        "points and labels belong together",
    ),
    "labels alone": (lambda p, s: p.add_new_points_or_box(s, 1, "n", labels=[1]), ValueError, "belong together"),
    "nothing": (lambda p, s: p.add_new_points_or_box(s, 1, "n"), ValueError, "at least one of points or box"),
    "no points": (lambda p, s: p.add_new_points_or_box(s, 1, "n", np.zeros((0, 2)), []), ValueError, "at least 1"),
    "NaN": (lambda p, s: p.add_new_points_or_box(s, 1, "a", NAN, [1]), ValueError, "points holds NaN"),
    "unknown label": (lambda p, s: p.add_new_points_or_box(s, 1, "a", [[1, 1]], [7]), ValueError, "labels holds 7"),
    "two prompts": (
        lambda p, s: p.add_new_points_or_box(s, 1, "a", [[[1, 1]], [[2, 2]]], [[1], [1]]),
        ValueError,
        "got 2 prompts",
    ),
    "box joins points": (
        lambda p, s: p.add_new_points_or_box(s, 1, "n", box=[1, 1, 5, 5], clear_old_points=False),
        ValueError,
        "clear_old_points=True",
    ),
    "two boxes": (
        lambda p, s: p.add_new_points_or_box(s, 1, "n", box=[[1, 1, 5, 5], [2, 2, 6, 6]]),
        ValueError,
        r"box has shape \(2, 4\); expected \(4\)",
    ),
    "box turned over": (lambda p, s: p.add_new_points_or_box(s, 1, "n", box=[9, 1, 5, 5]), ValueError, "wrong way"),
    "unhashable id": (lambda p, s: p.add_new_points_or_box(s, 1, [], [[1, 1]], [1]), TypeError, "unhashable"),
    "mask of three dimensions": (
        lambda p, s: p.add_new_mask(s, 1, "n", np.zeros((1, 90, 120))),
        ValueError,
        r"the mask has shape \(1, 90, 120\); expected \(H, W\)",
    ),
    "mask with NaN": (lambda p, s: p.add_new_mask(s, 1, "n", torch.full((4, 4), float("nan"))), ValueError, "NaN"),
    "clear beyond the end": (lambda p, s: p.clear_all_prompts_in_frame(s, 8, "a"), IndexError, "frame 8"),
    "remove strictly": (lambda p, s: p.remove_object(s, "n", strict=True), RuntimeError, "no object 'n' to remove"),
    "start beyond the end": (lambda p, s: next(p.propagate_in_video(s, 9)), IndexError, "frame 9"),
    "negative count": (lambda p, s: next(p.propagate_in_video(s, 0, -1)), ValueError, "max_frame_num_to_track"),
    "encode nothing": (lambda p, s: next(p.propagate_in_video(s, encode_ahead=0)), ValueError, "encode_ahead is 0"),
}


@pytest.mark.parametrize(("call", "error", "message"), WRONG_CALLS.values(), ids=WRONG_CALLS.keys())
def test_a_wrong_call_changes_nothing(call, error, message, tracked):
    before = snapshot(tracked.state)
    with pytest.raises(error, match=message):
        call(tracked.predictor, tracked.state)
    assert snapshot(tracked.state) == before and tracked.state["obj_ids"] == ["a", "b"]


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


def test_fp32_without_autocast_and_without_pointers(video_predictor, video):
    """With only a future memory, and going backwards with only a past one."""
    s = Session(video_predictor, video)
    s.points(4, 1, (60, 40, 1))
    s.propagate(start_frame_idx=2)
    s.reset()
    s.points(2, 1, (60, 40, 1))
    s.propagate(start_frame_idx=5, reverse=True)
    assert all(r.masks.isfinite().all() for r in s.records)


def test_a_video_of_one_frame(video_predictor, tmp_path):
    """Clicking again after propagation divides by zero in the original, and empties the mask."""
    s = Session(video_predictor, jpeg_folder(tmp_path, clip(1)))
    s.points(0, 1, (60, 40, 1))
    s.propagate()
    s.points(0, 1, (62, 42, 1))
    assert s.records[-1].masks.isfinite().all() and (s.records[-1].masks > 0).any()


def test_a_correction_without_a_conditioning_frame(video_predictor, video):
    """All prompts were removed after tracking: the original fails; here the next one is a first prompt again."""
    s = Session(video_predictor, video)
    s.points(2, 1, (60, 40, 1))
    s.propagate()
    s.clear(2, 1)
    s.points(4, 1, (60, 40, 1))
    s.propagate()
    assert list(s.state.objects[1].conditioning) == [4]
    assert s.records[-1].frame == 7


def test_clearing_memory_around_input(video_predictor, video, monkeypatch):
    """The option crashes in the original. Frames near the correction are removed, its own result is kept."""
    monkeypatch.setattr(video_predictor, "clear_non_cond_mem_around_input", True)
    monkeypatch.setattr(video_predictor, "num_maskmem", 2)
    s = Session(video_predictor, video)
    s.points(0, "a", (60, 40, 1))
    s.points(0, "b", (20, 70, 1))
    s.points(4, "b", (20, 70, 1))
    s.propagate(start_frame_idx=0)
    # For b, frame 4 removed 2 and 3 when the pass reached it.
    assert [list(o.tracked) for o in s.state.objects.values()] == [[1, 2, 3, 4, 5, 6, 7], [1, 5, 6, 7]]
    s.points(5, "a", (61, 41, 1))
    s.points(6, "a", (61, 41, 1))
    video_predictor.propagate_in_video_preflight(s.state)
    assert [sorted(o.tracked) for o in s.state.objects.values()] == [[1, 2, 5, 6], [1, 5, 6, 7]]


@pytest.mark.parametrize("sticks", [False, True])
def test_corrections_can_become_conditioning_frames(sticks, video_predictor, video, monkeypatch):
    monkeypatch.setattr(video_predictor, "add_all_frames_to_correct_as_cond", sticks)
    s = Session(video_predictor, video)
    s.points(0, 1, (60, 40, 1))
    s.propagate()
    s.mask(3, 1, np.eye(90, 120) > 0)
    corrected = s.records[-1].masks
    s.propagate()
    again = next(r.masks for r in s.records[-5:] if r.frame == 3)
    assert torch.equal(again, corrected) == sticks


def test_ids_of_any_kind(video_predictor, video):
    s = Session(video_predictor, video)
    for obj in (7, "name", ("a", 1), np.int64(3)):
        s.points(0, obj, (60, 40, 1))
    assert s.records[-1].ids == [7, "name", ("a", 1), 3]


def test_a_failed_preflight_changes_nothing(tracked, monkeypatch):
    tracked.points(4, "b", (50, 50, 1))
    tracked.points(5, "a", (50, 50, 1))
    before = snapshot(tracked.state)
    right, calls = tracked.predictor.encode_memory, []

    def fail_the_second_time(*args):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return right(*args)

    with monkeypatch.context() as m:
        m.setattr(tracked.predictor, "encode_memory", fail_the_second_time)
        with pytest.raises(RuntimeError, match="out of memory"):
            tracked.predictor.propagate_in_video_preflight(tracked.state)
    assert snapshot(tracked.state) == before
    tracked.propagate()


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
