"""SAM 2's relatives from the command line and in the demo, with tame weights, on small images."""

from pathlib import Path

import moving_shapes
import numpy as np
import pytest
import torch
from commands import invoke, ok
from demo_client import DemoClient
from tame_weights import fill

from sam2fast.build_sam import build_sam2_video_predictor
from sam2fast.config import shipped_configs
from sam2fast.demo.server.app import SERVICE, make_app
from sam2fast.demo.server.library import GALLERY
from sam2fast.demo.server.settings import ServerSettings
from sam2fast.results import read_masks

FRAMES = 5
CLICK = 16, 19


@pytest.fixture(scope="module", params=["edgetam/edgetam", "efficienttam/efficienttam_s"])
def files(request, tmp_path_factory):
    """A configuration for images of 256 pixels, and a checkpoint."""
    folder = tmp_path_factory.mktemp("family")
    text = shipped_configs()[request.param].read_text()
    assert "image_size: 1024" in text
    (folder / "small.yaml").write_text(text.replace("image_size: 1024", "image_size: 256"))
    model = fill(build_sam2_video_predictor(str(folder / "small.yaml"), device="cpu"), 0)
    torch.save({"model": model.state_dict()}, folder / "weights.pt")
    return str(folder / "small.yaml"), folder / "weights.pt"


@pytest.fixture(scope="module")
def predictor(files):
    return build_sam2_video_predictor(*files, device="cpu")


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    return moving_shapes.write_video(tmp_path_factory.mktemp("video") / "clip.mp4", moving_shapes.make_frames(FRAMES))


@pytest.fixture(scope="module")
def expected(predictor, video):
    state = predictor.init_state(str(video))
    predictor.add_new_points_or_box(state, 0, 1, points=[CLICK], labels=[1])
    found = {t: (logits[0, 0] > 0).numpy() for t, _, logits in predictor.propagate_in_video(state, progress=False)}
    assert all(0.01 < mask.mean() < 0.99 for mask in found.values())
    return found


def test_track(files, video, expected, tmp_path):
    config, checkpoint = files
    model = ["--model", config, "--checkpoint", checkpoint, "--device", "cpu"]
    prompt = ["--point", "0,1,{},{}".format(*CLICK), "--format", "json", "--out", tmp_path]
    ok(invoke("track", video, *model, *prompt))
    found = {item.frame: item.masks[0] for item in read_masks(tmp_path / "masks.jsonl")}
    np.testing.assert_equal(found, expected)


def test_demo(predictor, video, expected, tmp_path):
    (tmp_path / GALLERY).mkdir()
    (tmp_path / GALLERY / "clip.mp4").write_bytes(video.read_bytes())
    app = make_app(ServerSettings(tmp_path, model="nano"), predictor)
    client = DemoClient(app.test_client())
    height, width = expected[0].shape
    session = client.start()
    client.add(session, [(CLICK[0] / width, CLICK[1] / height)])
    found = client.track(session)
    client.close(session)
    app.extensions[SERVICE].close()
    np.testing.assert_equal({t: masks[1] for t, masks in found}, expected)
