"""Profiles of images and videos: their parts, that they add up, and that the predictor does not change."""

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from planned import away_from_the_cpu
from profiled import LIMITS, SIDE, attributes, image_model, tracked, video_predictor
from recorded_ops import CalledAgain, recorded_by
from video import clip

from sam2fast.deploy.compilation import compile_model
from sam2fast.profiling import Part, measure_limits, profile_image, profile_video
from sam2fast.profiling.parts import Ranges
from sam2fast.profiling.run import add_parts, times_of
from sam2fast.sam2_image_predictor import SAM2ImagePredictor
from sam2fast.transforms import ImageError
from sam2fast.video_io import VideoError

OBJECTS = 2
BLOCKS = (1, 2, 6, 1)  # of nano's stages
MEMORY_LAYERS = 3
IMAGE = clip(1, 180, 240)[0]


@pytest.fixture(scope="module")
def predictor():
    return video_predictor()


@pytest.fixture(scope="module")
def video():
    return clip(5)


@pytest.fixture(scope="module")
def video_profile(predictor, video):
    """Of a video that has fewer frames than are asked for."""
    return profile_video(predictor, video[:3], objects=OBJECTS, frames=5, runs=1, limits=LIMITS)


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
    assert sum(part.flops for part in profile.root.children.values()) > 0.9 * profile.root.flops


def test_flops_of_the_encoder(video_profile, image_profile):
    """Computed by hand: the first stage's queries, keys, values and output. Images and videos use the same encoder."""
    rows, width = (SIDE // 4) ** 2, 32
    assert video_profile.root["encode/stage 1/projections"].flops == 2 * rows * width * (3 + 1) * width
    assert video_profile.root["encode"].flops == image_profile.root["encode"].flops


def test_nested_calls_are_nested_parts():
    """Each by its path. Functions of other threads are no parts, and a nested call of the same part is one part."""
    owner = SimpleNamespace(inner=lambda: 1, outer=lambda: owner.inner() + owner.inner())
    before, root, ranges = dict(vars(owner)), Part("frame"), Ranges()
    names = [(owner, "outer", ("a", "b")), (owner, "inner", ("b", "c"))]
    with torch.profiler.profile() as profiler, ranges.around(names):
        assert owner.outer() == 2
        with ranges.open("frame"):
            assert owner.outer() == 2
            thread = threading.Thread(target=owner.inner)
            thread.start()
            thread.join()
    add_parts(root, times_of(profiler, "frame"), ranges.flops, 1)
    calls = {"frame": 1, "frame/a": 1, "frame/a/b": 1, "frame/a/b/c": 2}
    assert {"/".join(path): part.calls for path, part in root.walk()} == calls and set(ranges.flops) == set(calls)
    assert dict(vars(owner)) == before


def test_how_often_parts_are_called(video_profile, image_profile):
    """What is timed is what predictors compute."""
    root = video_profile.root
    assert (video_profile.subject["first_frame"], video_profile.subject["frames"], root.calls) == (1, 2, 1)
    assert image_profile.as_it_is is video_profile.as_it_is is None
    assert image_profile.root["mask decoder/transformer/layer 1"].calls == 1
    names = ("decode", "preprocess", "encode", "memory attention", "mask decoder", "memory encoding")
    assert root["mask decoder/prompt encoder"].calls == 1
    for name in (*names, "hole filling", "masks to video size", "object pointers", "memory tables"):
        assert root[name].calls == 1, name
    for stage, blocks in enumerate(BLOCKS, 1):
        part = root[f"encode/stage {stage}"]
        assert (part["attention"].calls, part["MLP"].calls, part["norms"].calls) == (blocks, blocks, 2 * blocks)
    layers = {f"layer {i}": root[f"memory attention/layer {i}"] for i in range(MEMORY_LAYERS)}
    assert root["memory attention"].children.keys() == layers.keys() | {"projections", "norms"}  # of the output
    for layer in layers.values():
        parts_of_layer = {"self-attention": 1, "cross-attention": 2, "feed-forward": 1}
        assert {name: part.calls for name, part in layer.children.items()} == parts_of_layer
        assert layer["self-attention/projections"].calls == 4 and layer["cross-attention/projections"].calls == 1
        assert layer["self-attention/attention"].calls == layer["cross-attention/attention"].calls == 1


def test_the_predictor_is_unchanged(predictor, video):
    logits, before = tracked(predictor, video), attributes(predictor)
    found = profile_video(predictor, video, frames=1, limits=LIMITS)
    assert (found.subject["first_frame"], found.subject["frames"]) == (4, 1)
    assert attributes(predictor) == before
    assert torch.equal(tracked(predictor, video), logits)


def test_the_predictor_is_unchanged_after_an_error(predictor, video, monkeypatch):
    before, calls = attributes(predictor), []
    original = predictor.memory_encoder.forward

    def fails(*args, **kwargs):
        calls.append("forward" in vars(predictor.memory_encoder.fuser))
        if sum(calls) == 2:  # the second frame of a pass with ranges
            raise RuntimeError("broken on purpose")
        return original(*args, **kwargs)

    with monkeypatch.context() as context, pytest.raises(RuntimeError, match="broken on purpose"):
        context.setattr(predictor.memory_encoder, "forward", fails)
        profile_video(predictor, video, frames=2, limits=LIMITS)
    assert not all(calls) and attributes(predictor) == before


def test_an_image_predictor_is_unchanged():
    predictor = SAM2ImagePredictor(image_model())

    def answers():
        predictor.set_image(IMAGE)
        return [*predictor.predict(point_coords=[[50, 60]], point_labels=[1]), predictor.get_image_embedding().numpy()]

    expected, before = answers(), attributes(predictor.model)
    profile_image(predictor, IMAGE, runs=1, limits=LIMITS)
    assert attributes(predictor.model) == before
    for a, b in zip(answers(), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_cuda_graphs_are_timed_and_restored(predictor, video, monkeypatch):
    recorded_by(monkeypatch, CalledAgain)
    assert "fast" not in vars(predictor)
    monkeypatch.setattr(predictor, "fast", True)
    found = profile_video(predictor, video[:3], frames=2, limits=LIMITS)
    assert predictor.fast is True
    assert len(found.as_it_is) == len(found.plain) == 2
    assert found.root["memory attention"].calls == 1
    predictor.release_recordings()


def test_a_changed_part_has_the_parts_of_its_modules():
    model = image_model()
    model.image_encoder.trunk.blocks[3].register_forward_hook(lambda *args: None)
    root = profile_image(SAM2ImagePredictor(model), IMAGE, runs=1, limits=LIMITS).root
    assert [root[f"encode/stage {i}"].calls for i in range(1, 5)] == list(BLOCKS)
    assert root["mask decoder/transformer/layer 1"].calls == root["encode/patch embedding"].calls == 1


def test_parts_of_plans_on_gpus(predictor, video):
    with away_from_the_cpu():
        image = profile_image(SAM2ImagePredictor(image_model()), IMAGE, runs=1, limits=LIMITS).root
        frame = profile_video(predictor, video[:2], limits=LIMITS).root
    assert image["encode/attention"].calls == sum(BLOCKS) and image["mask decoder/upscaling"].calls == 1
    layers = [frame[f"memory attention/layer {i}"] for i in range(MEMORY_LAYERS)]
    assert [layer.calls for layer in layers] == [1] * MEMORY_LAYERS
    assert all(layer["self-attention/attention"].calls == 1 for layer in layers)


def test_a_compiled_part_is_one_part():
    model = compile_model(video_predictor(), ["memory_encoder"], backend="eager")
    root = profile_video(model, clip(2), frames=1, runs=1, limits=LIMITS).root
    part = root["memory encoding"]
    assert part.calls == 1 and part.flops > 0 and not part.children and root["encode/neck"].calls == 1


def test_limits_of_this_machine(monkeypatch):
    monkeypatch.setattr("sam2fast.profiling.limits.COPIED_ON_CPU", 2**18)
    monkeypatch.setattr("sam2fast.profiling.limits.SIDE_ON_CPU", 128)
    limits = measure_limits(torch.device("cpu"), [torch.float32])
    assert set(limits.flops_per_s) == {"float32"} and limits.flops_per_s["float32"] > 0 and limits.bytes_per_s > 0


def test_bfloat16_is_compared_with_its_own_limit():
    predictor = SAM2ImagePredictor(image_model().to(torch.bfloat16))
    limits = LIMITS._replace(flops_per_s={"float32": 1e11, "bfloat16": 4e11})
    part = profile_image(predictor, IMAGE, runs=1, limits=limits).root["encode/stage 1/MLP"]
    assert part.fraction == part.flops / 4e11 / part.seconds > 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"video": "nowhere.mp4"}, FileNotFoundError, "nowhere.mp4"),
        ({"video": [IMAGE]}, VideoError, "single frame"),
        ({"frames": 0}, ValueError, "frames is 0"),
        ({"objects": 0}, ValueError, "objects is 0"),
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
