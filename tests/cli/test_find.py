import csv
import json
from pathlib import Path

import numpy as np
import pytest
from coloured_discs import BLUE, RED, SIZE, disc, painted
from commands import NANO, ends, fail_at, invoke, ok
from file_contents import names
from PIL import Image

from sam2fast.cli import found_objects
from sam2fast.io.rle import decode_rle

DISCS = {"a": disc(60, 100, 30), "b": disc(190, 100, 34), "c": disc(150, 60, 26)}


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """Three photographs, with a blue disc in the second, beside a labelled red one."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(painted((disc(80, 90, 34), RED))).save("red.png")
    Image.fromarray(disc(80, 90, 34)).save("mask.png")
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, mask in DISCS.items():
        Image.fromarray(painted((mask, BLUE if name == "b" else RED))).save(folder / f"{name}.png")
    return folder


def run(*arguments: object, reference: str = "red.png", mask: str = "mask.png"):
    options = [*NANO, "--out", "out"]
    return invoke("find", "--reference", reference, "--mask", mask, *options, *arguments)


def rows() -> list[dict[str, str]]:
    with open("out/found.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_masks_and_a_table_by_likeness(photos):
    result = ok(run("photos"))
    results = [f"{name}_{kind}.png" for name in DISCS for kind in ("masks", "overlay")]
    assert names(Path("out")) == sorted([*results, "found.csv", "masks.json"])
    table = rows()
    assert table[-1]["image"] == "b.png"
    assert sorted(row["image"] for row in table[:2]) == ["a.png", "c.png"]
    likenesses = [float(row["likeness"]) for row in table]
    assert likenesses == sorted(likenesses, reverse=True)
    content = json.loads(Path("out/masks.json").read_text())
    for image, one in zip(content["images"], content["annotations"], strict=True):
        mask, name = decode_rle(one["segmentation"]), Path(image["file_name"]).stem
        truth = DISCS[name]
        assert (mask & truth).sum() / (mask | truth).sum() > 0.8
        (row,) = (row for row in table if row["image"] == image["file_name"])
        assert float(row["likeness"]) == one["likeness"] and float(row["score"]) == one["predicted_iou"]
        assert [int(row[side]) for side in ("x", "y", "width", "height")] == one["bbox"]
        np.testing.assert_array_equal(np.asarray(Image.open(f"out/{name}_masks.png")), mask)
    assert f"{likenesses[-1]:.3f}" in result.stdout


def test_most_and_other_formats(photos):
    two = painted((disc(50, 60, 30), RED), (disc(190, 120, 34), RED))
    Image.fromarray(two).save("photos/two.png")
    ok(run("photos/two.png", "--most", "3", "--format", "yolo-seg,npz"))
    assert names(Path("out")) == ["found.csv", "npz", "yolo-seg"]
    assert [row["id"] for row in rows()] == ["1", "2"]
    assert len(Path("out/yolo-seg/labels/two.txt").read_text().splitlines()) == 2


def test_the_least_likeness_leaves_images_out(photos):
    ok(run("photos"))
    red, blue = (float(row["likeness"]) for row in rows()[1:])
    result = ok(run("photos", "--min-likeness", (red + blue) / 2))
    assert "left out: 1 image (no object reaches --min-likeness; photos/b.png)" in result.stderr
    assert len(rows()) == 2
    assert not np.asarray(Image.open("out/b_masks.png")).any()


def test_several_references(photos):
    Image.fromarray(painted((disc(80, 90, 34), BLUE))).save("blue.png")
    alone = ok(run("photos")) and float(rows()[-1]["likeness"])
    ok(run("photos", "--reference", "blue.png", "--mask", "mask.png"))
    both = {row["image"]: float(row["likeness"]) for row in rows()}
    assert both["b.png"] > alone
    ends(run("photos", "--reference", "blue.png"), 2, "2 --reference and 1 --mask")


def test_a_bad_photograph_ends_no_run(photos):
    Path("photos/bad.jpg").write_text("text")
    ends(run("photos"), 1, "photos/bad.jpg cannot be read as an image", "1 of 4 images had problems")
    assert len(rows()) == 3


def test_unusable_references_end_it_before_any_work(photos):
    Image.fromarray(np.ones((5, 7), bool)).save("small.png")
    ends(run("photos", mask="small.png"), 1, "the mask small.png is 7x5, but red.png is 256x192")
    Image.fromarray(np.zeros(SIZE, bool)).save("empty.png")
    ends(run("photos", mask="empty.png"), 1, "the mask empty.png is empty")
    ends(run("photos", reference="none.png"), 1, "none.png")
    ends(run("photos", mask="none.png"), 1, "none.png")
    Image.fromarray(DISCS["a"]).save("photos/a_masks.png")
    ends(run("photos/a.png", "--out", "photos", mask="photos/a_masks.png"), 2, "would overwrite an input")
    assert not Path("out").exists()


def test_an_interrupted_run_is_resumed(photos, monkeypatch):
    with monkeypatch.context() as patch:
        fail_at(patch, found_objects, "find", 3, KeyboardInterrupt())
        assert run("photos").exit_code == 130
    assert len(rows()) == 2
    before = Path("out/a_masks.png").stat().st_mtime_ns
    result = ok(run("photos", "--resume"))
    assert "2 of 3 images were done before" in result.stderr
    assert Path("out/a_masks.png").stat().st_mtime_ns == before
    resumed = rows()
    ok(run("photos"))
    assert rows() == resumed and len(resumed) == 3
    # Another object is another run.
    Image.fromarray(painted((disc(80, 90, 34), BLUE))).save("red.png")
    ends(run("photos", "--resume"), 1, "differs in --reference")
    ends(run("photos", "--resume", "--most", "2"), 1, "--most (1, now 2)")
