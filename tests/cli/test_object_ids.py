"""Ids of tracked objects in every file that commands write, for every command and function that reads the file.

The objects are prompted in the order 5, 2: positions would swap them. With 300, label images have 16 bits.
"""

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import moving_shapes
import numpy as np
import pytest
from commands import NANO, invoke, load, ok
from PIL import Image
from scans import write_nifti_scan
from track_runs import QuickTrack, box_of_disc, lines_of, middle_of_square, quick_track, text

from sam2fast.cli.track_folder import label_map
from sam2fast.demo.server.mask_import import VideoShape
from sam2fast.demo.server.mask_import import read_masks as import_masks
from sam2fast.io.rle import decode_rle
from sam2fast.results import read_masks
from sam2fast.training.data.png_datasets import PNGRawDataset

COUNT, SIZE = 4, (48, 64)
FORMATS = "json,png,coco,mot,yolo,labelme,label-studio,npz,geojson,overlay"
Labels = dict[int, np.ndarray]  # labels (H, W) by frame


class Written(NamedTuple):
    """Results of a clip ``videos/clip``, label images ``WRITER/clip``, and the labels by the record of ``track``."""

    ids: list[int]
    root: Path
    expected: Labels
    track: QuickTrack


def prompts(ids: list) -> list[str]:
    return [
        *("--point", text(0, ids[0], *middle_of_square(0))),
        *("--box", text(0, ids[1], *box_of_disc(0))),
    ]


@pytest.fixture(scope="module", params=[[5, 2], [300, 2]], ids=["8 bits", "16 bits"])
def written(request, tmp_path_factory) -> Iterator[Written]:
    """All results. Each command runs once."""
    root, ids = tmp_path_factory.mktemp("ids"), request.param
    (root / "videos/clip").mkdir(parents=True)
    for t, frame in enumerate(moving_shapes.make_frames(COUNT)):
        Image.fromarray(frame).save(root / f"videos/clip/{t:05d}.jpg", quality=95)
    with quick_track(tmp_path_factory.mktemp("model")) as track:
        ok(track(root / "videos/clip", *prompts(ids), "--format", FORMATS, "--out", root / "out"))
        shutil.copytree(root / "out/masks", root / "track/clip")
        videos = ["--videos", root / "videos", *NANO]
        ok(invoke("vos", *videos, "--masks", root / "track", "--out", root / "vos"))
        expected = {
            t: label_map(line, dict(zip(ids, ids, strict=True)), SIZE) for t, line in lines_of(root / "out").items()
        }
        for t, labels in expected.items():
            for obj_id in ids:
                (folder := root / f"objects/clip/{obj_id:03d}").mkdir(parents=True, exist_ok=True)
                Image.fromarray(labels == obj_id).save(folder / f"{t:05d}.png")
        options = ["--per-object", "--masks", root / "objects", "--out", root / "vos --per-object"]
        ok(invoke("vos", *videos, *options))
        shutil.copytree(root / "out", root / "tracked/clip")
        ok(invoke("dataset", "convert", root / "tracked", root / "davis", "--to", "davis", "--jobs", 1))
        shutil.copytree(root / "davis/Annotations", root / "dataset convert")
        yield Written(ids, root, expected, track)


def labels_in(folder: Path) -> Labels:
    return {int(file.stem): np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))}


def assert_similar(found: Labels, expected: Labels) -> None:
    """Equal but for the masks of ``vos``, which another size of the model predicts."""
    assert found.keys() <= expected.keys() and 0 in found
    for t, labels in found.items():
        assert {*np.unique(labels)} == {*np.unique(expected[t])}
        assert (labels == expected[t]).mean() > 0.9


def with_ids(masks: dict[int, np.ndarray]) -> np.ndarray:
    """Labels of bool masks by id."""
    labels = np.zeros(SIZE, int)
    for obj_id, mask in masks.items():
        labels[mask] = obj_id
    return labels


# Readers of label images: functions of the folder and of a temporary folder, which return labels.
def read_by_vos(written: Written, folder: Path, out: Path) -> Labels:
    ok(invoke("vos", "--videos", written.root / "videos", "--masks", folder, "--out", out, *NANO))
    return labels_in(out / "clip")


def read_by_track(written: Written, folder: Path, out: Path) -> Labels:
    masks = f"0,{folder / 'clip/00000.png'}"
    ok(written.track(written.root / "videos/clip", "--masks", masks, "--format", "json,png", "--out", out))
    return labels_in(out / "masks")


def read_by_segment(written: Written, folder: Path, out: Path) -> Labels:
    frame = written.root / "videos/clip/00000.jpg"
    ok(invoke("segment", frame, "--masks", folder / "clip/00000.png", *NANO, "--out", out))
    files = {file.name.split("_")[1]: np.asarray(Image.open(file)) > 0 for file in out.glob("*_mask.png")}
    return {0: with_ids({int(name): mask for name, mask in files.items()})}


def read_by_training(written: Written, folder: Path, out: Path) -> Labels:
    annotations = PNGRawDataset(written.root / "videos", folder).get_video(0).annotations
    found = {}
    for t in range(COUNT):
        ids = annotations.visible_objects(t)
        found[t] = with_ids(dict(zip(ids, annotations.read_masks(t, ids, SIZE), strict=True)))
    return found


def read_by_demo(written: Written, folder: Path, out: Path) -> Labels:
    found = import_masks((folder / "clip/00000.png").read_bytes(), VideoShape(COUNT, SIZE), 0)
    return {0: with_ids({int(one.name.removeprefix("Object ")): decode_rle(one.masks[0]) for one in found})}


def convert_and_back(layout: str) -> Callable[[Written, Path, Path], Labels]:
    def read(written: Written, folder: Path, out: Path) -> Labels:
        shutil.copytree(written.root / "videos", out / "in/JPEGImages")
        shutil.copytree(folder, out / "in/Annotations")
        ok(invoke("dataset", "convert", out / "in", out / "there", "--to", layout, "--jobs", 1))
        ok(invoke("dataset", "convert", out / "there", out / "back", "--to", "davis", "--images", "none", "--jobs", 1))
        return labels_in(out / "back/Annotations/clip")

    return read


READERS: dict[str, Callable[[Written, Path, Path], Labels]] = {
    "vos": read_by_vos,
    "track --masks": read_by_track,
    "segment --masks": read_by_segment,
    "training": read_by_training,
    "demo": read_by_demo,
    **{f"dataset convert --to {layout}": convert_and_back(layout) for layout in ("sav-png", "sav", "coco-jsonl")},
}
WRITERS = ("track", "vos", "dataset convert")


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("writer", WRITERS)
def test_label_images(written, tmp_path, writer, reader):
    assert_similar(READERS[reader](written, written.root / writer, tmp_path), written.expected)


@pytest.mark.parametrize("writer", WRITERS)
def test_scores(written, tmp_path, writer):
    """With the ids as values, the truth is what was tracked."""
    (tmp_path / "truth/clip").mkdir(parents=True)
    for t, labels in written.expected.items():
        Image.fromarray(labels).save(tmp_path / f"truth/clip/{t:05d}.png")
    folders = ["--gt", tmp_path / "truth", "--pred", written.root / writer]
    result = ok(invoke("evaluate", *folders, "--keep-first-and-last"))
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith("clip")]
    scores = {int(row[1]): float(row[2]) for row in rows if row[1] != "all"}
    assert scores.keys() == {*written.ids} and min(scores.values()) > (70 if writer == "vos" else 99.9)


@pytest.mark.parametrize("writer", WRITERS)
def test_scores_of_images(written, tmp_path, writer):
    folders = [written.root / "videos/clip", "--masks", written.root / writer / "clip"]
    ok(invoke("evaluate-images", *folders, "--clicks", 1, *NANO, "--out", tmp_path / "scores"))
    with open(tmp_path / "scores.csv", newline="", encoding="utf-8") as file:
        assert {int(row["object"]) for row in csv.DictReader(file)} == {*written.ids}


def test_folders_of_objects(written, tmp_path):
    """The folders of ``vos --per-object`` have the ids as names."""
    names = {f"{obj_id:03d}" for obj_id in written.ids}
    folder = written.root / "vos --per-object"
    assert {path.name for path in (folder / "clip").iterdir()} == names
    folders = ["--gt", written.root / "objects", "--pred", folder, "--keep-first-and-last"]
    result = ok(invoke("evaluate", *folders))
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith("clip")]
    scores = {row[1]: float(row[2]) for row in rows if row[1] != "all"}
    assert scores.keys() == names and min(scores.values()) > 70
    videos = ["--videos", written.root / "videos", *NANO]
    ok(invoke("vos", *videos, "--per-object", "--masks", folder, "--out", tmp_path / "again"))
    assert {path.name for path in (tmp_path / "again/clip").iterdir()} == names


def test_images_of_track(written):
    for t, labels in labels_in(written.root / "out/masks").items():
        np.testing.assert_array_equal(labels, written.expected[t])
        assert labels.dtype == (np.uint16 if 300 in written.ids else np.uint8)


def test_json(written):
    for masks in read_masks(written.root / "out/masks.jsonl"):
        assert masks.ids == written.ids
        for obj_id, mask in zip(masks.ids, masks.masks, strict=True):
            assert not (written.expected[masks.frame] == obj_id)[~mask].any()


def test_coco(written):
    file, ids = written.root / "out/masks.json", written.ids
    document = load(file)
    assert [(one["object"], one["id"], one["category_id"]) for one in document["annotations"]] == [
        (obj_id,) * 3 for obj_id in ids
    ]
    assert [(one["id"], one["name"]) for one in document["categories"]] == [(i, str(i)) for i in ids]
    found = import_masks(file.read_bytes(), VideoShape(COUNT, SIZE), 0)
    assert [one.label for one in found] == [str(obj_id) for obj_id in ids]


def test_mot(written, tmp_path):
    """``track --boxes-from`` reads the boxes. Other programs read the ids."""
    pytest.importorskip("scipy")
    file = written.root / "out/mot.txt"
    rows = [line.split(",") for line in file.read_text().splitlines()]
    boxes = {(int(row[0]) - 1, int(row[1])): [int(value) for value in row[2:6]] for row in rows}
    for (t, obj_id), (left, top, width, height) in boxes.items():
        inside = written.expected[t][top - 1 : top - 1 + height, left - 1 : left - 1 + width] == obj_id
        assert inside.sum() == (written.expected[t] == obj_id).sum() > 0
    ok(written.track(written.root / "videos/clip", "--boxes-from", file, "--format", "json", "--out", tmp_path))


@pytest.mark.parametrize("name", ["yolo", "labelme", "label-studio", "npz", "geojson"])
def test_files_of_frames_have_the_ids_as_names(written, name):
    folder, names = written.root / "out" / name, [str(obj_id) for obj_id in written.ids]
    if name == "yolo":
        assert f'names:\n  0: "{names[0]}"\n  1: "{names[1]}"\n' in (folder / "data.yaml").read_text()
        found = {names[int(line[0])] for line in (folder / "labels/00001.txt").read_text().splitlines()}
    elif name == "npz":
        found = set(np.load(folder / "00001.npz")["labels"].tolist())
    else:
        texts = (folder / f"00001.{'geojson' if name == 'geojson' else 'json'}").read_text()
        found = {word for word in names if f'"{word}"' in texts}
    assert found == {*names}


def test_volumes(written, tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="needs the extra medical")
    slices = np.stack([frame.mean(axis=-1).T for frame in moving_shapes.make_frames(COUNT)], axis=-1)
    source = write_nifti_scan(tmp_path / "scan.nii.gz", slices.astype(np.int16), np.diag([-1.0, -1.0, 1.0, 1.0]))
    options = ["--window", "0,255", "--format", "nifti,png", "--out", tmp_path / "out"]
    ok(written.track(source, *prompts(written.ids), *options))
    labels = np.asarray(nibabel.load(tmp_path / "out/masks.nii.gz").dataobj)
    assert {*np.unique(labels)} == {0, *written.ids}
    images = np.stack(list(labels_in(tmp_path / "out/masks").values()))
    assert [(labels == i).sum() for i in written.ids] == [(images == i).sum() for i in written.ids]


@pytest.mark.parametrize("formats", [FORMATS, "json"])
def test_files_of_version_03(written, tmp_path, formats):
    """Version 0.3 wrote positions, and no numbers in ``track.json``. All such files are written again."""
    shutil.copytree(written.root / "out", out := tmp_path / "out")
    numbered = [out / "masks/00001.png", out / "masks.json", out / "mot.txt"]
    numbered += [out / "labelme/00001.json", out / "geojson/00001.geojson"]
    before = [file.read_bytes() for file in numbered]
    manifest = load(out / "track.json")
    for facts in manifest["files"].values():
        facts.pop("numbers", None)
    del manifest["files"]["masks"]
    (out / "track.json").write_text(json.dumps(manifest))
    for file in numbered:
        file.write_bytes(before[0] if file.suffix == ".png" else file.read_bytes().translate(SWAPPED))
    labels = np.asarray(Image.open(numbered[0]))
    Image.fromarray(np.searchsorted([0, *sorted(written.ids)], labels).astype(np.uint8)).save(numbered[0])
    ok(written.track(written.root / "videos/clip", *prompts(written.ids), "--format", formats, "--out", out))
    assert [file.read_bytes() for file in numbered] == before


SWAPPED = bytes.maketrans(b"25", b"52")  # keeps the number of bytes


def test_several_videos_and_names(written, tmp_path):
    """All formats number by position, and one note for each video says so."""
    shutil.copytree(written.root / "videos/clip", tmp_path / "videos/other")
    folders = [written.root / "videos/clip", tmp_path / "videos/other"]
    result = ok(written.track(*folders, *prompts(["dog", 5]), "--format", "json,png,coco,mot", "--out", tmp_path))
    note = "sam2fast: note: ids in the formats png and mot are numbers from 1: 1 is dog, 2 is 5\n"
    assert result.stderr == note * 2
    for name in ("clip", "other"):
        assert {*np.unique(labels_in(tmp_path / name / "masks")[1])} == {0, 1, 2}
        assert {line.split(",")[1] for line in (tmp_path / name / "mot.txt").read_text().splitlines()} == {"1", "2"}
        categories = load(tmp_path / name / "masks.json")["categories"]
        assert [(one["id"], one["name"]) for one in categories] == [(1, "dog"), (2, "5")]
    shutil.rmtree(tmp_path / "videos")
    for layout, numbers in (("davis", "from 1: 1 is dog, 2 is 5"), ("sav-png", "from 0: 0 is dog, 1 is 5")):
        options = ["--to", layout, "--images", "none", "--video", "clip", "--jobs", 1]
        result = ok(invoke("dataset", "convert", tmp_path, tmp_path / f"{layout} of names", *options))
        assert result.stderr == f"sam2fast: note: clip: ids in the format {layout} are numbers {numbers}\n"
