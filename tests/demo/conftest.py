from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import track_films
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
def predictor() -> Any:
    """nano at a quarter of its pixels, which is quick."""
    return build_sam2_video_predictor(nano.CONFIG, nano.WEIGHTS, device="cpu", hydra_overrides_extra=OVERRIDES)


@pytest.fixture(scope="session")
def narrow_predictor() -> Any:
    """One that finds nothing in particular, for tests that only ask it to work; ten times as quick."""
    return mini_predictor()


@pytest.fixture(scope="session")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A square and a disc that move, 5 frames of 64x48."""
    return track_films.write_film(tmp_path_factory.mktemp("film") / "film.mp4", track_films.pictures(FRAMES))


@pytest.fixture(scope="module")
def make_server(predictor: Any, film: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Flask]]:
    """Makes applications of the same model, with the film in the gallery of each."""
    made = []

    def make(**settings: Any) -> Flask:
        data = tmp_path_factory.mktemp("data")
        (data / GALLERY).mkdir()
        (data / GALLERY / "film.mp4").write_bytes(film.read_bytes())
        made.append(make_app(ServerSettings(data, **settings), predictor))
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
    """A session on the film."""
    opened = client.start()
    yield opened
    client.close(opened)
