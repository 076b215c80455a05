"""Every format is read back by a library that people use; YOLO's as ultralytics documents it."""

import base64
import json
from io import BytesIO
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
import yaml
from file_contents import names
from hard_names import HARD_NAMES
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from shapely import LinearRing
from skimage.draw import polygon2mask

from sam2fast.io.label_maps import paint_labels, row_major
from sam2fast.io.rle import decode_rle, encode_rle, rasterise_polygons
from sam2fast.results import FORMATS, AnnotatedImage, polygons_of, write_masks
from sam2fast.results.label_studio import FILES_ADDRESS, brush_run_lengths
from sam2fast.results.polygons import joined
from sam2fast.transforms import to_pixels

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


def filled(mask: np.ndarray) -> np.ndarray:
    """As readers of YOLO and LabelMe fill outlines: also the pixels behind right and lower edges."""
    padded = np.pad(mask, ((1, 0), (1, 0)))
    return padded[1:, 1:] | padded[:-1, 1:] | padded[1:, :-1] | padded[:-1, :-1]


def check_masks(found: np.ndarray, masks: list[np.ndarray], least: float = 0.95) -> None:
    assert found.shape == (3, *SIZE)
    for mask, expected in zip(found, masks, strict=True):
        assert (mask & expected).sum() / (mask | expected).sum() >= least


@pytest.mark.parametrize("name", FORMATS)
def test_stems_that_are_not_utf_8(tmp_path, image, name):
    write_masks(tmp_path / "out", [item_of(image, "caf\udce9")], name, tolerance=0)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert name == "coco" or any("caf%E9" in path.name for path in files)
    for path in files:
        path.name.encode()
        if path.suffix in (".json", ".txt", ".xml", ".geojson"):
            assert "\\ud" not in path.read_text(encoding="utf-8")


def test_coco(tmp_path, image):
    other = item_of(image.parent / "sub/photo.png", "other")
    write_masks(tmp_path / "out", [item_of(image), other], "coco")
    coco = COCO(str(tmp_path / "out/masks.json"))
    assert [coco.imgs[i]["file_name"] for i in (1, 2)] == ["photo.png", "sub/photo.png"]
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
    from supervision import DetectionDataset  # imports SciPy, scikit-image and more

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
        return check_masks(found.mask, [filled(mask) for mask in MASKS])
    expected = [[m.any(0).argmax(), m.any(1).argmax(), *(np.argwhere(m).max(0)[::-1] + 1)] for m in MASKS]
    np.testing.assert_allclose(found.xyxy, expected, atol=1e-3)


@pytest.mark.parametrize("name", ["photo.gif", "photo.jfif", "photo.ico", "photo"])
def test_images_that_few_programs_read_become_jpeg(tmp_path, image, name):
    Image.open(image).save(tmp_path / name, {".gif": "gif", ".ico": "ico"}.get(Path(name).suffix, "jpeg"))
    write_masks(tmp_path / "out", [item_of(tmp_path / name)], "yolo")
    assert names(tmp_path / "out/images") == ["photo.jpg"]
    assert abs(int(np.asarray(Image.open(tmp_path / "out/images/photo.jpg")).mean()) - 70) <= 1


@pytest.mark.parametrize("name", FORMATS)
def test_images_have_the_same_classes(tmp_path, image, name):
    items = [item_of(image), item_of(image, "other")._replace(classes=("ball: red", "dog"))]
    said = "other has the classes .*'ball: red', 'dog'.*, but previous images have .*'dog'"
    with pytest.raises(ValueError, match=said):
        write_masks(tmp_path / "out", items, name)
    with pytest.raises(ValueError, match="photo has masks of 'ball: red', which is not in its classes .*'dog'"):
        write_masks(tmp_path / "out", [items[0]._replace(classes=("dog",))], name)


@pytest.mark.parametrize("name", FORMATS)
def test_types_of_numpy_and_pycocotools(tmp_path, image, name):
    """Writes the same files as from plain types. Paths may be text."""
    item = item_of(image)
    write_masks(tmp_path / "plain", [item], name)
    rles = [coco_masks.encode(np.asfortranarray(mask, np.uint8)) for mask in MASKS]
    changed = {"image": str(image), "size": tuple(np.int64(side) for side in SIZE), "rles": rles}
    scores = np.array(item.scores).astype(np.float64)
    write_masks(str(tmp_path / "numpy"), [item._replace(**changed, scores=scores, numbers=np.arange(1, 4))], name)
    plain, other = (
        sorted(path for path in (tmp_path / part).rglob("*") if path.is_file()) for part in ("plain", "numpy")
    )
    assert [path.name for path in plain] == [path.name for path in other] and plain
    if name not in ("npz", "label-studio"):  # with times or the folder's name
        assert [path.read_bytes() for path in plain] == [path.read_bytes() for path in other]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"size": (WIDTH, HEIGHT)},
            r"size \(120, 90\), but .* the size \(90, 120\); give the size as \(height, width\)",
        ),
        ({"size": (HEIGHT, 100)}, r"size \(90, 100\), but a mask has the size \(90, 120\)$"),
        ({"scores": [0.5]}, "3 masks, but 1 scores"),
        ({"labels": ["dog"] * 4}, "3 masks, but 4 labels"),
        ({"scores": [0.5, float("nan"), 1]}, "expected finite numbers"),
    ],
)
def test_masks_that_do_not_fit(tmp_path, image, name, changes, message):
    with pytest.raises(ValueError, match=message):
        write_masks(tmp_path / "out", [item_of(image)._replace(**changes)], name)
    assert not (tmp_path / "out").exists()


def test_two_images_of_one_stem(tmp_path, image):
    with pytest.raises(ValueError, match="two images have the stem 'PHOTO'"):
        write_masks(tmp_path / "out", [item_of(image), item_of(image, "PHOTO")], "yolo")


def test_names_of_any_script(tmp_path, image):
    """Of classes, and of files as far as a file system takes them; by the programs' own readers."""
    mask, count = encode_rle(MASKS[0]), len(HARD_NAMES)
    files = [image.with_name(f"{label.replace('/', '_')}.png") for label in HARD_NAMES]
    for file in files:
        file.write_bytes(image.read_bytes())
    items = [
        AnnotatedImage(file, file.stem, SIZE, [mask], [label], [0.5], HARD_NAMES)
        for file, label in zip(files, HARD_NAMES, strict=True)
    ]
    for name in FORMATS:
        write_masks(tmp_path / name, items, name)
    coco = COCO(tmp_path / "coco" / "masks.json")
    found = coco.loadAnns(coco.getAnnIds())
    assert [coco.cats[one["category_id"]]["name"] for one in found] == HARD_NAMES
    assert [coco.imgs[one["image_id"]]["file_name"] for one in found] == [file.name for file in files]
    for name in ("yolo", "yolo-seg"):
        assert yaml.safe_load((tmp_path / name / "data.yaml").read_text("utf-8"))["names"] == dict(
            enumerate(HARD_NAMES)
        )
        rows = [(tmp_path / name / "labels" / f"{item.stem}.txt").read_text().split()[0] for item in items]
        assert rows == [str(i) for i in range(count)]
    interface = ElementTree.parse(tmp_path / "label-studio" / "label_config.xml")
    assert [label.get("value") for label in interface.iter("Label")] == HARD_NAMES
    for item, label in zip(items, HARD_NAMES, strict=True):
        for name in ("labelme", "labelme-mask"):
            document = json.loads((tmp_path / name / f"{item.stem}.json").read_bytes())
            assert document["shapes"][0]["label"] == label and (tmp_path / name / document["imagePath"]).is_file()
        (feature,) = json.loads((tmp_path / "geojson" / f"{item.stem}.geojson").read_bytes())["features"]
        task = json.loads((tmp_path / "label-studio" / f"{item.stem}.json").read_bytes())
        assert feature["properties"]["name"] == label and np.load(tmp_path / "npz" / f"{item.stem}.npz")["labels"] == [
            label
        ]
        (result,) = task["predictions"][0]["result"]
        address = unquote(task["data"]["image"].removeprefix(FILES_ADDRESS))
        assert result["value"]["brushlabels"] == [label] and (tmp_path / address).is_file()


@pytest.mark.parametrize(("count", "dtype"), [(255, np.uint8), (256, np.uint16)])
def test_label_maps_have_room_for_every_id(count, dtype):
    labels = paint_labels([encode_rle(np.arange(count)[None] == i) for i in range(count)], 1, count)
    assert labels.dtype == dtype and labels.tolist() == [[*range(1, count + 1)]]


def test_images_are_those_of_the_labels(tmp_path, image):
    """Also where another image had the name before; a file among its own labels is left alone."""
    for value in (10, 20):
        Image.new("RGB", SIZE[::-1], (value,) * 3).save(image)
        write_masks(tmp_path / "out", [item_of(image)], "yolo")
        write_masks(image.parent, [item_of(image)], "labelme")
        assert (tmp_path / "out/images/photo.png").read_bytes() == image.read_bytes()


def test_labelme(tmp_path, image):
    from supervision import DetectionDataset

    write_masks(tmp_path / "out", [item_of(image)], "labelme")
    read = DetectionDataset.from_labelme(str(tmp_path / "out"), str(tmp_path / "out"), force_masks=True)
    ((path, _, found),) = read
    assert Path(path).name == "photo.png" and [read.classes[i] for i in found.class_id].count("dog") == 2
    groups = [shape["group_id"] for shape in json.loads((tmp_path / "out/photo.json").read_text())["shapes"]]
    assert groups == [1, 2, 2, 3]
    check_masks(found.mask, [filled(mask) for mask in MASKS])  # the parts of a group are one object


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
    check_masks(masks, MASKS, least=0.9)  # polygon2mask leaves out a part of the border
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


def test_without_shapely(tmp_path, image, monkeypatch):
    """Only outlines that are not simplified are written."""
    monkeypatch.setitem(__import__("sys").modules, "shapely", None)
    with pytest.raises(ImportError, match=r"sam2fast\[polygons\]"):
        write_masks(tmp_path / "out", [item_of(image)], "yolo-seg")
    for name in FORMATS:
        write_masks(tmp_path / "out", [item_of(image)], name, tolerance=0)


def test_formats_have_the_same_polygons(tmp_path, image):
    """Those of the pixels, as pycocotools reads them; every object that is not empty, however small."""
    masks = [*MASKS, np.zeros(SIZE), np.eye(*SIZE), np.arange(WIDTH) + np.zeros((HEIGHT, 1)) == 3]
    found = dict.fromkeys(("yolo", "yolo-seg", "labelme", "geojson"), "")
    for name in found:
        item = item_of(image)._replace(rles=[encode_rle(mask) for mask in masks])
        item = item._replace(labels=["dog"] * 6, scores=[0.5] * 6)
        write_masks(tmp_path / name, [item], name, tolerance=0)
        (file,) = [*(tmp_path / name).glob("labels/*.txt"), *(tmp_path / name).glob("*json")]
        found[name] = file.read_text()
    lines = {name: [line.split()[1:] for line in found[name].splitlines()] for name in ("yolo", "yolo-seg")}
    assert [len(line) for line in lines["yolo"]] == [4] * 5
    shares = [np.array(line, dtype=float).reshape(-1, 2) for line in lines["yolo-seg"]]
    shapes, features = json.loads(found["labelme"])["shapes"], json.loads(found["geojson"])["features"]
    assert [feature["properties"]["id"] for feature in features] == [1, 2, 3, 5, 6]
    for share, feature in zip(shares, features, strict=True):
        number = feature["properties"]["id"]
        polygons = {
            "yolo-seg": [(share * SIZE[::-1]).round()],
            "labelme": [shape["points"] for shape in shapes if shape["group_id"] == number],
            "geojson": feature["geometry"]["coordinates"],
        }
        for name, rings in polygons.items():
            rings = [joined([np.array(r)[:-1] for r in part]) for part in rings] if name == "geojson" else rings
            read = rasterise_polygons([np.ravel(ring).tolist() for ring in rings], SIZE)
            np.testing.assert_array_equal(decode_rle(read), masks[number - 1] > 0, err_msg=name)


def test_labelme_masks(tmp_path, image):
    """The pixels of a box whose last row and column are included, as LabelMe reads them."""
    rles = [encode_rle(np.zeros(SIZE)), *(encode_rle(mask) for mask in MASKS)]
    item = item_of(image)._replace(rles=rles, labels=["dog", "dog", "ball: red", "dog"], scores=[0.5] * 4)
    write_masks(tmp_path / "out", [item], "labelme-mask")
    assert names(tmp_path / "out") == ["photo.json", "photo.png"]
    document = json.loads((tmp_path / "out/photo.json").read_text())
    assert (document["imagePath"], document["imageHeight"], document["imageWidth"]) == ("photo.png", *SIZE)
    for number, (shape, mask) in enumerate(zip(document["shapes"], MASKS, strict=True), 2):
        assert shape["shape_type"] == "mask" and shape["group_id"] == number
        (left, top), (right, bottom) = shape["points"]
        pixels = np.asarray(Image.open(BytesIO(base64.b64decode(shape["mask"])))).astype(bool)
        found = np.zeros(SIZE, dtype=bool)
        found[top : bottom + 1, left : right + 1] = pixels
        np.testing.assert_array_equal(found, mask)
    assert [shape["label"] for shape in document["shapes"]] == ["dog", "ball: red", "dog"]


def decode_brush(content: list[int]) -> np.ndarray:
    """The values of Label Studio's run lengths, bit by bit: the format of rle-pack (https://thi.ng/rle-pack)."""
    bits = iter("".join(f"{byte:08b}" for byte in content))

    def read(count: int) -> int:
        return int("".join(next(bits) for _ in range(count)), 2)

    total, word = read(32), read(5) + 1
    sizes = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        is_run, length = read(1), read(sizes[read(2)]) + 1
        values += [read(word)] * length if is_run else [read(word) for _ in range(length)]
    assert len(values) == total and not any(map(int, bits))
    return np.array(values)


def test_label_studio(tmp_path, image):
    image = image.rename(image.with_name("a photo.png"))
    masks = [np.ones(SIZE), np.zeros(SIZE), MASKS[0], np.indices(SIZE).sum(0) % 2]
    rles = [encode_rle(mask) for mask in masks]
    item = item_of(image, "a photo")._replace(rles=rles, labels=[CLASSES[1]] * 4, scores=[0.9, 0.8, 0.7, 0.6])
    write_masks(tmp_path / "out", [item], "label-studio")
    assert names(tmp_path / "out") == ["a photo.json", "a photo.png", "label_config.xml"]
    task = json.loads((tmp_path / "out/a photo.json").read_text())
    assert task["data"] == {"image": "/data/local-files/?d=out/a%20photo.png"}
    (prediction,) = task["predictions"]
    interface = ElementTree.parse(tmp_path / "out/label_config.xml")
    assert [label.get("value") for label in interface.iter("Label")] == list(CLASSES)
    brush, shown = interface.find("BrushLabels"), [masks[i] for i in (0, 2, 3)]
    assert prediction["score"] == 0.6
    for result, mask, score in zip(prediction["result"], shown, (0.9, 0.7, 0.6), strict=True):
        assert (result["type"], result["value"]["format"]) == ("brushlabels", "rle")
        assert (result["from_name"], result["to_name"]) == (brush.get("name"), brush.get("toName"))
        assert (result["original_height"], result["original_width"]) == SIZE and result["score"] == score
        assert result["value"]["brushlabels"] == [CLASSES[1]]
        found = decode_brush(result["value"]["rle"]).reshape(*SIZE, 4)
        np.testing.assert_array_equal(found, np.repeat(255 * mask[..., None], 4, axis=2))


def test_long_runs_of_brushes():
    """Of more values than one run can have, also by exactly one run."""
    for height in (128, 129, 256, 300):
        mask = np.zeros((height, 128), dtype=bool)
        mask[height // 2 :] = True
        found = decode_brush(brush_run_lengths(mask)).reshape(*mask.shape, 4)
        np.testing.assert_array_equal(found[..., 3] == 255, mask)


def cmyk(path: Path) -> None:
    Image.new("CMYK", SIZE[::-1], (200, 30, 0, 10)).save(path)


def deep(path: Path) -> None:
    Image.fromarray(np.linspace(0, 3000, HEIGHT * WIDTH).astype(np.uint16).reshape(SIZE)).save(path)


def separate(path: Path) -> None:
    tifffile.imwrite(path, np.full((4, *SIZE), 1000, np.int16), photometric="rgb", planarconfig="separate")


def thumbnail(path: Path) -> None:
    with tifffile.TiffWriter(path) as file:
        file.write(np.zeros((9, 12), np.uint8), subfiletype=1)
        file.write(np.full(SIZE, 99, np.uint8))


NOT_SHOWN = {"photo.jpg": cmyk, "photo.tif": separate, "deep.tif": deep, "deep.png": deep, "small.tiff": thumbnail}


@pytest.mark.parametrize(
    ("name", "format"),
    [
        *((name, "labelme") for name in NOT_SHOWN),
        *(("deep.png", format) for format in ("labelme-mask", "yolo", "label-studio")),
    ],
)
def test_images_that_programs_for_labels_do_not_show(tmp_path, name, format):
    """Writes the pixels that the model read as PNG beside the labels. The labels name this file."""
    NOT_SHOWN[name](tmp_path / name)
    stem = Path(name).stem
    write_masks(tmp_path / "out", [item_of(tmp_path / name, stem)], format)
    (copy,) = (tmp_path / "out").rglob("*.png")
    with Image.open(copy) as image:
        assert image.mode == "RGB" and image.size == SIZE[::-1]
        assert np.array_equal(np.asarray(image), to_pixels(tmp_path / name).numpy())
    if format.startswith("labelme"):
        assert json.loads((tmp_path / f"out/{stem}.json").read_text())["imagePath"] == copy.name


@pytest.mark.parametrize(
    ("name", "kind", "format", "copy"),
    [
        ("photo.jpg", "AVIF", "yolo", "photo.jpg"),
        ("photo.jpg", "PNG", "yolo", "photo.png"),
        ("photo.png", "TIFF", "labelme", "photo.tif"),
        ("photo.png", "TIFF", "label-studio", "photo.png"),
        ("photo.png", "JPEG", "label-studio", "photo.jpg"),
        ("photo.tif", "PNG", "label-studio", "photo.png"),
        ("photo.heic", "JPEG", "yolo", "photo.jpg"),
        ("photo.JPEG", "JPEG", "yolo", "photo.JPEG"),
    ],
)
def test_the_header_states_the_format_of_an_image(tmp_path, name, kind, format, copy):
    """Copies have the suffix of their content, and are of formats that readers know."""
    Image.new("RGB", SIZE[::-1], (70, 70, 70)).save(tmp_path / name, kind)
    write_masks(tmp_path / "out", [item_of(tmp_path / name)], format)
    (written,) = (path for path in (tmp_path / "out").rglob("photo*") if path.suffix not in (".txt", ".json"))
    assert written.name == copy
    with Image.open(written) as image:
        known = {".jpg": "JPEG", ".JPEG": "JPEG", ".png": "PNG", ".tif": "TIFF"}
        assert image.format == known[written.suffix] and abs(int(np.asarray(image).mean()) - 70) <= 1


def test_label_studio_shows_no_tiff(tmp_path):
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "photo.tif")
    for format, suffix in (("labelme", "tif"), ("label-studio", "png")):
        write_masks(tmp_path / format, [item_of(tmp_path / "photo.tif")], format)
        assert (tmp_path / format / f"photo.{suffix}").exists()


def geotiff(path: Path, model: int, code: int, *transform: tuple[int, str, int, object, bool], point: int = 1) -> None:
    key = 3072 if model == 1 else 2048
    keys = (1, 1, 0, 3, 1024, 0, 1, model, 1025, 0, 1, point, key, 0, 1, code)
    tags = [(34735, "H", 16, keys, True), *transform]
    tifffile.imwrite(path, np.zeros(SIZE, np.uint16), extratags=tags, metadata=None)


SCALE = (33550, "d", 3, (10.0, 5.0, 0.0), True)
TIE = (33922, "d", 6, (0.0, 0.0, 0.0, 500000.0, 5200000.0, 0.0), True)
MATRIX = (34264, "d", 16, (0.0, 2.0, 0.0, 7.0, 3.0, 0.0, 0.0, 8.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0), True)
# EPSG's code of each file, and what (column, row) becomes.
PLACES = {
    "projected": ((1, 32633, SCALE, TIE), lambda x, y: (500000 + 10 * x, 5200000 - 5 * y)),
    "degrees": ((2, 4326, SCALE, TIE), lambda x, y: (500000 + 10 * x, 5200000 - 5 * y)),
    "a matrix": ((1, 3857, MATRIX), lambda x, y: (2 * y + 7, 3 * x + 8)),
}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("point", [1, 2])
def test_geojson_of_geotiff(tmp_path, name, point):
    """Coordinates are those of the file's system, which ``crs`` names; without it GeoJSON is in degrees of WGS 84."""
    (model, code, *tags), world = PLACES[name]
    geotiff(tmp_path / "photo.tif", model, code, *tags, point=point)
    for folder, image in (("world", tmp_path / "photo.tif"), ("pixels", np.zeros((*SIZE, 3), np.uint8))):
        write_masks(tmp_path / folder, [item_of(image)], "geojson", 0)
    found, pixels = (json.loads((tmp_path / f"{f}/photo.geojson").read_text()) for f in ("world", "pixels"))
    names = {32633: "urn:ogc:def:crs:EPSG::32633", 3857: "urn:ogc:def:crs:EPSG::3857"}
    assert found.get("crs") == (None if code == 4326 else {"type": "name", "properties": {"name": names[code]}})
    shift = 0.5 * (point == 2)  # tie points of centres
    for one, other in zip(found["features"], pixels["features"], strict=True):
        for part, same in zip(one["geometry"]["coordinates"], other["geometry"]["coordinates"], strict=True):
            for ring, corners in zip(part, same, strict=True):
                expected = [world(x - shift, y - shift) for x, y in corners]
                np.testing.assert_allclose(sorted(ring[1:]), sorted(expected[1:]))
                assert LinearRing(ring).is_ccw == LinearRing(corners).is_ccw  # also of holes


@pytest.mark.parametrize("tags", [(SCALE, TIE), ()], ids=["its own system", "no transform"])
def test_geojson_of_an_unknown_place(tmp_path, caplog, tags):
    geotiff(tmp_path / "photo.tif", 1, 32767 if tags else 32633, *tags)
    for folder, image in (("tif", tmp_path / "photo.tif"), ("pixels", np.zeros((*SIZE, 3), np.uint8))):
        write_masks(tmp_path / folder, [item_of(image)], "geojson", 0)
    assert (tmp_path / "tif/photo.geojson").read_bytes() == (tmp_path / "pixels/photo.geojson").read_bytes()
    assert "photo.tif has no transform with an EPSG code: GeoJSON coordinates are pixels" in caplog.text
