from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import moving_shapes
import pytest
from demo_client import DemoClient
from flask import Flask
from mini_model import mini_predictor

from sam2fast import nano
from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.demo.server.app import SERVICE, make_app
from sam2fast.demo.server.library import GALLERY
from sam2fast.demo.server.settings import ServerSettings

FRAMES = 5
OVERRIDES = ("++model.image_size=128", "++model.add_all_frames_to_correct_as_cond=true")


@pytest.fixture(scope="session")
def nano_predictor() -> Any:
    """nano with a quarter of its pixels, for speed."""
    return build_sam2_video_predictor(nano.CONFIG, nano.WEIGHTS, device="cpu", hydra_overrides_extra=OVERRIDES)


@pytest.fixture(scope="module")
def predictor() -> Any:
    """A model with random weights for tests that ignore the masks; ten times as fast."""
    return mini_predictor()


@pytest.fixture(scope="session")
def clip_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A square and a disc that move, 5 frames of 64x48."""
    return moving_shapes.write_video(
        tmp_path_factory.mktemp("clip_file") / "clip.mp4", moving_shapes.make_frames(FRAMES)
    )


@pytest.fixture(scope="module")
def make_server(
    predictor: Any, clip_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Flask]]:
    """Makes applications that share one model, with the video in the gallery of each."""
    made = []

    def make(load: Any = None, **settings: Any) -> Flask:
        data = tmp_path_factory.mktemp("data")
        (data / GALLERY).mkdir()
        (data / GALLERY / "clip.mp4").write_bytes(clip_file.read_bytes())
        made.append(make_app(ServerSettings(data, **{"model": "nano", "fps": 24, **settings}), predictor, load))
        return made[-1]

    yield make
    for app in made:
        app.extensions[SERVICE].close()


@pytest.fixture(scope="module")
def app(make_server: Callable[..., Flask]) -> Flask:
    return make_server()


@pytest.fixture
def client(app: Flask) -> DemoClient:
    return DemoClient(app.test_client())


@pytest.fixture
def session(client: DemoClient) -> Iterator[str]:
    """A session on the video."""
    opened = client.start()
    yield opened
    client.close(opened)
