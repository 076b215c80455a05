"""nano at a small size, and a short video."""

import copy

import pytest
import recorded_ops
from recorded_ops import RecordedOps
from small_video import SIZE, track, video_frames

from sam2fast import nano
from sam2fast.build_sam import build_sam2_video_predictor

POINTERS = 5  # of the predictor, instead of 16


@pytest.fixture(scope="session")
def frames():
    return video_frames(10)


@pytest.fixture(scope="session")
def untouched():
    made = build_sam2_video_predictor(
        nano.CONFIG, nano.WEIGHTS, device="cpu", hydra_overrides_extra=[f"++model.image_size={SIZE}"]
    )
    made.max_obj_ptrs_in_encoder = POINTERS
    return made


@pytest.fixture
def predictor(untouched):
    """With few pointers, so that the model's reach, six frames, is less than the video's length."""
    return copy.deepcopy(untouched)


@pytest.fixture(scope="session")
def expected(untouched, frames):
    """Logits of the video without any hook."""
    return track(untouched, frames)


@pytest.fixture
def as_recorded(predictor, monkeypatch):
    """Replays the predictor's steps by a recorder, like CUDA graphs."""

    def make(recorder=RecordedOps):
        recorded_ops.as_on_a_gpu(monkeypatch)
        recorded_ops.recorded_by(monkeypatch, recorder)
        predictor.fast = True
        return predictor

    return make
