from pathlib import Path

import pytest
from mini_model import mini_model
from video import Session, clip, jpeg_folder, narrow_predictor


@pytest.fixture(scope="session")
def checkpoint(weights_folder) -> Path:
    """Real weights for images."""
    return weights_folder / "sam2_hiera_tiny_image_fp16.pt"


@pytest.fixture(scope="module")
def model():
    return mini_model()


@pytest.fixture(scope="module")
def video_predictor():
    """Ours, narrow, with tame weights, at the smallest size."""
    return narrow_predictor()


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """Eight frames as a folder of JPEG files."""
    return jpeg_folder(tmp_path_factory.mktemp("video"), clip(8))


@pytest.fixture(scope="module")
def tracked_for_all(video_predictor, video) -> Session:
    """A state with two tracked objects; tests copy it."""
    s = Session(video_predictor, video)
    s.points(0, "a", (60, 40, 1))
    s.points(2, "b", box=[20, 20, 70, 60])
    s.propagate()
    return s


@pytest.fixture
def tracked(video_predictor, video, tracked_for_all) -> Session:
    """A copy of the state with two tracked objects."""
    s = Session(video_predictor, video)
    s.state = video_predictor.move_state(tracked_for_all.state)
    s.records = list(tracked_for_all.records)
    return s
