"""A small predictor with random weights, nano, and a video for each."""

import copy
from pathlib import Path

import numpy as np
import pytest
import recorded_ops
import tame_weights
from mini_model import NARROW
from recorded_ops import RecordedOps
from video import clip, jpeg_folder

from sam2fast import nano as package
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.datasets.clip import Clip
from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.training.data.synthetic import SyntheticClips


@pytest.fixture(scope="session")
def drawn():
    """Its maps have 4x4 positions."""
    changes = [*NARROW, "++model.image_size=64"]
    given = {"device": "cpu", "hydra_overrides_extra": changes}
    return tame_weights.built(build_sam2_video_predictor, package.CONFIG, **given)


@pytest.fixture
def exact(drawn):
    return copy.deepcopy(drawn)


@pytest.fixture
def rough(drawn):
    """The same weights, to be given approximations."""
    return copy.deepcopy(drawn)


@pytest.fixture
def replaying(drawn, monkeypatch):
    """The same again; steps and encodings are replayed as CUDA graphs are."""
    predictor = copy.deepcopy(drawn)
    predictor.fast = True
    recorded_ops.as_on_a_gpu(monkeypatch)
    recorded_ops.recorded_by(monkeypatch, RecordedOps)
    return predictor


@pytest.fixture(scope="session")
def video(tmp_path_factory) -> Path:
    return jpeg_folder(tmp_path_factory.mktemp("video"), clip(20))


@pytest.fixture(scope="session")
def nano() -> SAM2VideoPredictor:
    return SAM2VideoPredictor.from_pretrained("sam2fast/nano", device="cpu")


@pytest.fixture(scope="session")
def factory_clip() -> Clip:
    clips = SyntheticClips(size=256, num_frames=10, max_objects=2, length=10, seed=77)
    return clips.sample(1, np.random.default_rng([77, 1]))
