import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import NANO, fail_at, ok
from file_contents import names
from painted_model import PaintedModel
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from sam2fast import nano
from sam2fast.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2fast.build_sam import build_sam2
from sam2fast.cli import mask_finder

# Few points and low thresholds: nano quickly finds masks in an image of two halves and noise.
QUICK = [*NANO, "--points-per-side", "4"]
LOOSE = ["--pred-iou-thresh", "0.2", "--stability-score-thresh", "0.3"]
ALL = {"points_per_side": 4, "pred_iou_thresh": 0.2, "stability_score_thresh": 0.3}


@pytest.fixture(scope="module")
def nano_model():
    return build_sam2(nano.CONFIG, nano.WEIGHTS, device="cpu")


class Painted(mask_finder.CheckedGenerator):
    """A fast fake generator with many overlapping masks."""

    def __init__(self, model, **options):
        super().__init__(PaintedModel(), **options)
        self.predictor.model.predictor(self.predictor)


@pytest.fixture
def painted(monkeypatch):
    monkeypatch.setattr(mask_finder, "CheckedGenerator", Painted)


def before_each_image(monkeypatch, act):
    """Makes ``act(image)`` happen before masks are generated for each image."""
    generate = mask_finder.CheckedGenerator.generate

    def acting(self, image):
        act(image)
        return generate(self, image)

    monkeypatch.setattr(mask_finder.CheckedGenerator, "generate", acting)


def read_coco(path: Path) -> COCO:
    json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN is not valid JSON
    return COCO(str(path))


def masks_of(coco: COCO, image_id: int) -> list[np.ndarray]:
    return [coco.annToMask(annotation) > 0 for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))]


def test_results_match_the_generator(run, make_image, tmp_path, nano_model):
    paths = [make_image("a.png"), make_image("b.jpg", width=50, height=90)]
    result = run("masks", *paths, *QUICK, *LOOSE)
    assert result.exit_code == 0 and result.stderr == ""
    assert names(tmp_path / "out") == ["a_masks.png", "a_overlay.png", "b_masks.png", "b_overlay.png", "masks.json"]
    coco = read_coco(tmp_path / "out/masks.json")
    generator = SAM2AutomaticMaskGenerator(nano_model, **ALL)
    assert [(image["file_name"], image["width"], image["height"]) for image in coco.dataset["images"]] == [
        (paths[0].name, 96, 64),
        (paths[1].name, 50, 90),
    ]
    for image_id, path in enumerate(paths, 1):
        expected = sorted(generator.generate(path), key=lambda record: -record["area"])
        found = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
        assert len(found) == len(expected) >= 2
        for i, (annotation, record) in enumerate(zip(found, expected, strict=True), 1):
            np.testing.assert_array_equal(coco.annToMask(annotation) > 0, record["segmentation"])
            assert annotation["layer"] == i and annotation["category_id"] in coco.cats
            assert annotation["area"] == record["segmentation"].sum() and annotation["iscrowd"] == 0
            assert annotation["bbox"] == list(coco_masks.toBbox(annotation["segmentation"]))
            assert annotation["predicted_iou"] == pytest.approx(record["predicted_iou"], abs=1e-5)
            assert annotation["stability_score"] == pytest.approx(record["stability_score"], abs=1e-5)
            assert annotation["point"] == record["point_coords"][0]
    assert coco.getCatIds() == [1]
    name, count, best, size = result.stdout.splitlines()[2].split()
    assert (name, size) == (str(paths[1]), "50x90")
    assert int(count) == len(found) and best == f"{max(a['predicted_iou'] for a in found):.3f}"


def test_layers_show_the_smallest_mask_at_each_pixel(run, make_image, tmp_path, painted):
    """Many overlapping masks."""
    options = ["--points-per-side", "6", "--pred-iou-thresh", "0.4", "--stability-score-thresh", "0.6"]
    assert run("masks", make_image(), *QUICK, *options).exit_code == 0
    coco = read_coco(tmp_path / "out/masks.json")
    masks = masks_of(coco, 1)
    assert len(masks) >= 10 and sum(masks).max() >= 3
    areas = [mask.sum() for mask in masks]
    assert areas == sorted(areas, reverse=True)
    expected = np.zeros((64, 96), dtype=int)
    for y, x in np.ndindex(64, 96):
        here = [i for i, mask in enumerate(masks) if mask[y, x]]
        expected[y, x] = max(here, default=-1) + 1
    layers = Image.open(tmp_path / "out/image_masks.png")
    assert layers.mode == "P"
    np.testing.assert_array_equal(np.asarray(layers), expected)
    assert Image.open(tmp_path / "out/image_overlay.png").size == (96, 64)


def test_more_masks_than_a_palette_has_colours(run, make_image, tmp_path, painted):
    options = [
        "--points-per-side",
        "12",
        "--pred-iou-thresh",
        "0",
        "--stability-score-thresh",
        "0",
        "--box-nms-thresh",
        "1",
    ]
    assert run("masks", make_image(), *QUICK, *options, "--format", "layers,json").exit_code == 0
    assert names(tmp_path / "out") == ["image_masks.png", "masks.json"]
    coco = read_coco(tmp_path / "out/masks.json")
    count = len(coco.anns)
    assert count > 255
    layers = Image.open(tmp_path / "out/image_masks.png")
    assert layers.mode == "I;16" and np.asarray(layers).max() == count
    info = coco.dataset["info"]["options"]
    assert info["pred_iou_thresh"] == info["stability_score_thresh"] == 0  # not the default
    np.testing.assert_array_equal(np.asarray(layers) == count, masks_of(coco, 1)[-1])


def test_options_reach_the_generator(run, make_image, tmp_path, monkeypatch):
    seen = {}

    class Spy(mask_finder.CheckedGenerator):
        def __init__(self, model, **options):
            super().__init__(model, **options)
            seen.update(vars(self))

        def generate(self, image):
            return []

    monkeypatch.setattr(mask_finder, "CheckedGenerator", Spy)
    asked = {
        "points_per_batch": 7, "pred_iou_thresh": 0.11, "stability_score_thresh": 0.12, "box_nms_thresh": 0.13,
        "crop_n_layers": 1, "crop_nms_thresh": 0.14, "crop_overlap_ratio": 0.15, "crop_n_points_downscale_factor": 2,
        "min_mask_region_area": 16, "use_m2m": True,
    }  # fmt: skip
    named = {f"--{name.replace('_', '-')}": value for name, value in asked.items()}
    options = [name if value is True else f"{name}={value}" for name, value in named.items()]
    ok(run("masks", make_image(), "--model", "nano", "--points-per-side", 6, *options))
    assert {name: seen[name] for name in asked} == asked
    assert [len(grid) for grid in seen["point_grids"]] == [36, 9]
    info = json.loads((tmp_path / "out/masks.json").read_text())["info"]
    assert info["options"] == {"points_per_side": 6, **asked}
    assert info["model"]["config"] == nano.CONFIG


@pytest.mark.parametrize("small_model", [True, False])
def test_defaults_match_the_generator(run, make_image, monkeypatch, model, small_model):
    """Except for nano's lower thresholds."""
    made = []
    nothing = SimpleNamespace(generate=lambda image: [])
    monkeypatch.setattr(mask_finder, "CheckedGenerator", lambda model, **options: made.append(options) or nothing)
    assert run("masks", make_image(), *(["--model", "nano"] if small_model else model.small)).exit_code == 0
    generator = vars(SAM2AutomaticMaskGenerator(PaintedModel(), points_per_side=32))
    if small_model:
        generator |= {"pred_iou_thresh": 0.5, "stability_score_thresh": 0.7}
    options = made[0]
    for own in ("points_per_side", "output_mode", "progress"):
        options.pop(own)
    assert {name: generator[name] for name in options} == options and len(options) == 10


def test_nothing_found(run, make_image, tmp_path):
    result = run("masks", make_image(), *QUICK, "--pred-iou-thresh", "1")
    assert result.exit_code == 0 and " 0 " in result.stdout
    assert result.stderr.startswith("sam2fast: note: no mask in ") and "--pred-iou-thresh" in result.stderr
    coco = read_coco(tmp_path / "out/masks.json")
    assert len(coco.imgs) == 1 and not coco.anns
    assert not np.asarray(Image.open(tmp_path / "out/image_masks.png")).any()
    overlay = np.asarray(Image.open(tmp_path / "out/image_overlay.png"))
    np.testing.assert_array_equal(overlay, np.asarray(Image.open(tmp_path / "image.png")))


def test_progress(run, make_image, tmp_path, painted):
    (tmp_path / "b.png").write_bytes(b"no image")
    result = run("masks", make_image("a.png"), "b.png", *QUICK, "--progress", "--format", "json")
    assert "2/2" in result.stderr and "100% of this image" in result.stderr
    # The error is printed on its own line above the progress bar.
    assert any(line.startswith("sam2fast: b.png cannot be read") for line in result.stderr.splitlines())
    assert run("masks", make_image("a.png"), *QUICK, "--format", "json").stderr == ""


def test_images_that_fail_do_not_affect_others(run, make_image, tmp_path, painted, monkeypatch):
    """One cannot be read, and one is too large for the memory."""

    def fail_for_wide_ones(image):
        if image.shape[1] > 100:
            raise torch.OutOfMemoryError("tried to allocate 1 TiB")

    before_each_image(monkeypatch, fail_for_wide_ones)
    (tmp_path / "b.png").write_bytes(b"no image")
    images = [make_image("wide.png", width=120), make_image("a.png"), "b.png", make_image("c.png")]
    result = run("masks", *images, *QUICK, *LOOSE)
    assert result.exit_code == 1
    first, second, *_, last = result.stderr.splitlines()
    assert first == f"sam2fast: {tmp_path / 'wide.png'}: tried to allocate 1 TiB"
    assert second.startswith("sam2fast: b.png cannot be read") and last.startswith(
        "sam2fast: 2 of 4 images had problems"
    )
    assert len(result.stdout.splitlines()) == 5
    assert names(tmp_path / "out") == ["a_masks.png", "a_overlay.png", "c_masks.png", "c_overlay.png", "masks.json"]
    coco = read_coco(tmp_path / "out/masks.json")
    assert [Path(image["file_name"]).name for image in coco.imgs.values()] == ["a.png", "c.png"]
    assert set(coco.imgToAnns) == {1, 2}


def test_interrupted_by_the_keyboard(run, make_image, tmp_path, painted, monkeypatch):
    fail_at(monkeypatch, mask_finder.CheckedGenerator, "generate", 3, KeyboardInterrupt())
    result = run("masks", *(make_image(f"{name}.png") for name in "abcd"), *QUICK)
    assert result.exit_code == 130 and result.stderr == "sam2fast: interrupted\n"
    assert names(tmp_path / "out") == ["a_masks.png", "a_overlay.png", "b_masks.png", "b_overlay.png", "masks.json"]
    assert len(read_coco(tmp_path / "out/masks.json").imgs) == 2


def test_results_are_saved_while_it_runs(run, make_image, tmp_path, painted, monkeypatch):
    """So that a killed run keeps them."""
    monkeypatch.setattr(mask_finder, "SECONDS_BETWEEN_SAVES", 0.0)
    file, there = tmp_path / "out/masks.json", []
    before_each_image(monkeypatch, lambda _: there.append(len(read_coco(file).imgs) if file.exists() else 0))
    assert run("masks", *(make_image(f"{name}.png") for name in "abc"), *QUICK).exit_code == 0
    assert there == [0, 1, 2]
