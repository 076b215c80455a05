import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import moving_shapes
import numpy as np
import pytest
import torch
from commands import invoke
from PIL import Image
from small_nano import write_small_nano
from tame_weights import fill
from track_runs import FRAMES, PROMPTS, QuickTrack, quick_track

from sam2fast import nano
from sam2fast.build_sam import build_sam2

CONFIG = "configs/sam2.1/sam2.1_hiera_t.yaml"


class Model(NamedTuple):
    """A checkpoint with nano's architecture, and its configuration under another name."""

    checkpoint: Path
    small_config: Path

    @property
    def small(self) -> list[str]:
        return ["--model", str(self.small_config), "--checkpoint", str(self.checkpoint), "--device", "cpu"]


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "sam2.1_hiera_tiny.pt"
    torch.save({"model": fill(build_sam2(CONFIG, None, device="cpu"), seed=0).state_dict()}, path)
    return path


@pytest.fixture(scope="session")
def nano_checkpoint(tmp_path_factory) -> Path:
    """A checkpoint of nano other than the shipped one."""
    path = tmp_path_factory.mktemp("nano") / "averaged.pt"
    torch.save({"model": fill(build_sam2(nano.CONFIG, None, device="cpu"), seed=0).state_dict()}, path)
    return path


@pytest.fixture(scope="session")
def model(nano_checkpoint) -> Model:
    return Model(nano_checkpoint, Path(write_small_nano(nano_checkpoint.with_name("small.yaml"), 256)))


@pytest.fixture(autouse=True)
def no_checkpoints_of_the_machine(monkeypatch):
    monkeypatch.delenv("SAM2FAST_CHECKPOINTS", raising=False)
    monkeypatch.setenv("SAM2FAST_CACHE", "/dev/null/nowhere")
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")


# Loading the model takes most of the time of a test.
load_once = functools.cache(build_sam2)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the command in this process, in an empty folder, with cached models."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sam2fast.cli.segmenter.build_sam2", load_once)
    return invoke


@pytest.fixture
def make_image(tmp_path):
    """Makes an image file of two coloured halves and some noise."""

    def make(name: str = "image.png", width: int = 96, height: int = 64, **options) -> Path:
        pixels = np.random.default_rng(0).integers(0, 60, (height, width, 3), dtype=np.uint8)
        pixels[:, width // 2 :] += np.array([150, 60, 0], dtype=np.uint8)
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(pixels).save(path, **options)
        return path

    return make


@pytest.fixture
def inputs(tmp_path) -> Path:
    """One small input of each kind."""
    mask = np.zeros((24, 32), np.uint8)
    mask[4:12, 4:20] = 1
    image = Image.fromarray(np.repeat(mask[..., None] * 200, 3, -1))
    for name in ("image.png", "images/a.jpg", "frames/00000.jpg", "videos/a/00000.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / name)
    for name in ("labels/a.png", "masks/a/00000.png", "davis/Annotations/480p/a/00000.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(mask).save(tmp_path / name)
    (tmp_path / "davis/JPEGImages/480p/a").mkdir(parents=True)
    image.save(tmp_path / "davis/JPEGImages/480p/a/00000.jpg")
    return tmp_path


@pytest.fixture(scope="module")
def track(tmp_path_factory) -> Iterator[QuickTrack]:
    """``sam2fast track`` as a function, with the embedded model loaded once."""
    with quick_track(tmp_path_factory.mktemp("model")) as command:
        yield command


@pytest.fixture(scope="module")
def video_file(tmp_path_factory) -> Path:
    """A short video of a disc and a square."""
    return moving_shapes.write_video(tmp_path_factory.mktemp("video") / "video.mp4", moving_shapes.make_frames(FRAMES))


@pytest.fixture(scope="module")
def whole(track, video_file, tmp_path_factory):
    """The folder of an uninterrupted run of ``sam2fast track``."""
    out = tmp_path_factory.mktemp("whole") / "out"
    result = track(video_file, *PROMPTS, "--reverse", "--format", "json,png,overlay,coco", "--out", out)
    assert result.exit_code == 0
    assert result.stderr == "sam2fast: note: ids in the format png are numbers from 1: 2 is disc\n"
    assert f"{FRAMES} frames tracked" in result.stdout and str(out) in result.stdout
    return out
