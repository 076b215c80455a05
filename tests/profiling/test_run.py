"""Profiles of images and videos: their parts, that they add up, and that the predictor does not change."""

import itertools
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from profiled import LIMITS, SIDE, attributes, image_model, tracked, video_predictor
from video import clip

from sam2fast.profiling import Part, measure_limits, parts, profile_image, profile_video
from sam2fast.profiling.parts import PartRecorder
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.transforms import ImageError
from sam2fast.video_io import VideoError

FRAMES, OBJECTS = 3, 2
BLOCKS = (1, 2, 6, 1)  # of nano's stages
MEMORY_LAYERS = 3
IMAGE = clip(1, 180, 240)[0]


@pytest.fixture(scope="module")
def predictor():
    return video_predictor()


@pytest.fixture(scope="module")
def video():
    return clip(12)


@pytest.fixture(scope="module")
def video_profile(predictor, video):
    return profile_video(predictor, video, objects=OBJECTS, frames=FRAMES, runs=1, limits=LIMITS)


@pytest.fixture(scope="module")
def image_profile():
    return profile_image(SAM2ImagePredictor(image_model()), IMAGE, objects=3, runs=2, limits=LIMITS)


@pytest.fixture(params=["video", "image"])
def profile(request, video_profile, image_profile):
    return video_profile if request.param == "video" else image_profile


def test_parts_add_up(profile):
    for path, part in profile.root.walk():
        inside = sum(child.seconds for child in part.children.values())
        assert part.seconds > 0 and inside <= part.seconds * (1 + 1e-9), path
        assert part.flops >= sum(child.flops for child in part.children.values())
    assert 0.5 < profile.named <= 1
    assert profile.root.seconds <= sum(profile.profiled) / len(profile.profiled)  # as measured from outside


def test_flops_of_the_encoder(video_profile, image_profile):
    """Computed by hand: the first stage's queries, keys and values. Images and videos use the same encoder."""
    rows, width = (SIDE // 4) ** 2, 32
    assert video_profile.root["encode/stage 1/query, key, value"].flops == 2 * rows * width * 3 * width
    assert video_profile.root["encode"].flops == image_profile.root["encode"].flops


def test_nested_calls_are_nested_parts():
    """Each by its path. Functions of other threads are no parts, and a nested call of the same part is one part."""
    owner = SimpleNamespace(inner=lambda: 1, outer=lambda: owner.inner() + owner.inner())
    before, root = dict(vars(owner)), Part("frame")
    recorder = PartRecorder(root, torch.device("cpu"))
    names = [(owner, "outer", ("a", "b")), (owner, "inner", ("b", "c"))]
    with recorder.recording(names):
        assert owner.outer() == 2 and not root.children
        with recorder.unit():
            assert owner.outer() == 2
            thread = threading.Thread(target=owner.outer)
            thread.start()
            thread.join()
    assert [(path, part.calls) for path, part in root.walk()] == [
        (("frame",), 1), (("frame", "a"), 1), (("frame", "a", "b"), 1), (("frame", "a", "b", "c"), 2),
    ]  # fmt: skip
    assert dict(vars(owner)) == before


def test_seconds_are_those_of_the_clock(monkeypatch):
    """With a clock that advances when it is read: a second before, between and after the children of a part."""
    monkeypatch.setattr(parts, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    found = profile_image(SAM2ImagePredictor(image_model()), IMAGE, runs=2, limits=LIMITS)
    for path, part in found.root.walk():
        assert part.self_seconds == part.calls + sum(child.calls for child in part.children.values()), path


def test_seconds_on_cuda_are_those_of_events(monkeypatch):
    """The host waits once, when all parts have ended."""
    clock, waits = itertools.count(), []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, stream):
            assert stream == "current"
            self.at = 1000 * next(clock)

        def elapsed_time(self, end):
            assert waits, "asked before the device was done"
            return end.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "current")
    monkeypatch.setattr(torch.cuda, "synchronize", waits.append)
    owner, root, device = SimpleNamespace(inner=lambda: 1), Part("frame"), torch.device("cuda")
    recorder = PartRecorder(root, device)
    with recorder.recording([(owner, "inner", ("a",))]), recorder.unit():
        owner.inner()
        owner.inner()
    assert (root.seconds, root["a"].seconds, root["a"].calls, waits) == (5, 2, 2, [device])


def test_how_often_parts_are_called(video_profile):
    root = video_profile.root
    assert root.calls == 1
    names = ("decode", "preprocess", "encode", "memory attention", "prompt encoder", "mask decoder", "memory encoding")
    for name in (*names, "hole filling", "masks to video size", "object pointers", "memory tables"):
        assert root[name].calls == 1, name
    for stage, blocks in enumerate(BLOCKS, 1):
        part = root[f"encode/stage {stage}"]
        assert (part["attention"].calls, part["MLP"].calls, part["norms"].calls) == (blocks, blocks, 2 * blocks)
    assert list(root["memory attention"].children) == [f"layer {i}" for i in range(MEMORY_LAYERS)]
    for layer in root["memory attention"].children.values():
        parts_of_layer = ("self-attention", "cross-attention", "feed-forward")
        assert {name: part.calls for name, part in layer.children.items()} == dict.fromkeys(parts_of_layer, 1)
        assert layer["self-attention/projections"].calls == 2 and layer["cross-attention/projections"].calls == 2
        assert layer["self-attention/attention"].calls == layer["cross-attention/attention"].calls == 1


def test_the_predictor_is_unchanged(predictor, video):
    video = video[:5]
    logits, before = tracked(predictor, video), attributes(predictor)
    profile_video(predictor, video, frames=1, limits=LIMITS)
    assert attributes(predictor) == before
    assert torch.equal(tracked(predictor, video), logits)


def test_the_predictor_is_unchanged_after_an_error(predictor, video, monkeypatch):
    before, instrumented = attributes(predictor), []
    original = predictor.memory_encoder.forward

    def fails(*args, **kwargs):
        instrumented.append("encode_image" in vars(predictor))
        if sum(instrumented) == 2:  # the second frame of a pass with wrappers
            raise RuntimeError("broken on purpose")
        return original(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="broken on purpose"):
        patch.setattr(predictor.memory_encoder, "forward", fails)
        profile_video(predictor, video[:5], frames=2, limits=LIMITS)
    assert not all(instrumented) and attributes(predictor) == before


def test_an_image_predictor_is_unchanged():
    predictor = SAM2ImagePredictor(image_model())

    def answers():
        predictor.set_image(IMAGE)
        return [*predictor.predict(point_coords=[[50, 60]], point_labels=[1]), predictor.get_image_embedding().numpy()]

    expected, before = answers(), attributes(predictor.model)
    own = dict(vars(predictor._transforms))
    profile_image(predictor, IMAGE, point_coords=[[50, 60]], point_labels=[1], runs=1, limits=LIMITS)
    assert attributes(predictor.model) == before and dict(vars(predictor._transforms)) == own
    for a, b in zip(answers(), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_cuda_graphs_are_timed_and_restored(predictor, video, video_profile, monkeypatch):
    assert video_profile.as_it_is is None and "fast" not in vars(predictor)
    monkeypatch.setattr(predictor, "fast", True)
    found = profile_video(predictor, video[:4], frames=2, limits=LIMITS)
    assert predictor.fast is True
    assert len(found.as_it_is) == len(found.plain) == len(found.profiled) == 2
    assert found.root["memory attention"].calls == 1
    predictor.release_recordings()


def test_a_short_video(predictor, video):
    found = profile_video(predictor, video[:3], frames=5, limits=LIMITS)
    assert (found.subject["first_frame"], found.subject["frames"]) == (1, 2)


def test_limits_of_this_machine(monkeypatch):
    monkeypatch.setattr("sam2fast.profiling.limits.COPIED_ON_CPU", 2**18)
    monkeypatch.setattr("sam2fast.profiling.limits.SIDE_ON_CPU", 128)
    limits = measure_limits(torch.device("cpu"), [torch.float32])
    assert set(limits.flops_per_s) == {"float32"} and limits.flops_per_s["float32"] > 0 and limits.bytes_per_s > 0


def test_bfloat16_is_compared_with_its_own_limit():
    predictor = SAM2ImagePredictor(image_model().to(torch.bfloat16))
    limits = LIMITS._replace(flops_per_s={"float32": 1e11, "bfloat16": 4e11})
    part = profile_image(predictor, IMAGE, runs=1, limits=limits).root["encode/stage 1/MLP"]
    assert part.floor(limits) == part.flops / 4e11 > 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"video": "nowhere.mp4"}, FileNotFoundError, "nowhere.mp4"),
        ({"video": [IMAGE]}, VideoError, "single frame"),
        ({"frames": 0}, ValueError, "frames is 0"),
        ({"prompts": {1: {"points": [[1, 2, 3]], "labels": [1]}}}, ValueError, "points"),
        ({"image": __file__}, ImageError, "test_run.py"),
        ({"image": IMAGE, "objects": 0}, ValueError, "objects is 0"),
        ({"image": IMAGE, "runs": 0}, ValueError, "runs is 0"),
    ],
)
def test_what_cannot_be_profiled(predictor, options, error, message):
    before = attributes(predictor)
    with pytest.raises(error, match=message):
        if "image" in options:
            profile_image(SAM2ImagePredictor(predictor), limits=LIMITS, **options)
        else:
            profile_video(predictor, limits=LIMITS, **{"video": [IMAGE] * 3} | options)
    assert attributes(predictor) == before


def test_a_trace_is_written_atomically(tmp_path, monkeypatch):
    predictor, file = SAM2ImagePredictor(image_model()), tmp_path / "trace.json"
    file.write_text("of an earlier run")

    def breaks_off(profiler, path):
        Path(path).write_text('{"traceEvents": [')
        raise OSError("no space left")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
        patch.setattr(torch.profiler.profile, "export_chrome_trace", breaks_off)
        profile_image(predictor, IMAGE, runs=1, trace=file, limits=LIMITS)
    assert file.read_text() == "of an earlier run" and list(tmp_path.iterdir()) == [file]
    with pytest.raises(FileNotFoundError):
        profile_image(predictor, IMAGE, runs=1, trace=tmp_path / "nowhere" / "trace.json", limits=LIMITS)
