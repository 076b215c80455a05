import json
import os

import numpy as np
import pytest
from PIL import Image

from sam2fast.cli.demo import PROMPTS
from sam2fast.demo.canvas import SCALE, Canvas
from sam2fast.demo.scene import HEIGHT, VASE, WIDTH, draw_scene
from sam2fast.rle import decode_rle

PARTS = (".json", "_mask.png", "_overlay.png")
FILES = sorted(["overlay.png", "scene.png", *(name + part for name in ("mug", "vase") for part in PARTS)])


def drawn_vase() -> np.ndarray:
    """Where the vase was drawn, bool, of the picture's size."""
    return VASE.cover(Canvas.of_size(WIDTH, HEIGHT))[::SCALE, ::SCALE]


def test_demo(run, tmp_path, model):
    result = run("demo", "--out", "there", *model.small)
    assert result.exit_code == 0, result.stderr
    assert sorted(os.listdir(tmp_path / "there")) == FILES
    scene = Image.open(tmp_path / "there/scene.png")
    assert scene.size == (WIDTH, HEIGHT)
    np.testing.assert_array_equal(np.asarray(scene), np.asarray(draw_scene()))
    records = {name: json.loads((tmp_path / f"there/{name}.json").read_text()) for name in PROMPTS}
    assert len(records["vase"]["candidate_scores"]) == 3 and records["vase"]["prompts"]["points"]
    assert records["mug"]["candidate_scores"] is None and records["mug"]["prompts"]["box"]
    for name, record in records.items():
        mask = np.asarray(Image.open(tmp_path / f"there/{name}_mask.png")) > 0
        np.testing.assert_array_equal(decode_rle(record["rle"]), mask)
        assert mask.shape == (HEIGHT, WIDTH)
    names = [line.split()[0] for line in result.stdout.splitlines()]
    assert names[:3] == ["image", "vase", "mug"] and "encode" in result.stdout


def test_the_click_is_on_the_vase_and_things_differ_from_their_background():
    vase, pixels = drawn_vase(), np.asarray(draw_scene()).astype(float)
    (click,) = PROMPTS["vase"].clicks
    assert vase[int(click.y), int(click.x)]
    assert 0.02 < vase.mean() < 0.1
    assert np.abs(pixels[vase].mean(axis=0) - pixels[~vase].mean(axis=0)).sum() > 60


def test_demo_without_checkpoint(run, tmp_path):
    result = run("demo")
    assert result.exit_code == 3 and result.stdout == ""
    assert "sam2.1_hiera_tiny.pt" in result.stderr and "https://" in result.stderr
    assert result.stderr.endswith("CHECKPOINT=FILE make demo\n")
    assert os.listdir(tmp_path) == []


def test_demo_with_a_folder_that_is_a_file(run, tmp_path, model):
    (tmp_path / "taken").touch()
    result = run("demo", "--out", "taken", *model.small)
    assert result.exit_code == 1 and result.stderr == "sam2fast: the output folder 'taken' is a file\n"


@pytest.mark.weights
def test_demo_finds_what_was_drawn(run, tmp_path, weights_folder):
    checkpoint = weights_folder / "sam2_hiera_tiny_image_fp16.pt"
    assert run("demo", "--checkpoint", checkpoint, "--device", "cpu").exit_code == 0
    records = {name: json.loads((tmp_path / f"out/demo/{name}.json").read_text()) for name in PROMPTS}
    assert min(record["score"] for record in records.values()) > 0.95
    found, drawn = decode_rle(records["vase"]["rle"]), drawn_vase()
    assert (found & drawn).sum() / (found | drawn).sum() > 0.97
    # The mug's handle belongs to it, the table seen through the handle does not.
    mug = decode_rle(records["mug"]["rle"])
    assert mug[454, 692] and mug[454, 600] and not mug[454, 672] and not mug[540, 600]
