import functools
import json
import os
import re
import sys

import moving_shapes
import numpy as np
import pytest
import torch
from PIL import Image

from sam2fast import nano
from sam2fast.checkpoints import VIDEO_ONLY
from sam2fast.cli.demo_run import PROMPTS, demo_files
from sam2fast.demo import clip as demo_clip
from sam2fast.demo.canvas import SCALE, Canvas
from sam2fast.demo.clip import make_clip
from sam2fast.demo.scene import HEIGHT, PHOTOGRAPH, PHOTOGRAPH_POINT, VASE, WIDTH, draw_scene
from sam2fast.evaluation.j_and_f import j_and_f
from sam2fast.io.rle import decode_rle
from sam2fast.sam2_video_predictor import SAM2VideoPredictor

PARTS = (".json", "_mask.png", "_overlay.png")
STILL_LIFE = ["overlay.png", "scene.png", *(name + part for name in PROMPTS for part in PARTS)]
PHOTOGRAPH_RESULTS = ["photo" + part for part in PARTS]
VIDEO = ["tracked.json", "tracked.mp4", "tracked.png"]
FRAMES = 5
draw_scene_once = functools.cache(draw_scene)


@pytest.fixture
def drawn_once(monkeypatch):
    """Draws the still life only once; a test shows that every drawing is the same."""
    monkeypatch.setattr("sam2fast.cli.demo_run.draw_scene", draw_scene_once)


@pytest.fixture
def short_clip(monkeypatch):
    monkeypatch.setattr(demo_clip, "FRAMES", FRAMES)


def load(path) -> dict:
    return json.loads(path.read_text())


def test_demo(run, tmp_path, short_clip, drawn_once):
    """The whole demo with nano."""
    out = tmp_path / "out/demo"
    out.mkdir(parents=True)
    for file in demo_files(out):  # of a killed run
        file.with_name(f".{file.name}.1.part").touch()
    result = run("demo", "--model", "nano", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert sorted(os.listdir(out)) == sorted([*STILL_LIFE, *PHOTOGRAPH_RESULTS, *VIDEO])
    assert "note:" not in result.stderr

    assert len(moving_shapes.decoded(out / "tracked.mp4")[0]) == FRAMES
    scene = Image.open(out / "scene.png")
    assert scene.size == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(np.asarray(scene), np.asarray(draw_scene_once()))
    lines = {line.split()[0]: line.split() for line in result.stdout.splitlines()}
    for name in ("photo", *PROMPTS):
        record = load(out / f"{name}.json")
        mask = np.asarray(Image.open(out / f"{name}_mask.png")) > 0
        np.testing.assert_array_equal(decode_rle(record["rle"]), mask)
        assert mask.shape == ((400, 600) if name == "photo" else (HEIGHT, WIDTH))
        assert Image.open(out / f"{name}_overlay.png").size == mask.shape[::-1]
        assert lines[name][1:3] == [f"{record['score']:.3f}", str(mask.sum())]
        assert record["model"]["config"] == nano.CONFIG
        assert (record["prompts"]["box"] is None) == (name in ("vase", "apple", "photo"))
    assert load(out / "photo.json")["image"] == str(PHOTOGRAPH)
    assert load(out / "photo.json")["prompts"]["points"] == [list(PHOTOGRAPH_POINT)]


@pytest.mark.long
def test_results_are_deterministic_and_printed_scores_match_the_files(run, tmp_path, short_clip):
    for name in ("one", "two"):
        result = run("demo", "--model", "nano", "--device", "cpu", "--out", name)
        assert result.exit_code == 0
    for file in sorted(os.listdir(tmp_path / "one")):
        one, two = ((tmp_path / name / file).read_bytes() for name in ("one", "two"))
        assert one.replace(b'"one/', b'"two/') == two, file

    record = load(tmp_path / "two/tracked.json")
    found, truth = (
        np.stack([[decode_rle(rle) for rle in thing[key]] for thing in record["objects"]], axis=1)
        for key in ("rle", "truth")
    )
    np.testing.assert_array_equal(truth, make_clip().masks)
    measures = j_and_f(found, truth)
    _, header, *rows = (line.split() for line in result.stdout.splitlines()[:4])
    assert header[-3:] == ["J", "F", "J&F"] and [row[:-3] for row in rows] == [["ball", "(click)"], ["mug", "(box)"]]
    for i, (row, thing) in enumerate(zip(rows, record["objects"], strict=True)):
        expected = [100 * float(values[i]) for values in (measures.j, measures.f, measures.per_object)]
        np.testing.assert_allclose([thing["J"], thing["F"], thing["J&F"]], expected, atol=1e-4)
        np.testing.assert_allclose([float(number) for number in row[-3:]], expected, atol=0.051)
    assert re.search(rf"{FRAMES} frames of 480x320 at [\d.]+ frames/s", result.stdout)


@pytest.mark.slow
def test_mini_tracks_both_objects_in_every_frame():
    """The clip is the first image of the README: a mean over frames may hide a mask that takes in another object."""
    clip = make_clip()
    prompts = demo_clip.prompts_for(clip)
    found = demo_clip.track(SAM2VideoPredictor.from_pretrained("sam2fast/mini", device="cpu"), clip, prompts)
    union, common = ((found | clip.masks).sum((2, 3)), (found & clip.masks).sum((2, 3)))
    hidden = ~clip.masks[:, 0].any((1, 2))
    assert hidden.any() and not union[hidden, 0].any()
    assert (common >= 0.9 * union).all()


def test_a_users_image_and_weights_for_images_only(run, tmp_path, make_image, nano_checkpoint, drawn_once):
    weights = torch.load(nano_checkpoint, weights_only=True)["model"]
    torch.save({"model": {k: v for k, v in weights.items() if not k.startswith(VIDEO_ONLY)}}, tmp_path / "image.pt")
    clicks = ["--point", "20,30", "--point", "90,60,0", "--point", "50,5"]
    result = run("demo", "--image", make_image("mine.png"), *clicks, "--checkpoint", "image.pt", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert "note: no video, since image.pt has weights for images only" in result.stderr
    assert not set(VIDEO) & set(os.listdir(tmp_path / "out/demo"))
    record = load(tmp_path / "out/demo/photo.json")
    assert record["image"] == str(tmp_path / "mine.png") and record["prompts"]["labels"] == [1, 0, 1]
    assert record["size"] == {"width": 96, "height": 64}


def test_without_pyav(run, tmp_path, monkeypatch, short_clip, drawn_once):
    """Without PyAV, there is no video, with a note."""
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr("sam2fast.cli.demo_run.PROMPTS", {"vase": PROMPTS["vase"]})
    result = run("demo", "--model", "nano", "--device", "cpu")
    assert result.exit_code == 0
    assert sorted(os.listdir(tmp_path / "out/demo")) == sorted(
        [
            "overlay.png",
            "scene.png",
            *("vase" + part for part in PARTS),
            *PHOTOGRAPH_RESULTS,
            "tracked.json",
            "tracked.png",
        ]
    )
    (note,) = result.stderr.splitlines()
    assert "sam2fast[video]" in note


@pytest.mark.weights
def test_demo_finds_what_was_drawn(run, tmp_path, weights_folder, drawn_once):
    checkpoint = weights_folder / "sam2_hiera_tiny_image_fp16.pt"
    assert run("demo", "--checkpoint", checkpoint, "--device", "cpu").exit_code == 0
    records = {name: load(tmp_path / f"out/demo/{name}.json") for name in PROMPTS}
    assert min(record["score"] for record in records.values()) > 0.95
    found, drawn = decode_rle(records["vase"]["rle"]), VASE.cover(Canvas.of_size(WIDTH, HEIGHT))[::SCALE, ::SCALE]
    assert (found & drawn).sum() / (found | drawn).sum() > 0.97
    # The mug's handle belongs to the mug, the table visible through it does not.
    mug = decode_rle(records["mug"]["rle"])
    assert mug[454, 692] and mug[454, 600] and not mug[454, 672] and not mug[540, 600]
