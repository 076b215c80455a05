"""nano with its own weights at a small size, and a short film."""

import copy

import pytest
import recorded_ops
from recorded_ops import RecordedOps
from small_film import SIZE, film, track

from sam2fast import nano
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.tracking.fast_path import FastPath

POINTERS = 5  # of the predictor, instead of 16


@pytest.fixture(scope="session")
def frames():
    return film(10)


@pytest.fixture(scope="session")
def untouched():
    made = build_sam2_video_predictor(
        nano.CONFIG, nano.WEIGHTS, device="cpu", hydra_overrides_extra=[f"++model.image_size={SIZE}"]
    )
    made.max_obj_ptrs_in_encoder = POINTERS
    return made


@pytest.fixture
def predictor(untouched):
    """With few pointers, so that its own reach, six frames, is less than the film."""
    return copy.deepcopy(untouched)


@pytest.fixture(scope="session")
def expected(untouched, frames):
    """Logits of the film without any hook."""
    return track(untouched, frames)


@pytest.fixture
def as_recorded(predictor, monkeypatch):
    """Makes of the predictor one whose steps are replayed as CUDA graphs are, by a recorder."""

    def make(recorder=RecordedOps):
        recorded_ops.as_on_a_gpu(monkeypatch)
        monkeypatch.setattr("sam2fast.modeling.mask_selection._is_being_recorded", lambda x: True)
        # Also for those that follow it when something has changed.
        monkeypatch.setattr("sam2fast.tracking.recorded_tracking.FastPath", lambda model: FastPath(model, recorder))
        predictor.fast = True
        return predictor

    return make
