"""``sam2fast evaluate-images``: scores, files, broken inputs, and wrong usage."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import NANO, ends
from file_contents import names
from PIL import Image
from thread_workers import instead_of_processes

from sam2fast import SAM2ImagePredictor, nano
from sam2fast.evaluation.clicks import evaluate_boxes, evaluate_clicks, image_evaluation
from sam2fast.io.label_maps import label_png
from sam2fast.training.data.synthetic import SyntheticClips

NAMES = ["a.jpg", "b.jpg", "sub/c.jpg"]


@pytest.fixture(scope="module")
def clips() -> list[Any]:
    factory = SyntheticClips(size=96, num_frames=1, max_objects=3, length=3, seed=7)
    return [factory.sample(i, np.random.default_rng([7, i])) for i in range(3)]


@pytest.fixture
def data(tmp_path, clips) -> Path:
    """Three images, and their masks as palette PNGs in another folder."""
    for name, clip in zip(NAMES, clips, strict=True):
        for folder in ("images", "masks"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(clip.frames[0]).save(tmp_path / "images" / name, quality=100)
        labels = (clip.masks[0] * np.arange(1, len(clip.masks[0]) + 1)[:, None, None]).sum(axis=0)
        (tmp_path / "masks" / name).with_suffix(".png").write_bytes(label_png(labels.astype(np.uint8)))
    return tmp_path


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as text:
        return list(csv.DictReader(text))


def test_scores_match_the_functions(run, data, clips):
    options = ["--clicks", "3,1", "--box", "--out", "results/run.csv"]
    result = run("evaluate-images", "images", "--masks", "masks", *options, *NANO)
    assert result.exit_code == 0 and result.stderr == ""
    assert names(data / "results") == ["run.csv", "run.json"]
    found, rows = json.loads((data / "results/run.json").read_text()), rows_of(data / "results/run.csv")
    predictor = SAM2ImagePredictor.from_pretrained("sam2fast/nano", device="cpu")
    clicks, boxes = [], []
    for name, clip in zip(NAMES, clips, strict=True):
        clicks.append(evaluate_clicks(predictor, data / "images" / name, clip.masks[0], 3))
        boxes.append(evaluate_boxes(predictor, None, clip.masks[0]).ious)
        mine = [row for row in rows if row["image"] == name]
        assert [row["object"] for row in mine] == [str(i + 1) for i in range(len(clip.masks[0]))]
        assert [int(row["area"]) for row in mine] == clip.masks[0].sum(axis=(1, 2)).tolist()
        for k, column in ((1, "1 click"), (2, "2 clicks"), (3, "3 clicks")):
            np.testing.assert_allclose([float(row[column]) for row in mine], clicks[-1].ious[:, k - 1], atol=1e-6)
        np.testing.assert_allclose([float(row["box"]) for row in mine], boxes[-1], atol=1e-6)
    ious = np.concatenate([scores.ious for scores in clicks])
    expected = {
        "1 click": ious[:, 0].mean(),
        "1 click, best of 3": np.concatenate([scores.best_of_three for scores in clicks]).mean(),
        "3 clicks": ious[:, 2].mean(),
        "box": np.concatenate(boxes).mean(),
    }
    assert {prompt: value["mean"] for prompt, value in found["miou"].items()} == pytest.approx(expected, abs=1e-6)
    assert (found["images"], found["objects"]) == (3, len(rows)) and found["problems"] == []
    assert found["model"]["config"] == nano.CONFIG and found["data"]["format"] == "png"
    assert found["settings"]["clicks"] == [1, 3] and found["settings"]["box"] is True
    lines = result.stdout.splitlines()
    assert lines[2].split()[:3] == ["1", "click", f"{100 * expected['1 click']:.1f}"] and len(lines) == 8
    assert lines[-1] == f"written to {Path('results/run.json')} and {Path('results/run.csv')}"


def test_options_reach_the_settings(run, data, monkeypatch):
    seen = []

    def look(predictor, job, settings):
        seen.append((job.name, settings))
        raise ValueError("not today")

    monkeypatch.setattr(image_evaluation, "evaluate_image", look)
    options = ["--clicks", "2", "--no-feedback", "--box", "--box-noise", "0.1", "--images", 2, "--max-objects", 4]
    more = ["--min-area", 9, "--seed", 3, "--objects-per-batch", 5, "--format", "png"]
    ends(run("evaluate-images", "images", "--masks", "masks", *NANO, *options, *more), 1, "ValueError: not today")
    assert len(seen) == 2 and {name for name, _ in seen} < set(NAMES)
    assert vars(seen[0][1]) == {
        "clicks": 2, "feed_back": False, "box": True, "box_noise": 0.1, "min_area": 9, "max_objects": 4, "seed": 3,
        "objects_per_batch": 5,
    }  # fmt: skip


def test_broken_and_missing_files_do_not_affect_others(run, data):
    (data / "images/a.jpg").write_bytes(b"no image")
    (data / "masks/b.png").write_bytes((data / "masks/b.png").read_bytes()[:50])
    Image.new("RGB", (9, 9)).save(data / "images/alone.png")
    Image.new("L", (9, 9)).save(data / "masks/lost.png")
    result = run("evaluate-images", "images", "--masks", "masks", "--clicks", 1, "--out", "run", *NANO)
    assert result.exit_code == 1
    *_, report = result.stderr.partition("failed or incomplete: 4 of 5 images and masks:")
    for name in ("a.jpg", "b.png", "alone.png", "lost.png"):
        assert name in report
    assert "4 of 5 images and masks had problems; all else was done" in report.splitlines()[-1]
    assert {row["image"] for row in rows_of(data / "run.csv")} == {"sub/c.jpg"}
    found = json.loads((data / "run.json").read_text())
    assert found["images"] == 1 and len(found["problems"]) == 4
    assert result.stdout.splitlines()[-2].startswith("time: ")


def test_several_devices_give_the_same(run, data, monkeypatch):
    instead_of_processes(monkeypatch)
    (data / "images/b.jpg").write_bytes(b"no image")
    found = []
    for device in ("cpu", "cpu,cpu"):
        options = ["--model", "nano", "--device", device, "--clicks", 2, "--out", len(found)]
        ends(run("evaluate-images", "images", "--masks", "masks", *options), 1, "b.jpg")
        found.append((data / f"{len(found)}.csv").read_text())
    assert found[0] == found[1] and found[0].count("\n") > 3
    assert json.loads((data / "1.json").read_text())["model"]["device"] == "cpu,cpu"
