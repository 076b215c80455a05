"""``sam2fast segment``: its results and files, and images that cannot be read."""

import json
import re

import numpy as np
import pytest
from commands import load, ok
from file_contents import names
from PIL import Image

from sam2fast.build_sam import build_sam2
from sam2fast.io.rle import decode_rle
from sam2fast.sam2_image_predictor import SAM2ImagePredictor

EXIF_ORIENTATION, QUARTER_TURN = 0x0112, 6


def read_mask(path) -> np.ndarray:
    pixels = np.asarray(Image.open(path))
    assert pixels.ndim == 2 and set(np.unique(pixels)) <= {0, 255}
    return pixels > 0


@pytest.fixture(scope="module")
def api(model) -> SAM2ImagePredictor:
    """The small model's results without the command line."""
    return SAM2ImagePredictor(build_sam2(model.small_config, model.checkpoint, device="cpu"))


@pytest.fixture
def rotated(make_image, tmp_path) -> list[str]:
    """An image, and the same image rotated by EXIF in another folder."""
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = QUARTER_TURN
    upright, lying = make_image("a.png"), tmp_path / "folder/b.png"
    lying.parent.mkdir()
    Image.open(upright).transpose(Image.Transpose.ROTATE_90).save(lying, exif=exif)
    return [str(upright), str(lying)]


def test_images(run, rotated, tmp_path, model, api):
    """The small model's results for an image and its rotated copy."""
    out = tmp_path / "results"
    result = ok(run("segment", *rotated, "--point", "20,30", "--out", out, "--json", *model.small))
    printed = json.loads(result.stdout)
    assert names(out) == [f"{name}{suffix}" for name in "ab" for suffix in (".json", "_mask.png", "_overlay.png")]
    relative = [
        {**record, "image": name} for record, name in zip(printed["results"], ("a.png", "folder/b.png"), strict=True)
    ]
    assert relative == [load(out / "a.json"), load(out / "b.json")]
    api.set_image(rotated[0])
    masks, scores, _ = api.predict(np.array([[20, 30]]), np.array([1]))
    said = {"config": str(model.small_config), "checkpoint": str(model.checkpoint), "device": "cpu", "dtype": "float32"}
    for record, path in zip(printed["results"], rotated, strict=True):
        found = read_mask(record["files"]["mask"])
        assert (record["size"]["width"], record["size"]["height"]) == (96, 64) == found.shape[::-1]
        assert Image.open(record["files"]["overlay"]).size == (96, 64)
        np.testing.assert_array_equal(decode_rle(record["rle"]), found)
        assert record["area"] == found.sum() and record["image"] == path and record["model"] == said
        assert record["prompts"] == {"points": [[20, 30]], "labels": [1], "box": None, "mask": None}
        np.testing.assert_allclose(record["candidate_scores"], scores, atol=1e-4)
        assert record["score"] == max(record["candidate_scores"])
        assert (masks[scores.argmax()] != found).mean() < 1e-3

    lines = run("segment", *rotated, "--point", "20,30", *model.small).stdout.splitlines()
    name, score, area, box = lines[1].split()
    record = printed["results"][0]
    assert name == rotated[0] and score == f"{record['score']:.3f}" and area == str(record["area"])
    assert box == ",".join(map(str, record["box"]))
    stages = re.findall(r"([a-z ]+) \d+\.\d\d s", lines[3].removeprefix("time:"))
    assert [stage.strip() for stage in stages] == ["load model", "read image", "encode", "predict", "write"]


@pytest.mark.parametrize(
    ("arguments", "prompts"),
    [
        ("--box 10,8,60,50", {"box": [10, 8, 60, 50]}),
        ("--point 20,30 --point 60,30,0", {"point_coords": [[20, 30], [60, 30]], "point_labels": [1, 0]}),
        ("--point 20,30 --box 10,8,60,50", {"point_coords": [[20, 30]], "point_labels": [1], "box": [10, 8, 60, 50]}),
    ],
)
def test_unambiguous_prompts_give_one_mask(run, make_image, tmp_path, model, api, arguments, prompts):
    path = make_image()
    assert run("segment", path, *arguments.split(), *model.small).exit_code == 0
    record = load(tmp_path / "out/image.json")
    api.set_image(str(path))
    masks, scores, _ = api.predict(**prompts, multimask_output=False)
    assert record["candidate_scores"] is None
    assert record["score"] == pytest.approx(float(scores[0]), abs=1e-4)
    mask = read_mask(tmp_path / "out/image_mask.png")
    assert (mask != (masks[0] > 0)).mean() < 1e-3
    if mask.any():
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert record["box"] == [columns[0], rows[0], columns[-1], rows[-1]]
    else:
        assert record["box"] is None


@pytest.mark.parametrize("brightest", [1, 255])
def test_mask_prompt(run, make_image, tmp_path, model, api, brightest):
    """A mask image of another size; its bounds are used as the box, unless there is one."""
    rough = np.zeros((32, 48), dtype=np.uint8)
    rough[8:24, 12:36] = brightest
    Image.fromarray(rough).save(tmp_path / "rough.png")
    path = make_image()
    assert run("segment", path, "--mask", tmp_path / "rough.png", *model.small).exit_code == 0
    record = load(tmp_path / "out/image.json")
    assert record["prompts"]["box"] == [24, 16, 72, 48]
    assert record["prompts"]["mask"] == str(tmp_path / "rough.png")
    # 64 is a quarter of the small model's image size. Resizing blurs the edges a little, hence the tolerance.
    logits = np.full((1, 64, 64), -4, dtype=np.float32)
    logits[:, 16:48, 16:48] = 4
    api.set_image(str(path))
    box = np.array([24, 16, 72, 48])
    _, scores, _ = api.predict(box=box, mask_input=logits, multimask_output=False)
    _, without, _ = api.predict(box=box, multimask_output=False)
    assert abs(record["score"] - scores[0]) < 0.2 * abs(without[0] - scores[0])
    assert run("segment", path, "--mask", tmp_path / "rough.png", "--box", "1,2,30,40", *model.small).exit_code == 0
    assert load(tmp_path / "out/image.json")["prompts"]["box"] == [1, 2, 30, 40]


@pytest.mark.weights
def test_truck(run, tmp_path, monkeypatch, weights_folder, data_folder):
    """A click gives the published scores; a disc over a wheel and a box around it give the wheel's mask."""
    monkeypatch.setattr("sam2fast.cli.segmenter.build_sam2", build_sam2)  # with its notes
    truck = data_folder / "images/truck.jpg"
    chosen = ["--checkpoint", weights_folder / "sam2_hiera_tiny_image_fp16.pt", "--device", "cpu"]
    y, x = np.ogrid[:300, :450]
    Image.fromarray(np.hypot(x - 140, y - 185) < 30).save(tmp_path / "rough.png")
    prompts = ["--point", "window,500,375", "--mask", "disc,rough.png", "--box", "wheel,425,600,700,875"]
    result = ok(run("segment", truck, *prompts, "--json", *chosen))
    assert "works for images, not for video:" in result.stderr
    found = {record["object"]: record for record in json.loads(result.stdout)["results"]}
    np.testing.assert_allclose(found["window"]["candidate_scores"], (0.046, 0.920, 0.523), atol=0.005)
    assert found["window"]["model"]["config"] == "configs/sam2/sam2_hiera_t.yaml"
    by_mask, by_box = (read_mask(tmp_path / f"out/truck_{name}_mask.png") for name in ("disc", "wheel"))
    assert found["wheel"]["score"] == pytest.approx(0.968, abs=0.005)
    assert (by_mask & by_box).sum() / (by_mask | by_box).sum() > 0.9
