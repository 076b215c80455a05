"""Frames that are not encoded because they hardly differ from the last one that was."""

import numpy as np
import pytest
import torch
from video import clip

from sam2fast.engine.replay import graph_calls_of
from sam2fast.tracking.approximations import DEFAULT_STILL
from sam2fast.tracking.features import difference, summary_of
from sam2fast.tracking.step_runner import StepRunner

IMAGES = clip(4, 64, 64)
A, B, C = IMAGES[0], IMAGES[2], np.ascontiguousarray(IMAGES[0][::-1])


def track(predictor, frames, **how):
    """Logits of each frame, and how many were encoded."""
    state = predictor.init_state(list(frames))
    predictor.add_new_points_or_box(state, 0, 1, [[30, 30]], [1])
    masks = [m for _, _, m in predictor.propagate_in_video(state, progress=False, **how)]
    return torch.cat(masks), state.features.encoded


def stream(predictor, frames):
    with predictor.open_stream() as opened:
        masks = []
        for i, frame in enumerate(frames):
            result = opened.step(frame)
            if i == 0:
                result = opened.add_new_points_or_box(1, [[30, 30]], [1])
            masks.append(result.masks)
        return torch.cat(masks), opened._opened().features.encoded


def test_equal_frames_are_encoded_once_and_masks_stay_the_same(exact, rough):
    """The step goes on: with a difference of nothing it is the exact one, bit by bit."""
    video = [A, A, B, B, A, C]
    rough.approximations = {"still_frames": 0.0}
    for run in (track, stream):
        expected, all_of_them = run(exact, video)
        masks, encoded = run(rough, video)
        assert torch.equal(masks, expected) and (all_of_them, encoded) == (6, 4)
        assert not torch.equal(masks[0], masks[1])


@pytest.mark.parametrize("ahead", [1, 3])
def test_also_in_batches_and_recorded(exact, rough, replaying, ahead):
    video = [A, A, A, B, B, C]
    rough.approximations = replaying.approximations = "still_frames=0"
    expected, _ = track(exact, video)
    for predictor in (rough, replaying):
        masks, encoded = track(predictor, video, encode_ahead=ahead)
        assert encoded == 3
        assert (masks - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("ahead", [1, 3])
def test_slow_changes_add_up(rough, ahead):
    """Each frame is still beside the one before; the last encoded one is what counts."""
    rough.approximations = "still_frames=0.1"
    video = [np.full((64, 64, 3), 8 * t, np.uint8) for t in range(9)]  # by 0.031 from frame to frame
    _, encoded = track(rough, video, encode_ahead=ahead)
    assert encoded == 3  # 0, 4, 8


def test_a_small_thing_that_moves_is_seen():
    """Though the mean over the whole frame hardly changes, and four cells share it."""
    empty = torch.full((640, 640, 3), 90, dtype=torch.uint8)
    seen = empty.clone()
    seen[312:328, 184:200] = 255
    assert (seen.float() - empty.float()).abs().mean() / 255 < 0.0005
    assert difference(summary_of(empty), summary_of(seen)) > 2 * DEFAULT_STILL


def test_noise_is_not(rough):
    """That of a camera: a deviation of 2 of 255."""
    rng = np.random.default_rng(0)
    rough.approximations = "still_frames"
    video = [np.clip(A + rng.normal(0, 2, A.shape), 0, 255).astype(np.uint8) for _ in range(6)]
    assert track(rough, video)[1] == 1


def test_a_frame_that_cannot_be_encoded_is_not_remembered(rough, monkeypatch):
    rough.approximations = "still_frames"
    state = rough.init_state([A, B, B])
    features, tracker = state.features, rough._tracker
    right = StepRunner.encode

    def fail(*arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(StepRunner, "encode", fail)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="out of memory"):
        tracker.encode(state, [1])
    monkeypatch.setattr(StepRunner, "encode", right)
    with torch.inference_mode():
        (first, second) = tracker.encode(state, [0, 2])
    assert features.encoded == 2 and second is not first


def test_features_under_autocast_are_apart(rough):
    rough.approximations = "still_frames"
    state = rough.init_state([A, A])
    with torch.inference_mode():
        with torch.autocast("cpu", torch.bfloat16):
            (inside,) = rough._tracker.encode(state, [1])
        assert state.features.encoded == 2
        first, second = rough._tracker.encode(state, [0, 1])
        assert second is first and second is not inside


def test_warmup_encodes_batches_nevertheless(replaying):
    replaying.approximations = "still_frames"
    replaying.warmup(1, (64, 64), encode_ahead=2)
    assert {batch for (_, batch), *_ in graph_calls_of(replaying, ahead=True)._calls} == {1, 2}
