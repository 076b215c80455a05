"""``sam2fast track``: results have the names of the frames, one for each frame of the range."""

import json
import shutil
from pathlib import Path

import moving_shapes
import numpy as np
import pytest
from commands import invoke, ok
from file_contents import names
from PIL import Image
from track_runs import PROMPTS, box_of_disc, interrupt_after, lines_of, middle_of_square, prompts_at, text

from sam2fast.cli.track_folder import label_map
from sam2fast.evaluation.folders import evaluate_folders

FORMATS = ["--format", "json,png,coco,yolo,labelme,npz,geojson"]
FOLDERS = {
    "from one": [f"{t:05d}.jpg" for t in range(1, 7)],
    "gaps": [f"{7 * t}.png" for t in range(6)],
    "cam.v1.2": [f"cam1-{t:02d}.jpg" for t in range(6)],
    "other languages": [f"Küche {t} {{a}}.b.webp" for t in range(6)],
}


def write_frames(folder: Path, files: list[str]) -> Path:
    folder.mkdir(parents=True)
    for file, frame in zip(files, moving_shapes.make_frames(len(files)), strict=True):
        Image.fromarray(frame).save(folder / file, quality=95)
    return folder


def stems(folder: Path) -> list[str]:
    return [Path(name).stem for name in names(folder)]


@pytest.mark.parametrize("name", FOLDERS)
def test_frames_of_a_folder_keep_their_names(track, tmp_path, name):
    """Also those before the first prompt, in which nothing is found."""
    pytest.importorskip("cv2")
    files, out = FOLDERS[name], tmp_path / "out"
    folder = write_frames(tmp_path / name, files)
    prompts = [*("--point", text(2, 1, *middle_of_square(2))), *("--box", text(2, "disc", *box_of_disc(2)))]
    assert track(folder, *prompts, "--end", 4, *FORMATS, "--out", out).exit_code == 0
    expected = [Path(file).stem for file in files[:5]]
    for results in ("masks", "yolo/labels", "yolo/images", "npz", "geojson"):
        assert stems(out / results) == sorted(expected), results
    assert set(stems(out / "labelme")) == set(expected)
    assert [line["name"] for line in lines_of(out).values()] == expected[2:]
    document = json.loads((out / "masks.json").read_text())
    assert document["videos"][0]["file_names"] == [f"{name}/{file}" for file in files]
    assert [category["name"] for category in document["categories"]] == ["1", "disc"]
    assert [annotation["category_id"] for annotation in document["annotations"]] == [1, 2]
    for t, stem in enumerate(expected):
        found = [
            (np.asarray(Image.open(out / f"masks/{stem}.png")) > 0).any(),
            bool((out / f"yolo/labels/{stem}.txt").read_text()),
            bool(json.loads((out / f"labelme/{stem}.json").read_text())["shapes"]),
            bool(json.loads((out / f"geojson/{stem}.geojson").read_text())["features"]),
        ]
        with np.load(out / f"npz/{stem}.npz") as content:
            assert content["masks"].shape[1:] == (48, 64)
            found.append(content["masks"].any())
        assert set(found) == {t >= 2}


def test_results_of_several_folders(track, tmp_path):
    """Dots in the name of a folder begin no suffix, and two images may differ in theirs alone."""
    first = write_frames(tmp_path / "cam.v1.2", ["1.jpg", "1.jpeg", "2.jpg"])
    second = write_frames(tmp_path / "cam.v1.3", ["b.jpg", "c.jpg"])
    options = ["--point", text(0, 1, *middle_of_square(0)), "--format", "png,coco", "--out", tmp_path / "out"]
    assert track(first, second, "--stream", "--max-frames", 2, *options).exit_code == 0
    assert names(tmp_path / "out") == ["cam.v1.2", "cam.v1.3"]
    (video,) = json.loads((tmp_path / "out/cam.v1.2/masks.json").read_text())["videos"]
    assert video["file_names"] == ["cam.v1.2/1.jpeg", "cam.v1.2/1.jpg", "cam.v1.2/2.jpg"]
    assert names(tmp_path / "out/cam.v1.2/masks") == ["1.jpeg.png", "1.jpg.png"]
    assert names(tmp_path / "out/cam.v1.3/masks") == ["b.png", "c.png"]


@pytest.mark.parametrize("name", ["from one", "cam.v1.2"])
def test_masks_are_scored_against_those_of_the_same_frames(track, tmp_path, name):
    folder = write_frames(tmp_path / name, FOLDERS[name])
    prompts = ["--mask", f"0,1,{tmp_path / 'truth/clip' / Path(FOLDERS[name][0]).stem}.png"]
    (tmp_path / "truth/clip").mkdir(parents=True)
    for t, file in enumerate(FOLDERS[name]):
        x0, y0, x1, y1 = moving_shapes.square_at(t)
        mask = np.zeros((48, 64), np.uint8)
        mask[y0:y1, x0:x1] = 1
        Image.fromarray(mask).save(tmp_path / f"truth/clip/{Path(file).stem}.png")
    assert track(folder, *prompts, "--format", "png", "--out", tmp_path / "out").exit_code == 0
    shutil.copytree(tmp_path / "out/masks", tmp_path / "pred/clip")
    scores = evaluate_folders(tmp_path / "truth", tmp_path / "pred")
    assert not scores.videos[0].only_truth and not scores.videos[0].only_pred and scores.j > 80


def test_objects_keep_their_ids_in_every_format(track, tmp_path):
    """Prompts the objects in another order. Positions of an earlier version are replaced."""
    folder, out = write_frames(tmp_path / "clip", FOLDERS["from one"]), tmp_path / "out"
    prompts = ["--point", text(0, 5, *middle_of_square(0)), "--box", text(0, 2, *box_of_disc(0))]
    command = [folder, *prompts, "--format", "json,png,coco,mot,labelme,geojson", "--tolerance", 0, "--out", out]
    assert ok(track(*command)).stderr == ""
    lines, document = lines_of(out), json.loads((out / "masks.json").read_text())
    assert [entry["id"] for entry in lines[0]["objects"]] == [5, 2]
    assert [one["id"] for one in document["categories"]] == [one["category_id"] for one in document["annotations"]]
    assert [(one["id"], one["name"]) for one in document["categories"]] == [(5, "5"), (2, "2")]
    assert {row.split(",")[1] for row in (out / "mot.txt").read_text().split()} == {"2", "5"}
    for name, line in zip(stems(out / "masks"), lines.values(), strict=True):
        expected = label_map(line, {5: 5, 2: 2}, (48, 64))
        np.testing.assert_array_equal(np.asarray(Image.open(out / f"masks/{name}.png")), expected)
        assert {*np.unique(expected)} == {0, 2, 5}
        shapes = json.loads((out / f"labelme/{name}.json").read_text())["shapes"]
        assert {(shape["label"], shape["group_id"]) for shape in shapes} == {("5", 5), ("2", 2)}
        features = json.loads((out / f"geojson/{name}.geojson").read_text())["features"]
        assert {(one["properties"]["name"], one["properties"]["id"]) for one in features} == {("5", 5), ("2", 2)}
    manifest = json.loads((out / "track.json").read_text())
    del manifest["files"]["masks"]
    (out / "track.json").write_text(json.dumps(manifest))
    Image.fromarray(np.ones((48, 64), np.uint8)).save(out / f"masks/{name}.png")
    ok(track(*command))
    np.testing.assert_array_equal(np.asarray(Image.open(out / f"masks/{name}.png")), expected)


@pytest.mark.parametrize(
    ("ids", "numbers", "mode", "note"),
    [
        ((300, 5), (300, 5), "I;16", ""),
        ((70000, 5), (1, 2), "P", "1 is 70000, 2 is 5"),
        ((0, 1), (1, 2), "P", "1 is 0, 2 is 1"),
        ((7, "007"), (1, 2), "P", "1 is 7, 2 is 007"),
    ],
)
def test_ids_that_do_not_fit_are_numbered_from_one(track, tmp_path, ids, numbers, mode, note):
    folder = write_frames(tmp_path / "clip", ["0.jpg", "1.jpg"])
    prompts = ["--point", text(0, ids[0], *middle_of_square(0)), "--box", text(0, ids[1], *box_of_disc(0))]
    result = ok(track(folder, *prompts, "--format", "json,png", "--out", tmp_path / "out"))
    assert result.stderr == (f"sam2fast: note: ids in the format png are numbers from 1: {note}\n" if note else "")
    assert [entry["id"] for entry in lines_of(tmp_path / "out")[0]["objects"]] == list(ids)
    with Image.open(tmp_path / "out/masks/0.png") as image:
        assert image.mode == mode and {*np.unique(np.asarray(image))} == {0, *numbers}


def test_overwrite_removes_images_of_other_names(track, tmp_path):
    options = ["--point", text(0, 1, *middle_of_square(0)), "--format", "png", "--out", tmp_path / "out"]
    assert track(write_frames(tmp_path / "a", ["x1.jpg", "x2.jpg"]), *options).exit_code == 0
    (tmp_path / "out/masks/mine.png").write_text("mine")
    (tmp_path / "out/masks/.x1.png.123.part").write_text("left by a run that was killed")
    ok(track(write_frames(tmp_path / "b", ["y1.jpg", "y2.jpg"]), *options, "--overwrite"))
    assert names(tmp_path / "out/masks") == ["mine.png", "y1.png", "y2.png"]


def test_frames_that_are_still_to_be_tracked_have_no_masks_yet(track, video_file, whole, tmp_path, monkeypatch):
    """In a stopped run; the same command gives all of them."""
    interrupt_after(monkeypatch, 15)  # of them three backwards, from frame 8 on
    command = [video_file, *PROMPTS, "--reverse", "--format", "png,npz", "--out", tmp_path]
    assert track(*command).exit_code == 130
    assert names(tmp_path / "masks")[0] == "00005.png" and names(tmp_path / "npz")[0] == "00005.npz"
    assert track(*command).exit_code == 0
    for t, line in lines_of(whole).items():
        labels = np.asarray(Image.open(tmp_path / f"masks/{t:05d}.png"))
        np.testing.assert_array_equal(labels, label_map(line, {1: 1, "disc": 2}, (48, 64)))


def test_a_stream_and_a_video_begin_with_empty_masks(track, video_file, tmp_path):
    for option in ([], ["--stream"]):
        out = tmp_path / "-".join(["out", *option])
        options = ["--start", 3, "--end", 8, "--format", "png,npz", "--out", out]
        assert track(video_file, *prompts_at(6, 7), *option, *options).exit_code == 0
        assert stems(out / "masks") == stems(out / "npz") == [f"{t:05d}" for t in range(3, 9)]
        shown = [(np.asarray(Image.open(path)) > 0).any() for path in sorted((out / "masks").iterdir())]
        assert shown == [False] * 3 + [True] * 3


def test_other_programs_read_the_names(track, tmp_path):
    """``dataset convert`` names the images as the frames."""
    folder = write_frames(tmp_path / "clip", FOLDERS["cam.v1.2"])
    options = ["--point", text(0, 1, *middle_of_square(0)), "--format", "json", "--out", tmp_path / "out/clip"]
    assert track(folder, *options).exit_code == 0
    ok(invoke("dataset", "convert", tmp_path / "out", tmp_path / "davis", "--to", "davis"))
    found = sorted(path.name for path in (tmp_path / "davis").rglob("cam1-*.png"))
    assert found == [f"cam1-{t:02d}.png" for t in range(6)]
