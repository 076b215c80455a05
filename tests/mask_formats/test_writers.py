"""Every format is read back by a library that people use; YOLO's as ultralytics documents it."""

import json
from pathlib import Path

import numpy as np
import pytest
from file_contents import names
from PIL import Image
from pycocotools.coco import COCO
from skimage.draw import polygon2mask
from supervision import DetectionDataset

from sam2fast.io.rle import encode_rle
from sam2fast.mask_formats import FORMATS, AnnotatedImage, polygons_of, write_masks
from sam2fast.mask_formats.layers import row_major

HEIGHT, WIDTH = 90, 120
SIZE = HEIGHT, WIDTH
CLASSES = ("dog", "ball: red")


def shapes() -> list[np.ndarray]:
    """A ring, two discs that are one object, and a rectangle at the image's corner."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]

    def disc(cx: int, cy: int, radius: int) -> np.ndarray:
        return (x - cx) ** 2 + (y - cy) ** 2 <= radius**2

    return [disc(40, 45, 30) & ~disc(40, 45, 12), disc(90, 20, 14) | disc(90, 60, 9), (x >= 100) & (y >= 75)]


MASKS = shapes()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.full((*SIZE, 3), 70, dtype=np.uint8)).save(path)
    return path


def item_of(image: Path | np.ndarray, stem: str = "photo") -> AnnotatedImage:
    rles = [encode_rle(mask) for mask in MASKS]
    return AnnotatedImage(image, stem, SIZE, rles, ["dog", "ball: red", "dog"], [0.9, 0.8, 0.7], CLASSES)


def check_masks(found: np.ndarray, least: float = 0.95) -> None:
    assert found.shape == (3, *SIZE)
    for mask, expected in zip(found, MASKS, strict=True):
        assert (mask & expected).sum() / (mask | expected).sum() >= least


def test_coco(tmp_path, image):
    write_masks(tmp_path / "out", [item_of(image), item_of(image, "other")], "coco")
    coco = COCO(str(tmp_path / "out/masks.json"))
    assert [coco.imgs[i]["file_name"] for i in (1, 2)] == ["photo.png", "photo.png"]
    for number in (1, 2):
        found = coco.loadAnns(coco.getAnnIds(imgIds=[number]))
        assert [coco.cats[a["category_id"]]["name"] for a in found] == ["dog", "ball: red", "dog"]
        for annotation, mask in zip(found, MASKS, strict=True):
            np.testing.assert_array_equal(coco.annToMask(annotation) > 0, mask)
            rows, columns = np.nonzero(mask)
            x, y = columns.min(), rows.min()
            assert annotation["bbox"] == [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
            assert annotation["area"] == mask.sum()


@pytest.mark.parametrize("name", ["yolo", "yolo-seg"])
@pytest.mark.parametrize("pixels", [False, True])
def test_yolo(tmp_path, image, name, pixels):
    out = tmp_path / "out"
    write_masks(out, [item_of(np.asarray(Image.open(image)) if pixels else image)], name)
    assert names(out) == ["data.yaml", "images", "labels"]
    assert names(out / "images") == ["photo.jpg" if pixels else "photo.png"] and names(out / "labels") == ["photo.txt"]
    read = DetectionDataset.from_yolo(
        str(out / "images"), str(out / "labels"), str(out / "data.yaml"), force_masks=name == "yolo-seg"
    )
    assert read.classes == list(CLASSES)
    ((_, _, found),) = read
    assert found.class_id.tolist() == [0, 1, 0]
    if name == "yolo-seg":
        return check_masks(found.mask)
    expected = [[m.any(0).argmax(), m.any(1).argmax(), *(np.argwhere(m).max(0)[::-1] + 1)] for m in MASKS]
    np.testing.assert_allclose(found.xyxy, expected, atol=1e-3)


def test_images_are_those_of_the_labels(tmp_path, image):
    """Also where another image had the name before; a file among its own labels is left alone."""
    for value in (10, 20):
        Image.new("RGB", SIZE[::-1], (value,) * 3).save(image)
        write_masks(tmp_path / "out", [item_of(image)], "yolo")
        write_masks(image.parent, [item_of(image)], "labelme")
        assert (tmp_path / "out/images/photo.png").read_bytes() == image.read_bytes()


def test_labelme(tmp_path, image):
    write_masks(tmp_path / "out", [item_of(image)], "labelme")
    read = DetectionDataset.from_labelme(str(tmp_path / "out"), str(tmp_path / "out"), force_masks=True)
    ((path, _, found),) = read
    assert Path(path).name == "photo.png" and [read.classes[i] for i in found.class_id].count("dog") == 2
    groups = [shape["group_id"] for shape in json.loads((tmp_path / "out/photo.json").read_text())["shapes"]]
    assert groups == [1, 2, 2, 3]
    check_masks(found.mask)  # the parts of a group are one object


def test_png(tmp_path, image):
    write_masks(tmp_path / "out", [item_of(image)], "png")
    with Image.open(tmp_path / "out/photo_masks.png") as found:
        expected = np.max([(i + 1) * mask for i, mask in enumerate(MASKS)], axis=0)
        assert found.mode == "P"
        np.testing.assert_array_equal(np.asarray(found), expected)


def test_npz(tmp_path, image):
    write_masks(tmp_path / "out", [item_of(image)], "npz")
    with np.load(tmp_path / "out/photo.npz") as found:
        np.testing.assert_array_equal(found["masks"], np.stack(MASKS))
        assert found["labels"].tolist() == ["dog", "ball: red", "dog"] and found["scores"][0] == np.float32(0.9)
        assert found["boxes"].tolist()[2] == [100, 75, 120, 90]


def test_geojson(tmp_path, image):
    write_masks(tmp_path / "out", [item_of(image)], "geojson")
    features = json.loads((tmp_path / "out/photo.geojson").read_text())["features"]
    masks = np.zeros((3, *SIZE), dtype=bool)
    for mask, feature in zip(masks, features, strict=True):
        for outer, *holes in feature["geometry"]["coordinates"]:
            for i, ring in enumerate([outer, *holes]):
                assert ring[0] == ring[-1]
                inside = polygon2mask(SIZE, np.array(ring)[:, ::-1])
                mask[:] = mask & ~inside if i else mask | inside
    check_masks(masks, least=0.9)  # polygon2mask leaves out a part of the border
    assert [feature["properties"]["name"] for feature in features] == ["dog", "ball: red", "dog"]


@pytest.mark.parametrize("name", FORMATS)
def test_no_masks(tmp_path, image, name):
    write_masks(tmp_path / "out", [AnnotatedImage(image, "photo", SIZE, [], [], [])], name)
    assert (tmp_path / "out").is_dir()


def test_tolerance():
    disc, exact = encode_rle(MASKS[1]), 0.0
    corners = [sum(len(part.outer) for part in polygons_of(disc, tolerance)) for tolerance in (exact, 1.0, 4.0)]
    assert corners[0] > corners[1] > corners[2] >= 6


def test_row_major_of_more_than_one_block():
    rows = np.random.default_rng(0).integers(0, 999, (5, 600), dtype=np.uint16)
    found = row_major(np.asfortranarray(rows))
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, rows)


def test_unknown_format(tmp_path):
    with pytest.raises(ValueError, match="no format 'voc'; expected one of coco, yolo"):
        write_masks(tmp_path, [], "voc")


def test_without_opencv(tmp_path, image, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(ImportError, match=r"sam2fast\[polygons\]"):
        write_masks(tmp_path / "out", [item_of(image)], "yolo-seg")
    write_masks(tmp_path / "out", [item_of(image)], "yolo")
