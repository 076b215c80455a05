"""Ids of tracked objects in every file that ``track`` writes, for every command and function that reads the file.

The objects have the ids 5 and 2, in this order.
"""

import json
import shutil
from pathlib import Path

import moving_shapes
import numpy as np
import pytest
from commands import NANO, invoke, ok
from PIL import Image
from track_runs import QuickTrack, box_of_disc, lines_of, middle_of_square, quick_track, text

from sam2fast.cli.track_folder import label_map
from sam2fast.results import read_masks
from sam2fast.training.data.png_datasets import PNGRawDataset

IDS = [5, 2]
COUNT = 4
FORMATS = "json,png,coco,mot,yolo,labelme,label-studio,npz,geojson,overlay"


@pytest.fixture(scope="module")
def track(tmp_path_factory):
    with quick_track(tmp_path_factory.mktemp("model")) as command:
        yield command


@pytest.fixture(scope="module")
def root(track: QuickTrack, tmp_path_factory) -> Path:
    """A folder with the frames ``videos/clip``, the results ``out``, and the label images ``masks/clip``."""
    root = tmp_path_factory.mktemp("ids")
    (root / "videos/clip").mkdir(parents=True)
    for t, frame in enumerate(moving_shapes.make_frames(COUNT)):
        Image.fromarray(frame).save(root / f"videos/clip/{t:05d}.jpg", quality=95)
    prompts = ["--point", text(0, 5, *middle_of_square(0)), "--box", text(0, 2, *box_of_disc(0))]
    ok(track(root / "videos/clip", *prompts, "--format", FORMATS, "--out", root / "out"))
    shutil.copytree(root / "out/masks", root / "masks/clip")
    return root


@pytest.fixture(scope="module")
def expected(root) -> dict[int, np.ndarray]:
    """Labels of each frame by the record: ids as values."""
    return {t: label_map(line, {5: 5, 2: 2}, (48, 64)) for t, line in lines_of(root / "out").items()}


def labels_in(folder: Path) -> dict[int, np.ndarray]:
    return {int(file.stem): np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))}


def assert_equal(found: dict[int, np.ndarray], expected: dict[int, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for t, labels in expected.items():
        np.testing.assert_array_equal(found[t], labels)


def test_png(root, expected):
    assert_equal(labels_in(root / "out/masks"), expected)
    assert all({*np.unique(labels)} == {0, 2, 5} for labels in expected.values())


def test_json(root, expected):
    for masks in read_masks(root / "out/masks.jsonl"):
        assert masks.ids == IDS
        for obj_id, mask in zip(masks.ids, masks.masks, strict=True):
            assert not (expected[masks.frame] == obj_id)[~mask].any()


def test_coco(root):
    document = json.loads((root / "out/masks.json").read_text())
    assert [(one["object"], one["id"], one["category_id"]) for one in document["annotations"]] == [(5,) * 3, (2,) * 3]


@pytest.mark.parametrize("name", ["yolo", "labelme", "label-studio", "npz", "geojson"])
def test_files_of_frames_have_the_ids_as_names(root, name):
    folder = root / "out" / name
    if name == "yolo":
        assert 'names:\n  0: "5"\n  1: "2"\n' in (folder / "data.yaml").read_text()
        found = {"52"[int(line[0])] for line in (folder / "labels/00001.txt").read_text().splitlines()}
    elif name == "npz":
        found = set(np.load(folder / "00001.npz")["labels"].tolist())
    else:
        texts = (folder / f"00001.{'geojson' if name == 'geojson' else 'json'}").read_text()
        found = {word for word in ("2", "5") if f'"{word}"' in texts}
    assert found == {"2", "5"}


def test_evaluate(root, expected, tmp_path):
    """The truth, with the ids as values, is what was tracked."""
    (tmp_path / "truth/clip").mkdir(parents=True)
    for t, labels in expected.items():
        Image.fromarray(labels).save(tmp_path / f"truth/clip/{t:05d}.png")
    result = ok(invoke("evaluate", "--gt", tmp_path / "truth", "--pred", root / "masks", "--keep-first-and-last"))
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith("clip")]
    assert [row[1:3] for row in rows if row[1] != "all"] == [["2", "100.0"], ["5", "100.0"]]


def test_vos_reads_and_writes_them(root, expected, tmp_path):
    ok(invoke("vos", "--videos", root / "videos", "--masks", root / "masks", "--out", tmp_path / "out", *NANO))
    found = labels_in(tmp_path / "out/clip")
    np.testing.assert_array_equal(found[0], expected[0])
    for t, labels in found.items():
        for obj_id in IDS:
            assert (labels == obj_id)[expected[t] == obj_id].mean() > 0.7


def test_track_begins_with_them(track, root, expected, tmp_path):
    ok(track(root / "videos/clip", "--masks", f"0,{root / 'masks/clip/00000.png'}", "--out", tmp_path / "out"))
    line = lines_of(tmp_path / "out")[0]
    assert [entry["id"] for entry in line["objects"]] == [2, 5]
    again = label_map(line, {2: 2, 5: 5}, (48, 64))
    assert ((again == expected[0]) & (again > 0)).sum() > 0.8 * (again > 0).sum()


def test_segment_names_objects_by_them(root, tmp_path):
    frame, labels = root / "videos/clip/00000.jpg", root / "masks/clip/00000.png"
    ok(invoke("segment", frame, "--masks", labels, *NANO, "--out", tmp_path))
    assert {file.name for file in tmp_path.glob("*_mask.png")} == {"00000_2_mask.png", "00000_5_mask.png"}


def test_training_reads_them(root, expected):
    data = PNGRawDataset(root / "videos", root / "masks")
    video = data.get_video(0)
    for t, labels in expected.items():
        masks = video.annotations.read_masks(t, [2, 5], (48, 64))
        np.testing.assert_array_equal(masks, np.stack([labels == 2, labels == 5]))
    assert video.annotations.visible_objects(0) == (2, 5)


@pytest.mark.parametrize("layout", ["sav-png", "sav", "coco-jsonl"])
def test_conversion_and_back(root, expected, tmp_path, layout):
    shutil.copytree(root / "videos", tmp_path / "in/JPEGImages")
    shutil.copytree(root / "masks", tmp_path / "in/Annotations")
    ok(invoke("dataset", "convert", tmp_path / "in", tmp_path / "there", "--to", layout, "--jobs", 1))
    ok(invoke("dataset", "convert", tmp_path / "there", tmp_path / "back", "--to", "davis", "--images", "none"))
    (folder,) = {file.parent for file in (tmp_path / "back").rglob("*.png")}
    assert_equal(labels_in(folder), expected)
