"""``masks`` and ``segment`` in a folder with results of an earlier run: files of what is gone are removed."""

import json
from pathlib import Path

import pytest
from commands import NANO, ok
from file_contents import files_of, names

FAST = (*NANO, "--points-per-side", "2")
FORMATS = "json,layers,yolo,labelme"


@pytest.fixture
def photos(make_image, tmp_path) -> Path:
    for name in ("a.png", "b.png", "c.png"):
        make_image(f"photos/{name}")
    return tmp_path / "photos"


def of_image(out: Path, stem: str) -> list[str]:
    """The files of an image in a folder of results."""
    return sorted(name for name in files_of(out) if Path(name).stem.removesuffix("_masks") == stem)


FILES = ["b_masks.png", "labelme/b.json", "labelme/b.png", "yolo/images/b.png", "yolo/labels/b.txt"]


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_files_of_a_removed_photograph_are_removed(run, photos, tmp_path, resume):
    command = ["masks", "photos", *FAST, "--format", FORMATS, "--out", "out", *resume]
    ok(run(*command))
    assert of_image(tmp_path / "out", "b") == FILES
    (photos / "b.png").unlink()
    result = ok(run(*command))
    assert "gone: 5 (first:" in result.stderr and of_image(tmp_path / "out", "b") == []
    assert of_image(tmp_path / "out", "a") and of_image(tmp_path / "out", "c")
    images = json.loads((tmp_path / "out/masks.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["a.png", "c.png"]
    assert ("its file is gone" in result.stderr) == bool(resume)
    assert "earlier runs" not in ok(run(*command)).stderr


def test_a_corrected_label_and_files_of_other_formats_and_inputs_are_kept(run, photos, tmp_path):
    ok(run("masks", "photos", *FAST, "--format", FORMATS, "--out", "out"))
    label = tmp_path / "out/yolo/labels/b.txt"
    label.write_text("0 0.5 0.5 0.25 0.25\n")
    mine = tmp_path / "out/yolo/labels/mine.txt"
    mine.write_text("")
    (photos / "b.png").unlink()
    result = ok(run("masks", "photos/a.png", *FAST, "--format", "yolo", "--out", "out"))
    assert f"since they were changed: 1 (first: {Path('out/yolo/labels/b.txt')})" in result.stderr
    assert "kept, of images without results in this run: 2 (first: " in result.stderr
    assert of_image(tmp_path / "out", "b") == ["b_masks.png", "labelme/b.json", "labelme/b.png", "yolo/labels/b.txt"]
    assert len(of_image(tmp_path / "out", "c")) == 5 and mine.exists()


def test_without_a_record_nothing_is_removed(run, photos, tmp_path):
    """Runs after version 0.3, which wrote no record."""
    command = ["masks", "photos", *FAST, "--format", FORMATS, "--out", "out"]
    ok(run(*command))
    (tmp_path / "out/.masks.files.json").write_text('{"../photos/a.png": ["/none.png", "0"], "x": 1}')
    (photos / "b.png").unlink()
    ok(run(*command))
    assert of_image(tmp_path / "out", "b") == FILES and (photos / "a.png").exists()


def test_files_of_a_folder_that_is_missing_are_kept(run, photos, make_image, tmp_path):
    """The folder may be on a drive that is not mounted."""
    ok(run("masks", "photos", *FAST, "--format", FORMATS, "--out", "out"))
    photos.rename(tmp_path / "elsewhere")
    result = ok(run("masks", make_image("d.png"), *FAST, "--format", FORMATS, "--out", "out", "--resume"))
    assert "kept, of images without results" not in result.stderr and "gone" not in result.stderr
    result = ok(run("masks", "d.png", *FAST, "--format", FORMATS, "--out", "out"))
    assert "kept, of images without results in this run: 15 (first:" in result.stderr
    assert of_image(tmp_path / "out", "b") == FILES


def test_files_of_an_object_without_prompts_are_removed(run, photos, tmp_path):
    command = ["segment", "photos/a.png", "photos/b.png", *NANO, "--out", "out", "--point"]
    ok(run(*command, "cup,20,20", "--point", "plate,70,30"))
    assert "a_plate_mask.png" in names(tmp_path / "out")
    assert "gone: 2 (first:" in ok(run(*command, "cup,20,20")).stderr
    left = [f"{stem}{end}" for stem in "ab" for end in (".json", "_cup_mask.png", "_overlay.png")]
    assert names(tmp_path / "out") == left
    (photos / "b.png").unlink()
    assert "gone: 3 (first:" in ok(run("segment", "photos/a.png", *NANO, "--out", "out", "--point", "cup,20,20")).stderr
    assert names(tmp_path / "out") == left[:3]
