"""``--device`` with several devices: the same results as with one, in the same order."""

import json
from pathlib import Path
from typing import Any

import pytest
from file_contents import files_of
from thread_workers import instead_of_processes

TWO = "cpu,cpu"
QUICK = ["--model", "nano", "--points-per-side", "2", "--pred-iou-thresh", "0", "--stability-score-thresh", "0"]


@pytest.fixture
def threads(monkeypatch):
    """Workers are threads, which share the loaded model."""
    instead_of_processes(monkeypatch)


def without_device(file: Path) -> dict[str, Any]:
    """A JSON document without the device and the names of files, which may differ."""
    document = json.loads(file.read_text())
    del document["model"]["device"], document["files"]
    return document


def test_segment(threads, run, make_image, tmp_path):
    images = [make_image(f"{name}.png", width=96 + 8 * i) for i, name in enumerate("ab")]
    ask = ["segment", *images, "--model", "nano", "--point", "48,30"]
    one = run(*ask, "--device", "cpu", "--out", tmp_path / "one", "--json")
    two = run(*ask, "--device", "cpu,cpu", "--out", tmp_path / "two", "--json")
    assert two.exit_code == 0 and two.stderr == ""
    assert files_of(tmp_path / "one", "*.png") == files_of(tmp_path / "two", "*.png") != {}
    for name in "ab":
        assert without_device(tmp_path / "two" / f"{name}.json") == without_device(tmp_path / "one" / f"{name}.json")
    found = json.loads(two.stdout)
    assert [r["image"] for r in found["results"]] == [str(image) for image in images]
    assert found["seconds"].keys() == json.loads(one.stdout)["seconds"].keys()


def test_one_image_needs_one_device(run, make_image, tmp_path):
    result = run("segment", make_image(), "--model", "nano", "--point", "48,30", "--device", "cpu,cpu")
    assert result.exit_code == 0 and result.stderr == "sam2fast: note: cpu not used: 1 image only\n"


def test_masks(threads, run, make_image, tmp_path):
    """A broken image is reported, and the others are done."""
    for i, name in enumerate("ad"):
        make_image(f"photos/{name}.png", width=96 + 8 * i)
    (tmp_path / "photos/c.png").write_text("no image")
    one = run("masks", "photos", *QUICK, "--device", "cpu", "--out", "one")
    two = run("masks", "photos", *QUICK, "--device", TWO, "--out", "two")
    assert one.exit_code == two.exit_code == 1
    assert two.stderr == one.stderr and "c.png" in one.stderr
    assert files_of(tmp_path / "one", "*.png") == files_of(tmp_path / "two", "*.png") != {}
    found, expected = (json.loads((tmp_path / name / "masks.json").read_text()) for name in ("two", "one"))
    assert found["info"]["model"].pop("device") == TWO and expected["info"]["model"].pop("device") == "cpu"
    assert found == expected and len(expected["annotations"]) > 3
    assert two.stdout.split("time:")[0] == one.stdout.split("time:")[0]
