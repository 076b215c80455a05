"""Recorded steps in bfloat16: at most twice the official package's own error, both against fp32.

Each step starts from the same fp32 state and makes the same choices. Holes stay, as filling a small one is a choice.
"""

import copy
from typing import Any

import pytest
import torch
from parity import NARROW
from recorded_ops import CalledAgain, RecordedOps, as_on_a_gpu, recorded_by
from video import Session, build_video_pair, clip, float32_memory, jpeg_folder

from sam2fast.build_sam import cast_weights
from sam2fast.utils.testing import mask_iou, relative_error

SLACK = 2.0
SIZE, FRAMES = 128, (1, 4, 8)


def prompts(s: Session) -> None:
    s.points(0, 1, (60, 40, 1))
    s.points(0, 2, box=[20, 20, 70, 60])


def track(predictor: Any, state: Any, first: int, more: int = 0) -> Any:
    passing = predictor.propagate_in_video(state, start_frame_idx=first, max_frame_num_to_track=more)
    return [masks for _, _, masks in passing][-1]


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """Before each of the frames: our state in fp32, and the official masks of the frame in fp32 and in bfloat16."""
    official, ours = build_video_pair(image_size=SIZE, overrides=NARROW)
    official.fill_hole_area = ours.fill_hole_area = 0
    video = jpeg_folder(tmp_path_factory.mktemp("video"), clip(FRAMES[-1] + 1))
    found = {}
    with float32_memory():
        sessions = [Session(official, video), Session(ours, video)]
        for s in sessions:
            prompts(s)
        at = 0
        for frame in FRAMES:
            for s in sessions:
                track(s.predictor, s.state, at, frame - at - 1)
            at = frame
            before = ours.move_state(sessions[1].state)
            rounded = copy.deepcopy(sessions[0].state)
            rounded["cached_features"].clear()
            with torch.autocast("cpu", torch.bfloat16):
                theirs = track(official, rounded, frame)
            found[frame] = before, track(official, sessions[0].state, frame), theirs
            track(ours, sessions[1].state, frame)
            at = frame + 1 if frame + 1 not in FRAMES else frame
    return ours, found


@pytest.fixture(scope="module")
def fast(states):
    predictor = cast_weights(copy.deepcopy(states[0]), torch.bfloat16)
    predictor.fast, predictor.fill_hole_area = True, 0
    return predictor


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("replayed", [False, True], ids=["run again", "replayed"])
def test_one_step(states, fast, frame, replayed, monkeypatch):
    our_state, exact, theirs = states[1][frame]
    fast.release_recordings()
    if replayed:
        as_on_a_gpu(monkeypatch)
    recorded_by(monkeypatch, RecordedOps if replayed else CalledAgain)
    mine = track(fast, fast.move_state(our_state), frame)
    for e, t, m in zip(exact, theirs, mine, strict=True):
        assert mask_iou(e, t) > 0.9 < mask_iou(e, m), "the same mask of the three, and present"
        assert relative_error(e, m) <= SLACK * relative_error(e, t)
