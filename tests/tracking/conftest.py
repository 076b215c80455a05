"""A small predictor whose steps are recorded, beside a plain one and the official one."""

import copy
from pathlib import Path

import pytest
import recorded_ops
from parity import NARROW
from recorded_ops import CalledAgain, RecordedOps
from video import build_video_pair, clip, jpeg_folder

SIZE = 64


@pytest.fixture(scope="session")
def pair():
    return build_video_pair(overrides=NARROW, image_size=SIZE)


@pytest.fixture(scope="session")
def plain(pair):
    return pair[1]


@pytest.fixture
def fast(plain, monkeypatch):
    """The same weights; steps are functions of fixed tensors, with buckets of rows as on CUDA."""
    recorded_ops.recorded_by(monkeypatch, CalledAgain)
    predictor = copy.deepcopy(plain)
    predictor.fast = True
    return predictor


@pytest.fixture
def replaying(fast, monkeypatch):
    """The same, and operations are replayed as a CUDA graph's are."""
    recorded_ops.as_on_a_gpu(monkeypatch)
    recorded_ops.recorded_by(monkeypatch, RecordedOps)
    return fast


@pytest.fixture(scope="session")
def video(tmp_path_factory) -> Path:
    return jpeg_folder(tmp_path_factory.mktemp("video"), clip(20))
