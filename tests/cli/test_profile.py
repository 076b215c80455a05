import json

import profiled
import pytest
from commands import assert_one_line, ok
from PIL import Image
from small_nano import write_small_nano
from video import clip

from sam2fast import nano


@pytest.fixture(scope="module")
def small_nano(tmp_path_factory):
    """Nano with a quarter of its pixels."""
    path = tmp_path_factory.mktemp("nano") / "small.yaml"
    return ["--model", write_small_nano(path, profiled.SIDE), "--checkpoint", nano.WEIGHTS, "--device", "cpu"]


@pytest.fixture
def video(tmp_path):
    folder = tmp_path / "video"
    folder.mkdir()
    for i, image in enumerate(clip(4)):
        Image.fromarray(image).save(folder / f"{i:03}.png")
    return folder


@pytest.fixture(autouse=True)
def known_limits(monkeypatch):
    monkeypatch.setattr("sam2fast.profiling.run.measure_limits", lambda device, dtypes: profiled.LIMITS)


def test_a_video_and_its_trace(run, video, small_nano, tmp_path):
    trace = tmp_path / "trace.json"
    result = ok(run("profile", video, "--objects", 2, "--frames", 2, "--trace", trace, *small_nano))
    assert "objects: 2, the average of frames 2 to 3" in result.stdout
    for name in ("memory attention", "cross-attention", "copies and rest"):
        assert name in result.stdout
    ranges = [e["name"] for e in json.loads(trace.read_text())["traceEvents"] if e.get("cat") == "user_annotation"]
    assert ranges.count("frame/memory attention/layer 0/cross-attention/attention") == ranges.count("frame") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trace.json", "video"]


def test_an_image_as_json(run, make_image, small_nano):
    image = make_image("a.png")
    result = ok(run("profile", image, "--objects", 3, "--runs", 2, *small_nano, "--json"))
    found = json.loads(result.stdout)
    assert found["input"] == str(image) and found["model"]["dtype"] == "float32"
    assert found["tree"]["name"] == "image" and len(found["seconds"]["plain"]) == 2
    assert found["subject"] == {
        "kind": "image", "width": 96, "height": 64, "objects": 3, "image_size": profiled.SIDE, "runs": 2,
    }  # fmt: skip


def test_an_image_has_the_size_of_images(run, make_image, monkeypatch):
    """mini computes images at 768 pixels, and videos at 512."""

    def sizes(images, *_, **__):
        raise ValueError(images.model.image_size)

    monkeypatch.setattr("sam2fast.profiling.profile_image", sizes)
    assert assert_one_line(run("profile", make_image("a.png"), "--model", "mini", "--device", "cpu")).endswith("768")


def test_unreadable_inputs(run, tmp_path, small_nano, video):
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert "broken.png cannot be read as an image" in assert_one_line(run("profile", "broken.png", *small_nano))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    assert "broken.mp4" in assert_one_line(run("profile", "broken.mp4", "--trace", "t.json", *small_nano))
    for frame in list(video.iterdir())[1:]:
        frame.unlink()
    assert "single frame" in assert_one_line(run("profile", video, *small_nano))
    assert not (tmp_path / "t.json").exists()
