"""Bad items never end a run: each is reported, those that are left out are counted once, and all others are done."""

import json
import os
import shutil

import numpy as np
import pytest
from commands import NANO, ends
from file_contents import names
from PIL import Image

from sam2fast.cli.segmenter import Segmenter
from sam2fast.io.rle import encode_rle

OF_COMMAND = {
    "segment": ["--point", "20,30"],
    "masks": ["--points-per-side", "1", "--pred-iou-thresh", "0", "--stability-score-thresh", "0"],
}
LONG = "n" * 242 + ".png"  # of 246 bytes, a legal name; those of its results are too long


@pytest.fixture
def folder(make_image, tmp_path):
    """Good images, and everything else that lies in folders of images."""
    make_image("photos/a.png"), make_image("photos/z.png"), make_image(f"photos/{LONG}")
    photos = tmp_path / "photos"
    (photos / "empty.jpg").touch()
    (photos / "text.png").write_text("no image")
    (photos / "link.jpg").symlink_to("nowhere.jpg")
    (photos / "folder.jpg").mkdir()
    os.mkfifo(photos / "pipe.png")
    (photos / "._a.png").write_bytes(b"\0\5\x16\7")
    (photos / ".hidden.jpg").touch()
    (photos / ".DS_Store").touch()
    (photos / "notes.txt").touch()
    return photos


@pytest.mark.parametrize("options", [[], ["--resume"]])
@pytest.mark.parametrize("command", OF_COMMAND)
def test_a_folder_of_everything(run, folder, tmp_path, monkeypatch, command, options):
    shutil.copy(folder / "a.png", folder / "b.png")
    read = Segmenter.read
    monkeypatch.setattr(Segmenter, "read", lambda self, image: read(self, image) if image.stem != "b" else 1 / 0)
    line = [command, "photos", *OF_COMMAND[command], *NANO, *options]
    for _ in range(2):
        result = run(*line)
        assert result.exit_code == 1 and "Traceback" not in result.stderr
        assert result.stderr.endswith("sam2fast: 5 of 7 images had problems; all else was done\n")
        failed = {"link.jpg": "No such", LONG: "too long", "b.png": "ZeroDivisionError: division by zero"}
        failed |= dict.fromkeys(("empty.jpg", "text.png"), "cannot be read")
        for name, words in failed.items():
            assert any(name in line and words in line for line in result.stderr.splitlines()), name
        assert result.stderr.count("left out") == 1 and "photos/notes.txt" in result.stderr
        assert "2 files (it is hidden; first: photos/._a.png)" in result.stderr
        assert "2 paths (it is not a file; first: photos/folder.jpg)" in result.stderr
    assert {name[0] for name in names(tmp_path / "out") if name != "masks.json"} == {"a", "z"}


def test_what_is_left_out_as_json(run, folder):
    result = run("segment", "photos", *OF_COMMAND["segment"], *NANO, "--json")
    found = json.loads(result.stdout)
    assert [record["image"] for record in found["results"]] == ["photos/a.png", "photos/z.png"]
    assert len(found["failed"]) == 4
    assert {"what": "file", "why": "it is hidden", "count": 2, "first": "photos/._a.png"} in found["left_out"]
    lines = run("masks", "photos", *OF_COMMAND["masks"], *NANO, "--jsonl").stdout.splitlines()
    assert [json.loads(line)["left_out"] for line in lines if "left_out" in json.loads(line)] == [found["left_out"]]


@pytest.mark.parametrize("command", OF_COMMAND)
def test_a_folder_of_which_all_is_left_out(run, folder, tmp_path, command):
    for name in ("a.png", "z.png", "empty.jpg", "text.png", "link.jpg", LONG):
        (folder / name).unlink()
    ends(run(command, "photos", *OF_COMMAND[command], *NANO), 1, "no images", "2 files (it is hidden; first")
    assert not (tmp_path / "out").exists()


def test_a_run_in_which_all_images_fail_prints_its_json(run, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    result = run("segment", "bad.png", *OF_COMMAND["segment"], *NANO, "--json")
    assert result.exit_code == 1 and json.loads(result.stdout)["results"] == []
    assert json.loads(result.stdout)["failed"][0]["image"] == "bad.png"


@pytest.mark.parametrize("image", ["none.png", "a.png"])
def test_a_run_without_work_prints_its_json(run, make_image, tmp_path, image):
    """No image can be read, or none has prompts."""
    make_image("a.png")
    (tmp_path / "prompts.json").write_text('{"prompts": [{"object": "x", "points": [[5, 5]], "image": "b.png"}]}')
    result = run("segment", image, "--prompts", "prompts.json", *NANO, "--json")
    content = json.loads(result.stdout)
    assert result.exit_code == 1 and content["results"] == []
    assert [one["first"] for one in content["left_out"]] == (["a.png", "b.png"] if image == "a.png" else ["b.png"])
    assert [one["image"] for one in content["failed"]] == ([] if image == "a.png" else ["none.png"])
    lines = run("segment", image, "--prompts", "prompts.json", *NANO, "--jsonl").stdout.splitlines()
    assert json.loads(lines[-1]) == {"left_out": content["left_out"]}


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({"mask": "gone.png"}, "gone.png"),
        ({"mask": "black.png"}, "black.png is empty"),
        ({"box": [9, 9, 30, 40]}, "the prompt for object 'x' has two boxes; give one"),
    ],
)
def test_a_bad_prompt_of_one_image(run, make_image, tmp_path, bad, why):
    """The other image is done."""
    make_image("a.png"), make_image("b.png")
    Image.new("L", (96, 64)).save(tmp_path / "black.png")
    entries = [{"object": "x", "box": [1, 2, 30, 40]}, {"object": "x", **bad, "image": "b.png"}]
    (tmp_path / "prompts.json").write_text(json.dumps({"prompts": entries}))
    result = run("segment", "a.png", "b.png", "--prompts", "prompts.json", *NANO, "--json")
    content = json.loads(result.stdout)
    assert result.exit_code == 1 and [one["image"] for one in content["results"]] == ["a.png"]
    (failed,) = content["failed"]
    assert failed["image"] == "b.png" and why in failed["error"] and "1 of 2 images had problems" in result.stderr
    assert names(tmp_path / "out") == ["a.json", "a_overlay.png", "a_x_mask.png"]


def test_evaluate_images_counts_what_it_leaves_out(run, make_image, tmp_path):
    """Crowds, objects that are too small, images without objects; a bad entry of an image is one problem."""
    for name in "abc":
        make_image(f"images/{name}.png")
    large, small = np.zeros((64, 96), bool), np.zeros((64, 96), bool)
    large[10:40, 10:50] = small[5, 5] = True
    annotations = [
        {"id": 1, "image_id": 1, "segmentation": encode_rle(large)},
        {"id": 2, "image_id": 1, "segmentation": encode_rle(small)},
        {"id": 3, "image_id": 1, "segmentation": encode_rle(large), "iscrowd": 1},
        {"id": 4, "image_id": 2, "segmentation": encode_rle(large), "iscrowd": 1},
    ]
    images = [{"id": i, "file_name": f"{name}.png", "height": 64, "width": 96} for i, name in enumerate("abc", 1)]
    (tmp_path / "coco.json").write_text(json.dumps({"images": [*images, {"id": 9}], "annotations": annotations}))
    line = ["evaluate-images", "images", "--masks", "coco.json", "--min-area", "9", "--clicks", "1", *NANO]
    result = run(*line, "--out", "found.json")
    assert "coco.json: image 3: it has no id and file_name" in result.stderr and result.exit_code == 1
    counted = [
        {"what": "object", "why": "it is a crowd", "count": 2, "first": "annotation 3"},
        {"what": "image", "why": "it has no objects", "count": 2, "first": "b.png"},
        {"what": "object", "why": "its area is less than 9 pixels", "count": 1, "first": "in images/a.png"},
    ]
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["objects"] == 1 and found["left_out"] == counted and result.stderr.count("left out: ") == 1


def test_evaluate_images_counts_files_that_it_leaves_out(run, make_image, tmp_path):
    """Hidden images and masks without an object are left out; a link to nowhere is an error."""
    labels = np.zeros((64, 96), np.uint8)
    (tmp_path / "masks").mkdir()
    for name in ("none", "link", "a"):
        Image.fromarray(labels).save(tmp_path / f"masks/{name}.png")
        labels[10:40, 10:50] = 1
    for name in ("none", "._a", "a"):
        make_image(f"images/{name}.png")
    (tmp_path / "images/link.png").symlink_to("nowhere.png")
    result = run("evaluate-images", "images", "--masks", "masks", "--clicks", "1", *NANO, "--jsonl")
    *_, error, line, content = map(json.loads, result.stdout.splitlines())
    assert result.exit_code == 1 and content["objects"] == 1 and error["input"] == "images/link.png"
    assert (
        line["left_out"]
        == content["left_out"]
        == [
            {"what": "file", "why": "it is hidden", "count": 1, "first": "images/._a.png"},
            {"what": "image", "why": "it has no objects", "count": 1, "first": "none.png"},
        ]
    )


def test_extract_counts_videos_that_it_leaves_out(run, video_file, tmp_path):
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.MP4", "c.mov"):
        shutil.copy(video_file, tmp_path / "videos" / name)
    (tmp_path / "videos/._a.mp4").write_bytes(b"\0\5\x16\7")
    (tmp_path / "videos/empty.mp4").touch()
    (tmp_path / "videos/link.mp4").symlink_to("nowhere.mp4")
    result = run("dataset", "extract", "--videos", "videos", "--out", "out", "--jobs", 1, "--jsonl")
    assert result.exit_code == 1 and "2 of 5 videos had problems" in result.stderr
    assert "left out: 1 file (it is hidden; videos/._a.mp4)" in result.stderr
    assert list(json.loads(result.stdout.splitlines()[-1])) == ["left_out"], "as the last line"
    assert names(tmp_path / "out") == [".extract.json", "a", "b", "c"]
