"""Masks from the page: as prompts, from files, and in exports."""

import json
from io import BytesIO

import av
import moving_shapes
import numpy as np
import pytest
from demo_client import pixels_of, unzipped, zipped
from PIL import Image
from pycocotools.coco import COCO

from sam2fast.demo.server.demo_errors import BadInputError
from sam2fast.demo.server.export_data import object_colour
from sam2fast.demo.server.mask_import import VideoShape, read_masks
from sam2fast.io.label_maps import label_png
from sam2fast.io.rle import decode_rle, encode_rle
from sam2fast.results import polygons_of
from sam2fast.results.image_writers import TOLERANCE
from sam2fast.results.label_files import yolo_line, yolo_polygon

FRAMES, SIZE = 5, (48, 64)
VIDEO = VideoShape(FRAMES, SIZE)


def block(top: int, left: int, height: int = 10, width: int = 12) -> np.ndarray:
    mask = np.zeros(SIZE, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


ONE, OTHER = block(5, 6), block(10, 12)  # they overlap


def post(client, session, route, body):
    return client.http.post(f"/api/sessions/{session}/{route}", json=body)


def page(*objects, frames):
    """The body of an export: objects as (id, name) or (id, name, class), masks by frame and object."""
    return {
        "objects": [dict(zip(("id", "name", "label"), values, strict=False)) for values in objects],
        "frames": [
            {"frame": frame, "masks": [{"object": i, **encode_rle(mask)} for i, mask in masks.items()]}
            for frame, masks in frames.items()
        ],
    }


def export(client, session, kind, body):
    """Returns the files of a ZIP, by name."""
    return unzipped(client.export(session, kind, body))


def test_ids_above_255_have_16_bits(client, session):
    body = page((300, "Left"), (5, "Right"), frames={1: {5: ONE}, 2: {300: OTHER, 5: ONE}})
    files = export(client, session, "masks_png", body)
    images = [Image.open(BytesIO(content)) for content in files.values()]
    assert [(image.mode, {*np.unique(np.asarray(image))}) for image in images] == [
        ("I;16", {0, 5}),
        ("I;16", {0, 5, 300}),
    ]
    assert {one.name for one in read_masks(zipped(files), VIDEO, 0)} == {"Object 5", "Object 300"}


def test_a_mask_is_a_prompt_and_can_be_removed(client, session):
    mask = {"frameIndex": 2, "objectId": 4, "mask": encode_rle(ONE)}
    assert post(client, session, "masks", mask).status_code == 200
    facts = client.facts(session)
    assert facts["objects"] == [4] and facts["framesWithMasks"] == [2]
    tracked = dict(client.track(session, 2))
    assert sorted(tracked) == list(range(FRAMES)) and set(tracked[2]) == {4}
    found = tracked[2][4]
    assert (found & ONE).sum() / (found | ONE).sum() > 0.8  # resized to the model's input and back
    client.add(session, frame=2, obj=4)  # refines it


def archive_of(**files: bytes) -> bytes:
    return zipped({f"{name}.png": content for name, content in files.items()})


def coco(segmentation, **more):
    images = [{"id": 7, "file_name": "clip/00003.jpg"}]
    annotations = [{"id": 1, "image_id": 7, "category_id": 2, "segmentation": segmentation, **more}]
    document = {"images": images, "annotations": annotations, "categories": [{"id": 2, "name": "cup"}]}
    return json.dumps(document).encode()


def run_lengths_of(mask):
    pixels = mask.ravel(order="F")
    return np.diff([0, *(np.flatnonzero(np.diff(pixels)) + 1), pixels.size]).tolist()


WHITE = label_png(ONE * np.uint8(255))
LABELS = (ONE + 2 * (OTHER & ~ONE)).astype(np.uint8)
POLYGON = [6, 5, 18, 5, 18, 15, 6, 15]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (label_png(LABELS), {"Object 1": {4: ONE}, "Object 2": {4: OTHER & ~ONE}}),
        (archive_of(**{"00001": label_png(LABELS), "m_3": label_png(ONE.astype(np.uint8))}), None),
        (coco(encode_rle(ONE)), {"cup 1": {3: ONE}}),
        (coco([POLYGON], name="Mug"), {"Mug": {3: ONE}}),
        (coco({"size": list(SIZE), "counts": run_lengths_of(ONE)}), {"cup 1": {3: ONE}}),
        (
            archive_of(**{"s/000/00002": WHITE, "s/001/00002": label_png(OTHER * np.uint8(255)), "__MACOSX/._1": b""}),
            {"s/000": {2: ONE}, "s/001": {2: OTHER}},
        ),
        (archive_of(**{"s/00002": WHITE, "s/._00002": b"Mac OS X"}), {"Object 255": {2: ONE}}),
    ],
    ids=[
        *("image", "zip", "coco with run lengths", "coco with polygons", "coco with uncompressed run lengths"),
        *("a folder for each object", "zip of Finder"),
    ],
)
def test_masks_are_read_from_files(content, expected):
    found = {name: {t: decode_rle(rle) for t, rle in masks.items()} for name, _, masks in read_masks(content, VIDEO, 4)}
    expected = expected or {"Object 1": {1: ONE, 3: ONE}, "Object 2": {1: OTHER & ~ONE}}
    assert {name: list(masks) for name, masks in found.items()} == {n: list(masks) for n, masks in expected.items()}
    for name, masks in expected.items():
        for frame, mask in masks.items():
            np.testing.assert_array_equal(found[name][frame], mask)


TWO_VIDEOS = [{"id": i, "video_id": i, "category_id": 1, "segmentations": [encode_rle(ONE)]} for i in (1, 2)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (archive_of(a_1=label_png(LABELS), b_1=label_png(LABELS)), "'Object 1' has two masks on frame 1"),
        (json.dumps({"annotations": TWO_VIDEOS}).encode(), "of several videos"),
        (b"[]", "no annotations"),
        (json.dumps(json.loads(coco([POLYGON])) | {"images": []}).encode(), "annotation 1 is of image 7"),
        (coco([POLYGON]).replace(b'"segmentation"', b'"bbox"'), "annotation 1 has no segmentation"),
    ],
)
def test_masks_that_cannot_be_read(content, message):
    with pytest.raises(BadInputError, match=message):
        read_masks(content, VIDEO, 0)


def test_larger_and_smaller_masks_are_resized():
    twice = np.repeat(np.repeat(ONE, 2, 0), 2, 1)
    sized = {"height": twice.shape[0], "width": twice.shape[1]}
    polygon = json.loads(coco([[2 * x for x in POLYGON]]))
    polygon["images"][0] |= sized
    for content in (label_png(twice.astype(np.uint8)), coco(encode_rle(twice)), json.dumps(polygon).encode()):
        (found,) = read_masks(content, VIDEO, 3)
        np.testing.assert_array_equal(decode_rle(found.masks[3]), ONE)
    half = ONE[::2, ::2]
    (found,) = read_masks(coco(encode_rle(half)), VIDEO, 3)
    np.testing.assert_array_equal(decode_rle(found.masks[3]), np.repeat(np.repeat(half, 2, 0), 2, 1))


@pytest.mark.parametrize("kind", ["coco", "coco_rle"])
def test_files_come_back_through_the_import(client, session, kind):
    body = page((3, "Cup", "mug"), (5, "Plate"), frames={1: {3: ONE, 5: OTHER}, 2: {5: OTHER}})
    exported = client.export(session, kind, body)
    objects = client.http.post(f"/api/sessions/{session}/read_masks", data=exported).get_json()["objects"]
    cup, plate = ({mask["frame"]: decode_rle(mask["mask"]) for mask in found["masks"]} for found in objects)
    assert (list(cup), list(plate)) == ([1], [1, 2]) and [found["label"] for found in objects] == ["mug", ""]
    assert kind == "coco" or [found["name"] for found in objects] == ["Cup", "Plate"]
    np.testing.assert_array_equal(cup[1], ONE)
    np.testing.assert_array_equal(plate[2], OTHER)


def test_of_overlapping_objects_the_later_one_is_seen(client, session):
    body = page((9, "Back"), (2, "Front"), frames={1: {2: OTHER, 9: ONE}})
    labels = pixels_of(export(client, session, "masks_png", body)["00001.png"])
    np.testing.assert_array_equal(labels, np.where(OTHER, 2, np.where(ONE, 9, 0)))


# Two mugs and an object without a label, on one frame.
LABELLED = page((3, "Left", "mug"), (5, "Right", "mug"), (6, 'Plate "x"'), frames={1: {3: ONE, 5: OTHER, 6: ONE}})


def test_coco_has_times_names_and_labels_as_categories(client, session):
    document = json.loads(client.export(session, "coco_rle", LABELLED))
    assert document["videos"][0]["timestamps"] == pytest.approx([t / 25 for t in range(FRAMES)])
    assert document["videos"][0]["fps"] == 25
    names = {category["id"]: category["name"] for category in document["categories"]}
    found = [(entry["name"], names[entry["category_id"]]) for entry in document["annotations"]]
    assert found == [("Left", "mug"), ("Right", "mug"), ('Plate "x"', "object")] and len(names) == 2


def test_the_pages_list_numbers_the_classes(client, session):
    body = {"classes": ["plate", "mug"], **LABELLED}
    for categories in (
        json.loads(client.export(session, "coco_rle", body))["categories"],
        json.loads(export(client, session, "coco", body)["annotations.json"])["categories"],
    ):
        assert [tuple(one.values()) for one in categories] == [(1, "plate"), (2, "mug"), (3, "object")]
    files = export(client, session, "yolo", body)
    assert files["data.yaml"].decode().endswith('names:\n  0: "plate"\n  1: "mug"\n  2: "Plate \\"x\\""\n')
    assert [line[:1] for line in files["labels/00001.txt"].splitlines()] == [b"1", b"1", b"2"]
    for wrong in ("mug", [1], {"mug": 1}):
        answer = post(client, session, "export?format=yolo", {**LABELLED, "classes": wrong})
        assert answer.status_code == 400 and "expected a list of names" in answer.get_json()["error"]["message"]


def test_pycocotools_reads_coco(client, session, tmp_path):
    body = page((3, "Left", "mug"), (5, "Plate"), frames={1: {3: ONE}, 4: {3: OTHER, 5: np.zeros_like(ONE)}})
    files = export(client, session, "coco", body)
    assert sorted(files) == ["annotations.json", "images/00001.jpg", "images/00004.jpg"]
    (tmp_path / "annotations.json").write_bytes(files["annotations.json"])
    read = COCO(tmp_path / "annotations.json")
    images = [(image["file_name"], image["height"], image["width"], image["frame"]) for image in read.loadImgs([1, 2])]
    assert images == [("00001.jpg", *SIZE, 1), ("00004.jpg", *SIZE, 4)]
    assert read.loadCats([1, 2]) == [{"id": 1, "name": "mug"}, {"id": 2, "name": "object"}]
    for image, mask in ((1, ONE), (2, OTHER)):
        (found,) = read.loadAnns(read.getAnnIds(image))
        np.testing.assert_array_equal(read.annToMask(found), mask)
        assert (found["category_id"], found["track_id"], found["area"]) == (1, 3, mask.sum())
        x, y, width, height = found["bbox"]
        assert mask[y : y + height, x : x + width].all() and width * height == mask.sum()


def test_labels_are_the_classes_of_yolo_and_labelme(client, session, clip_file):
    files = export(client, session, "yolo", LABELLED)
    assert sorted(files) == ["data.yaml", "images/00001.jpg", "labels/00001.txt"]
    assert files["data.yaml"].decode().endswith('names:\n  0: "mug"\n  1: "Plate \\"x\\""\n')
    lines = [line.split() for line in files["labels/00001.txt"].splitlines()]
    assert [(line[0], len(line)) for line in lines] == [(b"0", 9), (b"0", 9), (b"1", 9)]
    corners = np.array(lines[1][1:], float).reshape(-1, 2) * SIZE[::-1]
    assert [*corners.min(0), *corners.max(0)] == pytest.approx([12, 10, 24, 20], abs=1e-3)
    image = pixels_of(files["images/00001.jpg"]).astype(int)
    assert np.abs(image - moving_shapes.decoded(clip_file)[0][1]).mean() < 8
    files = export(client, session, "labelme", LABELLED)
    assert sorted(files) == ["00001.jpg", "00001.json"]
    document = json.loads(files["00001.json"])
    shapes = [(shape["label"], shape["group_id"], shape["points"]) for shape in document["shapes"]]
    corners = [[6, 5], [18, 5], [18, 15], [6, 15]]
    other = [[12, 10], [24, 10], [24, 20], [12, 20]]
    assert shapes == [("mug", 3, corners), ("mug", 5, other), ('Plate "x"', 6, corners)]
    assert (document["imagePath"], document["imageHeight"], document["imageWidth"]) == ("00001.jpg", *SIZE)


def test_holes_are_in_the_polygons(client, session):
    """Of YOLO and LabelMe, which have an object in one outline; empty masks have no line."""
    ring, nothing = ONE.copy(), np.zeros_like(ONE)
    ring[8:12, 9:13] = False
    body = page((1, "Ring"), (2, "Nothing"), frames={0: {1: ring, 2: nothing}})
    (line,) = export(client, session, "yolo", body)["labels/00000.txt"].decode().splitlines()
    (shape,) = json.loads(export(client, session, "labelme", body)["00000.json"])["shapes"]
    outline = (np.array(line.split()[1:], float).reshape(-1, 2) * SIZE[::-1]).round()
    np.testing.assert_array_equal(outline, shape["points"])
    content = coco([outline.ravel().tolist()])
    (found,) = read_masks(content, VIDEO, 0)
    np.testing.assert_array_equal(decode_rle(found.masks[3]), ring)


# A disc with a hole of 4 pixels and a speck of 6.
ROUND = np.hypot(*np.mgrid[-20:28, -24:40]) < 14
SPECKLED = ROUND.copy()
SPECKLED[20:22, 22:24] = False
SPECKLED[1:3, 50:53] = True


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(0, SPECKLED), (4, SPECKLED), (6, SPECKLED | ROUND), (7, ROUND)],
    ids=["nothing is small", "at the limit", "the hole", "both"],
)
def test_files_have_cleaned_masks(client, session, limit, expected):
    body = page((1, "Clean"), (2, "Other"), frames={1: {1: SPECKLED, 2: SPECKLED}, 3: {1: SPECKLED}})
    body["objects"][0]["clean"] = limit / ROUND.size
    for annotation in json.loads(client.export(session, "coco_rle", body))["annotations"]:
        wanted = expected if annotation["object"] == 1 else SPECKLED
        np.testing.assert_array_equal(decode_rle(annotation["segmentations"][1]), wanted)
    cutout = pixels_of(export(client, session, "cutout", body)["00003.png"])
    np.testing.assert_array_equal(cutout[..., 3] == 255, expected)


@pytest.mark.parametrize("limit", [2, -1, "many", [3], float("nan")])
def test_wrong_limits_of_cleaning_are_refused(client, session, limit):
    body = page((1, "One"), frames={1: {1: ONE}})
    body["objects"][0]["clean"] = limit
    assert post(client, session, "export?format=coco", body).status_code == 400


def points_of_labelme(client, session, body, tolerance):
    document = json.loads(export(client, session, f"labelme&tolerance={tolerance}", body)["00001.json"])
    return sum(len(shape["points"]) for shape in document["shapes"])


def test_polygons_are_simplified_as_by_the_commands(client, session):
    body = page((1, "Disc"), frames={1: {1: ROUND}})
    for tolerance in (0, TOLERANCE, 3):
        (part,) = polygons_of(encode_rle(ROUND), tolerance)
        assert points_of_labelme(client, session, body, tolerance) == len(part.outer)
        line = export(client, session, f"yolo&tolerance={tolerance}", body)["labels/00001.txt"].decode()
        assert line == yolo_line(0, yolo_polygon([part], SIZE))
    default, exact = (export(client, session, f"yolo{more}", body) for more in ("", "&tolerance=0"))
    assert len(default["labels/00001.txt"]) < len(exact["labels/00001.txt"]) / 2


def test_points_are_counted_before_an_export(client, session):
    body = page((1, "Disc"), frames={1: {1: SPECKLED}})
    counts = [post(client, session, f"points?tolerance={t}", body).get_json()["points"] for t in (0, 1)]
    assert counts[0] == points_of_labelme(client, session, body, 0) - 2  # which link the hole
    assert counts[1] < counts[0] / 2
    body["objects"][0]["clean"] = 100 / ROUND.size
    cleaned = post(client, session, "points?tolerance=0", body).get_json()["points"]
    assert cleaned == counts[0] - 8  # the corners of the hole and the speck


@pytest.mark.parametrize("tolerance", ["-1", "inf", "nan", "much"])
def test_wrong_tolerances_are_refused(client, session, tolerance):
    answer = post(client, session, f"points?tolerance={tolerance}", page((1, "One"), frames={1: {1: ONE}}))
    assert answer.status_code == 400 and "expected pixels from 0 to 100" in answer.get_json()["error"]["message"]


def test_the_masks_of_a_photograph_are_read_whatever_their_name():
    """The page's own file: a ZIP of one image with the photograph's name."""
    (found,) = read_masks(archive_of(img_7_masks=label_png(ONE.astype(np.uint8))), VideoShape(1, SIZE), 0)
    np.testing.assert_array_equal(decode_rle(found.masks[0]), ONE)


def test_the_later_object_is_seen_in_overlays(client, session):
    body = page((1, "Below"), (2, "Above"), frames={0: {1: ONE, 2: ONE}})
    with av.open(BytesIO(client.export(session, "overlay_mp4", body))) as container:
        image = next(container.decode(video=0)).to_ndarray(format="rgb24")
    (first, second), inside = map(object_colour, (1, 2)), image[ONE].mean(0)
    assert np.abs(inside - second).sum() < np.abs(inside - first).sum()
