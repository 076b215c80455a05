"""Names of images in every file that commands write, for every command and function that reads the file.

The names have decomposed accents, spaces, and bytes that are not UTF-8. The folders are renamed between.
"""

import csv
import functools
import io
import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from commands import NANO, invoke, load, ok
from PIL import Image
from pycocotools.coco import COCO
from track_runs import QuickTrack, quick_track

from sam2fast import nano
from sam2fast.build_sam import build_sam2
from sam2fast.io.rle import encode_rle
from sam2fast.results import AnnotatedImage, write_masks
from sam2fast.training.data.json_datasets import CocoRawDataset
from sam2fast.training.data.png_datasets import PNGRawDataset

SIZE = (48, 64)
MASK = np.arange(SIZE[1]) >= SIZE[1] // 2 + np.zeros((SIZE[0], 1), int)
IMAGES = ["train/e\N{COMBINING ACUTE ACCENT}t.png", "train/caf\udce9.png", "val/my photo 1.jpg"]
FRAMES = [f"e\N{COMBINING ACUTE ACCENT} caf\udce9 {t}.png" for t in range(3)]
BOX = (33, 0, 63, 47)
MASKS = [*NANO, "--points-per-side", "2", "--pred-iou-thresh", "0", "--stability-score-thresh", "0"]


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 60, (*SIZE, 3), dtype=np.uint8)
    pixels[MASK] += np.array([150, 60, 0], np.uint8)
    Image.fromarray(pixels).save(path)


class Written(NamedTuple):
    """Folders of inputs, after they were renamed, and the results."""

    photos: Path
    frames: Path
    results: dict[str, Path]
    track: QuickTrack


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """All results. Each command runs once."""
    if sys.platform in ("win32", "darwin") or sys.getfilesystemencoding() != "utf-8":
        pytest.skip("file names are text here")
    root = tmp_path_factory.mktemp("names")
    for name in IMAGES:
        write_image(root / "photos" / name)
    for name in FRAMES:
        write_image(root / "clips/clip" / name)
    Image.fromarray(MASK).save(root / "mask.png")
    folders, results = [root / "photos/train", root / "photos/val"], {}
    with pytest.MonkeyPatch.context() as patch, quick_track(root) as track:
        patch.setattr("sam2fast.cli.segmenter.build_sam2", functools.cache(build_sam2))
        formats = "json,yolo,yolo-seg,labelme,labelme-mask,label-studio,npz,geojson,layers,overlay"
        references = ["--reference", root / "photos" / IMAGES[0], "--mask", root / "mask.png", *NANO]
        for command, options in (("masks", MASKS), ("find", references)):
            ok(invoke(command, *folders, *options, "--format", formats, "--out", root / command))
            results |= {f"{command} {name}": root / command / name / "labels" for name in ("yolo", "yolo-seg")}
            results[f"{command} json"] = root / command / "masks.json"
        results["find csv"] = root / "find/found.csv"
        ok(invoke("segment", *folders, "--point", "48,20", *NANO, "--out", root / "segment"))
        results["segment"] = root / "segment"
        rles = [encode_rle(MASK)]
        items = [
            AnnotatedImage(root / "photos" / name, Path(name).stem, SIZE, rles, ["object"], [1]) for name in IMAGES
        ]
        write_masks(root / "coco", items, "coco")
        results["write_masks"] = root / "coco/masks.json"
        formats = "json,png,coco,yolo,labelme,label-studio,npz,geojson,mot,overlay"
        box = ["--box", f"0,1,{','.join(map(str, BOX))}", "--format", formats]
        ok(track(root / "clips/clip", *box, "--out", root / "track"))
        results |= {"track coco": root / "track/masks.json", "track json": root / "track/masks.jsonl"}
        results |= {"track png": root / "track/masks", "track yolo": root / "track/yolo/labels"}
        (root / "photos").rename(root / "album")
        (root / "clips").rename(root / "videos")
        yield Written(root / "album", root / "videos/clip", results, track)


# Changes of names in a file by other programs.
def of_windows(name: str) -> str:
    return "D:\\photos\\" + unicodedata.normalize("NFC", name).replace("/", "\\").upper()


def of_version_03(name: str) -> str:
    return f"photos/{name}"


def bare(name: str) -> str:
    return Path(name).name


# Readers of images: functions of the results, the folder of the photographs, and a temporary folder, which return the
# images that have a mask or a box.
def segmented(file: Path, photos: Path, out: Path) -> set[str]:
    result = ok(
        invoke("segment", photos / "train", photos / "val", "--boxes-from", file, *NANO, "--jsonl", "--out", out)
    )
    assert "left out" not in result.stderr
    found = map(json.loads, result.stdout.splitlines())
    return {Path(one["image"]).relative_to(photos).as_posix() for one in found}


def evaluated(file: Path, photos: Path, out: Path) -> set[str]:
    options = ["--clicks", "1", "--max-objects", "1", *NANO, "--out", out / "scores"]
    ok(invoke("evaluate-images", photos, "--masks", file, *options))
    with open(out / "scores.csv", newline="", encoding="utf-8") as table:
        return {row["image"].replace("caf%E9", "caf\udce9") for row in csv.DictReader(table)}


def trained(file: Path, photos: Path, out: Path) -> set[str]:
    data = CocoRawDataset(photos, file)
    assert all(data.get_video(i).read_frames([0])[0].shape == (*SIZE, 3) for i in range(len(data)))
    return {*data.files}


READERS: dict[str, Callable[[Path, Path, Path], set[str]]] = {
    "segment --boxes-from": segmented,
    "evaluate-images": evaluated,
    "CocoRawDataset": trained,
}
COCO_WRITERS = ("masks json", "find json", "write_masks")
PAIRS = [(writer, reader) for writer in COCO_WRITERS for reader in READERS]
PAIRS += [
    (f"{command} {name}", "segment --boxes-from") for command in ("masks", "find") for name in ("yolo", "yolo-seg")
]


@pytest.mark.parametrize(("writer", "reader"), PAIRS)
def test_readers_find_images(written, tmp_path, writer, reader):
    assert READERS[reader](written.results[writer], written.photos, tmp_path) == {*IMAGES}


@pytest.mark.parametrize("change", [of_windows, of_version_03, bare])
@pytest.mark.parametrize("reader", READERS)
def test_readers_find_images_by_changed_names(written, tmp_path, change, reader):
    content = load(written.results["masks json"])
    for image in content["images"]:
        image["file_name"] = change(image["file_name"])
    (tmp_path / "changed.json").write_text(json.dumps(content))
    assert READERS[reader](tmp_path / "changed.json", written.photos, tmp_path) == {*IMAGES}


@pytest.mark.parametrize("writer", COCO_WRITERS)
def test_other_programs_find_images(written, writer):
    """Relative to the folder of images, as pycocotools, FiftyOne and CVAT expect."""
    names = [image["file_name"] for image in COCO(str(written.results[writer])).imgs.values()]
    assert sorted(names) == sorted(name.replace("\udce9", "%E9") for name in IMAGES)
    assert sum((written.photos / name).is_file() for name in names) == 2


def test_texts_are_utf_8(written):
    """JSON without escapes of lone surrogates, which most programs refuse."""
    suffixes = (".json", ".jsonl", ".csv", ".txt", ".xml", ".yaml", ".geojson")
    texts = [path for path in written.frames.parents[1].rglob("*.*") if path.suffix in suffixes]
    assert len(texts) > 40
    for path in texts:
        assert "\\ud" not in path.read_text(encoding="utf-8") or path.name == "track.json", path
    with open(written.results["find csv"], newline="", encoding="utf-8") as table:
        assert {row["image"] for row in csv.DictReader(table)} == {name.replace("\udce9", "%E9") for name in IMAGES}
    assert load(written.results["segment"] / "caf%E9.json")["image"] == "train/caf%E9.png"
    task = load(written.frames.parents[1] / "masks/label-studio/caf%E9.json")
    assert task["data"]["image"] == "/data/local-files/?d=label-studio/caf%25E9.png"


@pytest.mark.parametrize("writer", ["track coco", "track yolo"])
def test_track_finds_frames(written, tmp_path, writer):
    pytest.importorskip("scipy")
    result = written.track(
        written.frames, "--boxes-from", written.results[writer], "--format", "json", "--out", tmp_path
    )
    assert ok(result) and "left out" not in result.stderr
    lines = [json.loads(line) for line in (tmp_path / "masks.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == [Path(name).stem.replace("\udce9", "%E9") for name in FRAMES]
    assert all(line["objects"] for line in lines)


def test_data_sets_find_frames(written, tmp_path):
    """For the masks of track in vos, evaluate and training, and for its record. Other programs composed all names."""
    decomposed = "clip e\N{COMBINING ACUTE ACCENT}"
    composed = unicodedata.normalize("NFC", decomposed)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / decomposed).symlink_to(written.frames)
    for path in written.results["track png"].iterdir():
        (tmp_path / "masks" / composed).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "masks" / composed / unicodedata.normalize("NFC", path.name))
    (tmp_path / "list.txt").write_text(f"{composed}\n", encoding="utf-8")
    options = ["--videos", tmp_path / "videos", "--masks", tmp_path / "masks", "--list", tmp_path / "list.txt"]
    small = ["--model", written.track.config, "--checkpoint", nano.WEIGHTS, "--device", "cpu"]
    result = ok(invoke("vos", *options, *small, "--out", tmp_path / "vos"))
    assert "left out" not in result.stderr
    assert sorted(os.listdir(tmp_path / "vos" / decomposed)) == sorted(FRAMES)
    options = ["--gt", tmp_path / "masks", "--pred", tmp_path / "vos", "--processes", "1", "--json"]
    (scores,) = json.loads(ok(invoke("evaluate", *options)).stdout)["results"]
    assert scores["videos"].keys() == {composed} and not (scores["masks_only_in_gt"] or scores["masks_only_in_pred"])
    clip = PNGRawDataset(tmp_path / "videos", tmp_path / "masks").get_video(0)
    assert len(clip) == 3 and all(clip.visible_objects(t) == (1,) for t in range(3))
    shutil.copy(written.results["track json"], tmp_path / "clip.jsonl")
    ok(invoke("dataset", "convert", tmp_path / "clip.jsonl", tmp_path / "davis", "--to", "davis"))
    names = [Path(name).stem.replace("\udce9", "%E9") for name in FRAMES]
    assert sorted(os.listdir(tmp_path / "davis/Annotations/clip")) == [f"{name}.png" for name in names]


def test_masks_of_prompts(written, tmp_path):
    """Their paths are Windows' and composed."""
    (tmp_path / "rough").mkdir()
    for name in ("m\N{COMBINING ACUTE ACCENT}.png", "labels.png"):
        Image.fromarray(MASK.astype(np.uint8)).save(tmp_path / "rough" / name)
    masks = ("rough\\" + unicodedata.normalize("NFC", "m\N{COMBINING ACUTE ACCENT}.png"), "rough\\labels.png:1")
    entries = [{"object": f"object {i}", "mask": mask} for i, mask in enumerate(masks)]
    (tmp_path / "prompts.json").write_text(json.dumps({"prompts": entries}))
    options = ["--prompts", tmp_path / "prompts.json", *NANO, "--out", tmp_path / "out", "--json"]
    result = ok(invoke("segment", written.photos / IMAGES[2], *options))
    assert len(json.loads(result.stdout)["results"]) == 2


def test_results_of_stdin(tmp_path, monkeypatch):
    """Their names of the image, "-" in COCO and "stdin" in YOLO, stand for stdin again."""
    write_image(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()

    def run(*arguments: object) -> str:
        monkeypatch.setattr(
            "sam2fast.cli.sources.sys", type("Sys", (), {"stdin": io.TextIOWrapper(io.BytesIO(content))})
        )
        return ok(invoke(*arguments)).stdout

    run("masks", "-", *MASKS, "--format", "json,yolo", "--out", tmp_path / "masks")
    for boxes in ("masks.json", "yolo/labels"):
        options = ["--boxes-from", tmp_path / "masks" / boxes, *NANO, "--json", "--out", tmp_path / "out"]
        assert json.loads(run("segment", "-", *options))["results"]


@pytest.mark.parametrize("reader", READERS)
def test_addresses_of_lvis(written, tmp_path, reader):
    """LVIS has no file_name."""
    content = load(written.results["masks json"])
    for image in content["images"]:
        image["coco_url"] = f"http://images.cocodataset.org/{image.pop('file_name')}"
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    assert READERS[reader](tmp_path / "lvis.json", written.photos, tmp_path) == {*IMAGES}
