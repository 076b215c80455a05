"""The same masks in every layout, pairs of images and masks, and damaged or missing files."""

import importlib.util
import json
import pickle
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from sam2fast.datasets.dataset_files import DatasetError
from sam2fast.datasets.segmentations import decode_segmentation
from sam2fast.evaluation.clicks.sources import (
    ClickDataset,
    CocoMasks,
    LabelImage,
    ObjectImages,
    Sa1bMasks,
    open_data_set,
    sample,
)
from sam2fast.io.label_maps import label_png

SIZE = (40, 60)
NAMES = ["a", "b_1", "sub/c"]


def masks_of(name: str) -> dict[int, np.ndarray]:
    """Three objects without overlaps, by id."""
    rng = np.random.default_rng(NAMES.index(name))
    owner = np.kron(rng.integers(0, 4, (5, 6)), np.ones((8, 10), int))
    return {i: owner == number for number, i in ((1, 3), (2, 7), (3, 255))}


def put(path: Path, content: bytes | str | np.ndarray) -> Path:
    """Writes a file, or the pixels of an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, np.ndarray):
        Image.fromarray(content).save(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def compressed(mask: np.ndarray) -> dict[str, Any]:
    rle = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    return rle | {"counts": rle["counts"].decode()}


def uncompressed(mask: np.ndarray) -> dict[str, Any]:
    flat = mask.ravel(order="F")
    edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    counts = np.diff(edges).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def write_sa1b(folder: Path) -> Path:
    for name in NAMES:
        entry = {"image_id": 1, "width": SIZE[1], "height": SIZE[0], "file_name": f"{name}.jpg"}
        objects = [{"id": i, "segmentation": compressed(mask), "area": 1} for i, mask in masks_of(name).items()]
        put(folder / f"{name}.json", json.dumps({"image": entry, "annotations": objects}))
    return folder


def write_coco(folder: Path, encode: Callable[[np.ndarray], Any] = compressed) -> Path:
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    for number, name in enumerate(NAMES):
        content["images"].append({"id": number, "file_name": f"{name}.jpg", "height": SIZE[0], "width": SIZE[1]})
        content["annotations"] += [
            {"id": i, "image_id": number, "segmentation": encode(mask), "iscrowd": 0}
            for i, mask in masks_of(name).items()
        ]
    return put(folder / "instances.json", json.dumps(content))


def write_labels(folder: Path, encode: Callable[[np.ndarray], Any]) -> Path:
    for name in NAMES:
        put(folder / f"{name}.png", encode(sum(i * mask for i, mask in masks_of(name).items())))
    return folder


def write_palette(folder: Path) -> Path:
    return write_labels(folder, lambda labels: label_png(labels.astype(np.uint8)))


def write_objects(folder: Path, between: str = "_") -> Path:
    for name in NAMES:
        for i, mask in masks_of(name).items():
            put(folder / f"{name}{between}{i}.png", mask.astype(np.uint8) * (255 if i == 3 else 1))
    return folder


WRITERS = {
    "sa1b": write_sa1b,
    "coco": write_coco,
    "coco, uncompressed": lambda folder: write_coco(folder, uncompressed),
    "png, palette": write_palette,
    "png, 16 bits": lambda folder: write_labels(folder, lambda labels: labels.astype(np.uint16)),
    "png, longer names": write_objects,
    "png, folders": lambda folder: write_objects(folder, "/"),
}


@pytest.fixture
def images(tmp_path) -> Path:
    """One for each name, and a hidden one, which does not count."""
    for name in (*NAMES, ".cache/d"):
        put(tmp_path / "images" / f"{name}.jpg", np.zeros((*SIZE, 3), np.uint8))
    return tmp_path / "images"


def read(data: ClickDataset, size: tuple[int, int] = SIZE) -> dict[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, np.ndarray]] = {}
    for job in data.jobs:
        assert job.image.is_file()
        masks, problems = pickle.loads(pickle.dumps(job.masks)).read(size)
        assert problems == []
        found[job.name.rpartition(".")[0]] = {m.id.rpartition("_")[2]: decode_segmentation(m.rle, size) for m in masks}
        assert all(mask.area == decode_segmentation(mask.rle, size).sum() for mask in masks)
    return found


def same(found: dict[str, np.ndarray], name: str) -> bool:
    expected = masks_of(name)
    return found.keys() == set(map(str, expected)) and all(
        np.array_equal(found[str(i)], mask) for i, mask in expected.items()
    )


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("beside", [True, False])
def test_every_layout_gives_the_same_masks(images, tmp_path, layout, beside):
    masks = WRITERS[layout](images if beside else tmp_path / "masks")
    if masks.is_dir():
        put(masks / "._a.json", "{")
    for format in ("auto", layout.partition(",")[0]):
        data = open_data_set(images, masks, format)
        assert data.format == layout.partition(",")[0] and data.problems == []
        found = read(data)
        assert list(found) == NAMES and all(same(found[name], name) for name in NAMES)


@pytest.mark.parametrize("inside", [True, False])
def test_one_folder_in_the_other(tmp_path, inside):
    """Images and masks are both PNGs, and are not confused."""
    images, masks = (tmp_path, tmp_path / "masks") if inside else (tmp_path / "images", tmp_path)
    for name in NAMES:
        put(images / f"{name}.png", np.zeros((*SIZE, 3), np.uint8))
    data = open_data_set(images, write_palette(masks))
    assert data.problems == [] and list(read(data)) == NAMES


def test_polygons_are_those_of_pycocotools(images, tmp_path):
    rng = np.random.default_rng(0)
    content: dict[str, Any] = {"images": [{"id": 5, "file_name": "a.jpg", "height": 40, "width": 60}]}
    content["annotations"] = [
        {"id": i, "image_id": 5, "segmentation": [rng.uniform(-3, 63, 2 * n).tolist() for n in (3, 7)[: 1 + i % 2]]}
        for i in range(12)
    ]
    file = put(tmp_path / "instances.json", json.dumps(content))
    found = read(open_data_set(images, file))["a"]
    oracle = COCO(str(file))
    assert len(found) == 12
    for i, annotation in oracle.anns.items():
        assert np.array_equal(found[str(i)], oracle.annToMask(annotation) > 0) and found[str(i)].any()


def test_polygons_without_pycocotools(images, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert open_data_set(images, write_coco(tmp_path)).jobs  # run lengths need nothing
    with pytest.raises(ImportError, match=r"sam2fast\[eval\]"):
        open_data_set(images, write_coco(tmp_path, lambda mask: [[0, 0, 9, 0, 9, 9]]))


def test_crowds_and_images_without_objects(images, tmp_path):
    file = write_coco(tmp_path)
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        annotation["iscrowd"] = int(annotation["image_id"] == 0 or annotation["id"] == 7)
    put(file, json.dumps(content))
    data = open_data_set(images, file)
    assert [job.name for job in data.jobs] == ["b_1.jpg", "sub/c.jpg"] and data.problems == []
    assert {name: len(masks) for name, masks in read(data).items()} == {"b_1": 2, "sub/c": 2}
    assert len(open_data_set(images, file, with_crowds=True).jobs) == 3


def test_labels_that_are_no_objects(images, tmp_path):
    data = open_data_set(images, write_palette(tmp_path / "masks"), ignored_labels=[255, 3])
    assert all(list(masks) == ["7"] for masks in read(data).values())


def test_longest_name_owns_a_mask(tmp_path):
    for name in ("x", "x_1", "x_1_2"):
        put(tmp_path / "images" / f"{name}.jpg", np.zeros((*SIZE, 3), np.uint8))
    mask = np.ones(SIZE, np.uint8)
    for name in ("x_9", "x_1_9", "x_1_3_9", "x_1_2_9"):
        put(tmp_path / "masks" / f"{name}.png", mask)
    data = open_data_set(tmp_path / "images", tmp_path / "masks")
    assert {job.name: [file.stem for file in job.masks.files] for job in data.jobs} == {
        "x.jpg": ["x_9"],
        "x_1.jpg": ["x_1_3_9", "x_1_9"],
        "x_1_2.jpg": ["x_1_2_9"],
    }


def test_drawn_images(images):
    jobs = open_data_set(images, write_sa1b(images)).jobs
    drawn = [[job.name for job in sample(jobs, 2, seed)] for seed in range(20)]
    assert all(names == sorted(names) and len(set(names)) == 2 for names in drawn)
    assert len(set(map(tuple, drawn))) == 3
    assert [job.name for job in sample(jobs, 2, 5)] == drawn[5]
    assert sample(jobs, 3, 0) == sample(jobs, 99, 0) == jobs


def problems_of(data: ClickDataset) -> dict[str, str]:
    """The kind of problem by file name."""
    kinds = ("no masks", "no image", "several types", "may be any of")
    return {Path(file).name: next(kind for kind in kinds if kind in why) for file, why in data.problems}


@pytest.mark.parametrize("layout", ["sa1b", "png, palette", "png, folders"])
def test_images_without_masks_and_masks_without_images(images, tmp_path, layout):
    masks = WRITERS[layout](tmp_path / "masks")
    put(images / "alone.jpg", np.zeros((*SIZE, 3), np.uint8))
    (images / "a.jpg").unlink()
    data = open_data_set(images, masks)
    lost = {"sa1b": ["a.json"], "png, palette": ["a.png"]}.get(layout, ["255.png", "3.png", "7.png"])
    assert [job.name for job in data.jobs] == ["b_1.jpg", "sub/c.jpg"]
    assert problems_of(data) == {"alone.jpg": "no masks"} | dict.fromkeys(lost, "no image")
    assert "alone.jpg" not in problems_of(open_data_set(images, masks, skip_unmasked=True))


ACCENTED = {form: unicodedata.normalize(form, "\N{LATIN SMALL LETTER E WITH ACUTE}1") for form in ("NFC", "NFD")}
# Names in COCO's file of the images a.jpg, b_1.jpg and sub/c.jpg in the folder "images".
STATED = {
    "version 0.3": "images/{}",
    "Windows": "C:\\data\\images\\{}",
    "another folder": "renamed/{}",
    "no folder": "{}",
    "capitals": "IMAGES/{}",
}


@pytest.mark.parametrize("stated", STATED.values(), ids=STATED)
def test_names_of_coco_that_are_no_paths(images, tmp_path, caplog, stated):
    file = write_coco(tmp_path)
    content = json.loads(file.read_text())
    for entry in content["images"]:
        name = entry["file_name"] if stated != "{}" else Path(entry["file_name"]).name
        name = stated.format(name)
        entry["file_name"] = name.replace("/", "\\") if "\\" in stated else name
    data = open_data_set(images, put(file, json.dumps(content)))
    assert [job.name for job in data.jobs] == ["a.jpg", "b_1.jpg", "sub/c.jpg"] and data.problems == []
    assert all(same(masks, name) for name, masks in read(data).items())
    note = f"2 images are matched by the file name only, since folders differ: {images}/a.jpg is matched with renamed/a"
    assert (note in caplog.text) == (stated == "renamed/{}")


def test_a_name_of_coco_without_a_file(images, tmp_path):
    """The other images are evaluated."""
    (images / "a.jpg").rename(images / "d.jpg")
    file = write_coco(tmp_path)
    data = open_data_set(images, file)
    assert [job.name for job in data.jobs] == ["b_1.jpg", "sub/c.jpg"]
    assert data.problems == [(f"{file}: image 0", f"no file 'a.jpg' in {images}")]


@pytest.mark.parametrize("layout", ["sa1b", "coco", "png, palette", "png, longer names", "png, folders"])
@pytest.mark.parametrize("of_masks", ["NFC", "NFD"])
def test_composed_and_decomposed_names(tmp_path, monkeypatch, layout, of_masks):
    of_images = "NFD" if of_masks == "NFC" else "NFC"
    put(tmp_path / "images" / f"{ACCENTED[of_images]}.JPG", np.zeros((*SIZE, 3), np.uint8))
    monkeypatch.setattr(f"{__name__}.NAMES", [ACCENTED[of_masks]])
    data = open_data_set(tmp_path / "images", WRITERS[layout](tmp_path / "masks"))
    assert [job.name for job in data.jobs] == [f"{ACCENTED[of_images]}.JPG"] and data.problems == []
    assert same(read(data)[ACCENTED[of_images]], ACCENTED[of_masks])


def test_images_of_one_name_with_masks_of_whole_names(tmp_path):
    for name in ("IMG_1.JPG", "IMG_1.bmp"):
        put(tmp_path / "images" / name, np.zeros((*SIZE, 3), np.uint8))
        put(tmp_path / "masks" / f"{name}.png", np.ones(SIZE, np.uint8))
    data = open_data_set(tmp_path / "images", tmp_path / "masks")
    assert [(job.name, job.masks.files[0].name) for job in data.jobs] == [
        ("IMG_1.JPG", "IMG_1.JPG.png"),
        ("IMG_1.bmp", "IMG_1.bmp.png"),
    ]
    (tmp_path / "masks/IMG_1.bmp.png").rename(tmp_path / "masks/IMG_1.png")
    data = open_data_set(tmp_path / "images", tmp_path / "masks")
    assert [job.name for job in data.jobs] == ["IMG_1.JPG"]
    assert problems_of(data) == {"IMG_1.bmp": "may be any of"}


def test_unclear_pairs(images, tmp_path):
    masks = write_objects(write_palette(tmp_path / "masks"))
    (masks / "a.png").unlink()
    for name in ("a.png", "d.jpg"):
        put(images / name, np.zeros((*SIZE, 3), np.uint8))
    put(masks / "d.png", np.ones(SIZE, np.uint8))
    data = open_data_set(images, masks)
    assert [job.name for job in data.jobs] == ["d.jpg"]
    several = dict.fromkeys(("b_1.jpg", "c.jpg"), "several types")
    assert problems_of(data) == {"a.jpg": "may be any of", "a.png": "may be any of", **several}


def test_annotations_of_no_image(images, tmp_path):
    file = write_coco(tmp_path)
    content = json.loads(file.read_text())
    content["annotations"] += [{"id": 1, "image_id": 99, "segmentation": []}, "nonsense", {"id": 2}]
    data = open_data_set(images, put(file, json.dumps(content)))
    assert len(data.jobs) == 3 and [why for _, why in data.problems] == ["it belongs to no image in the file"] * 3
    assert data.problems[0][0] == f"{file}: annotation 9"


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        ({}, "segmentation"),
        ({"segmentation": {"size": [60, 40], "counts": [2400]}}, "40x60"),
        ({"segmentation": {"size": [40, 60], "counts": "a"}}, "truncated"),
        ({"segmentation": []}, "no polygon"),
        ({"segmentation": [[1, 2, 3, float("nan"), 5, 6]]}, "far outside"),
    ],
)
def test_damaged_annotations_leave_the_others(tmp_path, damaged, message):
    good = {"id": 8, "segmentation": compressed(masks_of("a")[3])}
    content = {"image": {}, "annotations": [good, damaged, good]}
    image = put(tmp_path / "a.png", np.zeros((*SIZE, 3), np.uint8))
    found = Sa1bMasks(put(tmp_path / "a.json", json.dumps(content)), image).read(SIZE)
    assert [mask.id for mask in found.masks] == ["8", "8"]
    (line,) = found.problems
    assert line.startswith(f"{tmp_path / 'a.json'}: annotation 1") and message in line


def test_masks_of_stored_pixels_are_rotated(tmp_path):
    """For the displayed image."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image, mask = tmp_path / "a.jpg", masks_of("a")[3]
    Image.new("RGB", SIZE[::-1]).save(image, exif=exif)
    annotations, shown = ({"segmentation": compressed(mask)},) * 2, (SIZE[1], SIZE[0])
    sa1b = Sa1bMasks(put(tmp_path / "a.json", json.dumps({"annotations": annotations})), image)
    for source in (
        sa1b,
        CocoMasks(tmp_path, image, annotations, SIZE),
        CocoMasks(tmp_path, image, annotations, (None,) * 2),
    ):
        for found in source.read(shown).masks:
            np.testing.assert_array_equal(decode_segmentation(found.rle, shown), np.rot90(mask, -1))


GREY, COLOURS, SMALL = (np.ones(shape, np.uint8) for shape in (SIZE, (*SIZE, 3), (40, 59)))
MANY_VALUES = np.arange(40_000, dtype=np.uint16).reshape(200, 200)
SOFT = np.minimum(np.arange(2400, dtype=np.uint16) // 20 * 64, 255).astype(np.uint8).reshape(SIZE)
NO_OBJECTS = '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}'


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda images, at: open_data_set(images, put(at / "a.json", b"\xff\xfe\x00")), "not JSON"),
        (lambda images, at: open_data_set(images, put(at / "a.json", "[]")), "no lists of images"),
        (lambda images, at: open_data_set(images, put(at / "a.json", NO_OBJECTS)), "no image in"),
        (lambda images, at: open_data_set(images, put(at / "empty/a.txt", "").parent), "neither"),
        (lambda images, at: open_data_set(images, images, "coco"), "the JSON file"),
        (lambda images, at: open_data_set(images, at / "nowhere"), "no file or folder"),
        (lambda images, at: open_data_set(at / "nowhere", images), "no folder"),
        (lambda images, at: CocoMasks(at, images / "a.jpg", (), (9, 7)).read(SIZE), "60x40 pixels, .* for 7x9"),
        (lambda images, at: Sa1bMasks(put(at / "a.json", "{"), images / "a.jpg").read(SIZE), "not JSON"),
        (lambda images, at: LabelImage(put(at / "a.png", COLOURS)).read(SIZE), "mode RGB"),
        (lambda images, at: LabelImage(put(at / "a.png", b"\x89PNG")).read(SIZE), "a.png"),
        (lambda images, at: LabelImage(put(at / "a.png", SMALL)).read(SIZE), "59x40"),
        (lambda images, at: LabelImage(put(at / "a.png", MANY_VALUES)).read((200, 200)), "40000 different"),
        (lambda images, at: LabelImage(put(at / "a.png", SOFT)).read(SIZE), "3 grey values"),
    ],
)
def test_refusals(images, tmp_path, call, word):
    with pytest.raises(DatasetError, match=word):
        call(images, tmp_path)


def test_damaged_images_leave_the_others(tmp_path):
    good = put(tmp_path / "good.png", GREY)
    damaged = [
        put(tmp_path / "colours.png", COLOURS),
        put(tmp_path / "cut.png", good.read_bytes()[:60]),
        put(tmp_path / "small.png", SMALL),
    ]
    found = ObjectImages((good, *damaged)).read(SIZE)
    assert [mask.id for mask in found.masks] == ["good"] and found.masks[0].area == 2400
    assert len(found.problems) == 3 and all(
        str(file) in line for file, line in zip(damaged, found.problems, strict=True)
    )
