import functools
import json

import profiled
import pytest
from commands import assert_one_line
from PIL import Image
from small_nano import write_small_nano
from video import clip

from sam2fast import nano
from sam2fast.cli.profile import CHART_OPTION
from sam2fast.profiling import profile_image, profile_video


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


def paths(tree: dict, path: str = "") -> set[str]:
    """The paths of all parts of a tree, as in a trace."""
    name = f"{path}/{tree['name']}".lstrip("/")
    return {name}.union(*(paths(child, name) for child in tree["children"]))


def test_a_video_end_to_end(run, video, small_nano, tmp_path):
    files = [tmp_path / name for name in ("trace.json", "parts.png", "figures.json")]
    options = ["--trace", files[0], CHART_OPTION, files[1], "--json", files[2]]
    result = run("profile", video, "--objects", 2, "--frames", 2, *options, *small_nano)
    assert result.exit_code == 0, result.stderr
    assert "the average of frames 2 to 3" in result.stdout
    for name in ("memory attention", "cross-attention", "copies and rest"):
        assert name in result.stdout

    (found,) = json.loads(files[2].read_text())["profiles"]
    assert found["input"] == str(video) and found["subject"]["objects"] == 2
    ranges = {
        event["name"]
        for event in json.loads(files[0].read_text())["traceEvents"]
        if event.get("cat") == "user_annotation"
    }
    expected = paths(found["tree"])
    assert "frame/memory attention/layer 0/cross-attention/attention" in expected
    assert expected <= ranges
    assert Image.open(files[1]).width > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures.json", "parts.png", "trace.json", "video"]


def test_two_images_as_json(run, make_image, small_nano):
    inputs = [make_image("a.png"), make_image("b.jpg")]
    result = run("profile", *inputs, "--point", "20,30", "--point", "5,5,0", "--runs", 2, *small_nano, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["model"]["dtype"] == "float32"
    for path, found in zip(inputs, document["profiles"], strict=True):
        assert found["input"] == str(path) and found["tree"]["name"] == "picture"
        assert len(found["seconds"]["plain"]) == len(found["seconds"]["profiled"]) == 2
        assert (found["subject"]["width"], found["subject"]["height"]) == (96, 64)


@pytest.fixture
def asked(monkeypatch):
    """The options of the profiling functions, which measure once."""
    found = {}

    def note(profile, once, predictor, subject, **options):
        found.update(options)
        return profile(predictor, subject, **{**options, once: 1})

    monkeypatch.setattr("sam2fast.profiling.run.profile_image", functools.partial(note, profile_image, "runs"))
    monkeypatch.setattr("sam2fast.profiling.run.profile_video", functools.partial(note, profile_video, "frames"))
    return found


def test_prompts_reach_the_profile(run, make_image, video, small_nano, asked):
    result = run("profile", make_image(), "--point", "20,30", "--box", "1,2,30,40", "--depth", 1, *small_nano)
    assert result.exit_code == 0, result.stderr
    assert asked["point_coords"] == [(20, 30)] and asked["point_labels"] == [1] and asked["box"] == [1, 2, 30, 40]
    prompts = ["--point", "20,30", "--point", "0,dog,50,40", "--point", "0,dog,1,1,0", "--box", "0,cat,1,2,30,40"]
    result = run("profile", video, *prompts, *small_nano)
    assert result.exit_code == 0, result.stderr
    assert asked["prompts"] == {
        1: {"points": [[20, 30]], "labels": [1], "box": None},
        "dog": {"points": [[50, 40], [1, 1]], "labels": [1, 0], "box": None},
        "cat": {"points": None, "labels": None, "box": [1, 2, 30, 40]},
    }


def test_unreadable_inputs(run, tmp_path, small_nano, video):
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert "broken.png cannot be read as an image" in assert_one_line(run("profile", "broken.png", *small_nano))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    assert "broken.mp4" in assert_one_line(run("profile", "broken.mp4", "--trace", "t.json", *small_nano))
    for frame in list(video.iterdir())[1:]:
        frame.unlink()
    assert "single frame" in assert_one_line(run("profile", video, *small_nano))
    assert not (tmp_path / "t.json").exists()


def test_the_good_inputs_are_profiled(run, make_image, tmp_path, small_nano, asked):
    (tmp_path / "broken.png").write_bytes(b"no image")
    result = run("profile", "broken.png", "nowhere.png", make_image(), "--runs", 1, *small_nano, "--json")
    assert result.exit_code == 1 and "2 of 3 inputs had problems; all else was done" in result.stderr
    assert [found["input"] for found in json.loads(result.stdout)["profiles"]] == [str(tmp_path / "image.png")]


def test_prompts_outside(run, make_image, video, small_nano):
    error = assert_one_line(run("profile", make_image(), "--point", "500,30", *small_nano))
    assert "the point 500,30 lies outside" in error and "(96x64)" in error
    error = assert_one_line(run("profile", video, "--box", "0,1,900,1,905,9", *small_nano))
    assert "the box 900,1,905,9 lies outside the video" in error


def test_without_matplotlib(run, make_image, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    error = assert_one_line(run("profile", make_image(), CHART_OPTION, "parts.png"))
    assert "pip install 'sam2fast[profile]'" in error
