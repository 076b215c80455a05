"""``sam2fast segment`` with several objects: names, prompt files, boxes of detectors."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click import UsageError
from commands import NANO, ends, load, ok
from file_contents import names
from PIL import Image

from sam2fast.cli.boxes import read_boxes
from sam2fast.cli.prompt_texts import IMAGE_BOX, IMAGE_MASK, IMAGE_POINT
from sam2fast.cli.prompts import Box, Click, ImagePrompts, Prompts
from sam2fast.cli.sources import InputSource
from sam2fast.cli.user_errors import UserError
from sam2fast.io.rle import decode_rle

BOX = [10, 8, 60, 50]
IMAGE = InputSource("a.jpg")


def without_files(records: list[dict]) -> list[dict]:
    return [{key: value for key, value in record.items() if key != "files"} for record in records]


def test_prompts_as_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a,b.png").touch()
    for kind, text, expected in (
        (IMAGE_POINT, "5,6", Prompts((Click(5, 6, 1),))),
        (IMAGE_POINT, " big cup , 5,6,0", Prompts((Click(5, 6, 0),), object="big cup")),
        (IMAGE_POINT, "äpfel,5,6", Prompts((Click(5, 6, 1),), object="äpfel")),
        (IMAGE_BOX, "1,2,3,4", Prompts(box=Box(1, 2, 3, 4))),
        (IMAGE_BOX, "cup_2,1,2,3,4", Prompts(box=Box(1, 2, 3, 4), object="cup_2")),
        (IMAGE_MASK, "a,b.png", Prompts(mask=Path("a,b.png"))),
        (IMAGE_MASK, "a,c.png", Prompts(mask=Path("c.png"), object="a")),
    ):
        assert kind.convert(text, None, None) == expected


def test_each_object_is_as_if_alone(run, make_image, tmp_path):
    """Prompts of one name are one prompt; the files and records are those of single runs but for their names."""
    make_image()
    rough = np.zeros((64, 96), dtype=np.uint8)
    rough[20:40, 50:80] = 255
    Image.fromarray(rough).save(tmp_path / "rough.png")
    asked = {
        "left": ["--point", "20,30", "--point", "90,10,0"],
        "right half": ["--box", "48,0,96,64"],
        "c/d": ["--mask", "rough.png"],
    }
    named = [text if text.startswith("--") else f"{name},{text}" for name, options in asked.items() for text in options]
    result = ok(run("segment", "image.png", *named, *NANO, "--json", "--out", "all"))
    document = json.loads(result.stdout)
    assert load(tmp_path / "all/image.json") == {"results": document["results"]} and document["failed"] == []
    masks = ["image_c%2Fd_mask.png", "image_left_mask.png", "image_right half_mask.png"]
    assert names(tmp_path / "all") == sorted(["image.json", "image_overlay.png", *masks])
    for name, record in zip(asked, document["results"], strict=True):
        assert record["object"] == name
        assert run("segment", "image.png", *asked[name], *NANO, "--out", "one").exit_code == 0
        alone = load(tmp_path / "one/image.json")
        assert without_files([{**alone, "object": name}]) == without_files([record])
        mask = np.asarray(Image.open(record["files"]["mask"])) > 0
        np.testing.assert_array_equal(mask, decode_rle(record["rle"]))
    table = run("segment", "image.png", *named, *NANO, "--resume", "--out", "all")
    assert table.stderr == "sam2fast: note: 1 of 1 images were done before\n"
    assert [line.split("  ")[0] for line in table.stdout.splitlines()[1:4]] == [f"image.png {name}" for name in asked]
    changed = run("segment", "image.png", *named, "--point", "left,21,30", *NANO, "--resume", "--out", "all")
    assert "0 of 1 images were done before" in changed.stderr


def test_names_in_file_names(run, make_image, tmp_path):
    """Characters stay, unless file systems refuse them. Long names are cut, and masks of version 0.3 are replaced."""
    make_image()
    chinese, long = "\u72d7" * 30, ["\u732b" * 90 + end for end in "ab"]
    asked = [text for name in (chinese, "c/d%\u202e", *long) for text in ("--point", f"{name},20,30")]
    earlier = tmp_path / "out" / "image_caf%C3%A9_mask.png"
    earlier.parent.mkdir()
    earlier.write_bytes(b"")
    result = ok(run("segment", "image.png", *asked, "--point", "caf\u00e9,20,30", *NANO, "--json"))
    files = [Path(record["files"]["mask"]).name for record in json.loads(result.stdout)["results"]]
    assert files[:2] == [f"image_{chinese}_mask.png", "image_c%2Fd%25%E2%80%AE_mask.png"]
    assert files[4] == "image_caf\u00e9_mask.png" and not earlier.exists()
    for file in files[2:4]:
        assert re.fullmatch("image_\u732b{68}~[0-9a-f]{8}_mask.png", file)
    assert names(tmp_path / "out") == sorted([*files, "image.json", "image_overlay.png"])
    assert "note: 2 names of objects are cut in file names, since file systems limit them: \u732b" in result.stderr
    again = run("segment", "image.png", *asked, "--point", "caf\u00e9,20,30", *NANO, "--resume")
    assert "1 of 1 images were done before" in again.stderr


def test_prompt_files_and_images_of_their_own(run, make_image, tmp_path):
    """Coordinates outside one image fail that image; a box may reach beyond its edge."""
    images = [str(make_image("a.png")), str(make_image("b.png")), str(make_image("small.png", width=40))]
    prompts = [{"object": "dot", "points": [[50, 30]]}, {"object": "area", "image": "b.png", "box": [80, 30, 120, 70]}]
    (tmp_path / "prompts.json").write_text(json.dumps({"prompts": prompts}))
    result = run("segment", *images, "--prompts", "prompts.json", *NANO, "--json")
    assert result.exit_code == 1 and "1 of 3 images had problems" in result.stderr
    document = json.loads(result.stdout)
    assert [(r["image"], r["object"]) for r in document["results"]] == [
        (images[0], "dot"), (images[1], "dot"), (images[1], "area"),
    ]  # fmt: skip
    why = f"the prompt for object 'dot': the point 50,30 lies outside {images[2]} (40x64 pixels)"
    assert document["failed"] == [{"image": images[2], "error": why}]


@pytest.fixture
def boxes_of_detectors(tmp_path) -> dict[str, Path]:
    """The same boxes of two images of 96x64 in every format."""
    folder, polygons = tmp_path / "labels", tmp_path / "deep/labels"
    folder.mkdir()
    polygons.mkdir(parents=True)
    (folder / "a.txt").write_text("1 0.5 0.5 0.25 0.5\n\n0 0.25 0.25 0.5 0.5 0.91\n1 0.5 0.5 1 1\n")
    (folder / "b.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    (folder / "classes.txt").write_text("cat\nbig dog\n")
    (polygons / "a.txt").write_text(
        "1 0.375 0.25 0.625 0.25 0.5 0.75 0.91\n0 0 0 0.5 0.5 0.1 0.1 0 0.5\n1 0 0 1 0 1 1\n"
    )
    (polygons / "b.txt").write_text("0 0.375 0.25 0.625 0.75 0.5 0.5\n")
    (polygons.parent / "classes.txt").write_text("cat\nbig dog\n")
    pixels = {"a.jpg": [(2, 36, 16, 24, 32), (1, 0, 0, 48, 32), (2, 0, 0, 96, 64)], "b.jpg": [(1, 36, 16, 24, 32)]}
    coco = {
        "images": [{"id": i, "file_name": f"train/{name}"} for i, name in enumerate(pixels)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "big dog"}],
        "annotations": [
            {"image_id": i, "category_id": label, "bbox": box}
            for i, boxes in enumerate(pixels.values())
            for label, *box in boxes
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    return {"yolo": folder, "polygons": polygons, "coco": tmp_path / "coco.json"}


@pytest.mark.parametrize("kind", ["yolo", "polygons", "coco"])
def test_boxes_of_detectors(boxes_of_detectors, kind):
    prompts = ImagePrompts(read_boxes(boxes_of_detectors[kind]))
    expected = {
        "a": {"big dog_1": (36, 16, 60, 48), "cat_1": (0, 0, 48, 32), "big dog_2": (0, 0, 96, 64)},
        "b": {"cat_1": (36, 16, 60, 48)},
        "c": {},
    }
    for stem, boxes in expected.items():
        found = prompts.of(InputSource(f"photos/{stem}.jpg"))
        assert {one.object: tuple(one.scaled(IMAGE, 96, 64).box) for one in found} == boxes


@pytest.mark.parametrize("kind", ["yolo", "coco"])
def test_clicks_on_the_objects_of_a_detector(boxes_of_detectors, kind):
    """A box in shares of the image stays one; clicks for all images join boxes for one."""
    click = Prompts((Click(40, 20, 1),), object="cat_1")
    prompts = ImagePrompts([click, *read_boxes(boxes_of_detectors[kind])])
    assert [one.object for one in prompts.of(InputSource("a.jpg"))] == ["cat_1", "big dog_1", "big dog_2"]
    (found,) = prompts.of(InputSource("b.jpg"))
    assert found.scaled(IMAGE, 96, 64) == Prompts(click.clicks, Box(36, 16, 60, 48), object="cat_1")
    (found,) = ImagePrompts([click, *read_boxes(boxes_of_detectors["yolo"] / "b.txt")]).of(InputSource("c.jpg"))
    assert found.scaled(IMAGE, 96, 64).box == Box(36, 16, 60, 48)
    assert found.scaled(IMAGE, 48, 64).box == Box(18, 16, 30, 48)
    twice = ImagePrompts([Prompts(box=Box(1, 2, 3, 4), object="cat_1"), *read_boxes(boxes_of_detectors[kind])])
    with pytest.raises(UsageError, match="'cat_1' has two boxes; give one"):
        twice.of(InputSource("b.jpg"))


@pytest.mark.parametrize("of_file", [lambda name: {"image_id": name}, lambda name: {"image_id": 3, "file_name": name}])
@pytest.mark.parametrize("image", ["a.jpg", "a", "train/a.jpg"])
def test_lists_of_detections_with_names(tmp_path, of_file, image, capfd):
    detections = [
        {**of_file(image), "category_id": 18, "bbox": [36, 16, 24, 32], "score": score} for score in (0.9, 0.1)
    ]
    (tmp_path / "found.json").write_text(json.dumps(detections))
    found = ImagePrompts(read_boxes(tmp_path / "found.json")).of(InputSource("photos/a.jpg"))
    assert [one.object for one in found] == ["class18_1", "class18_2"]
    assert found[0].scaled(IMAGE, 96, 64).box == Box(36, 16, 60, 48) and capfd.readouterr().err == ""


def test_lists_of_detections_with_numbers(run, make_image, tmp_path):
    """A number is the name of its image; if no image has such a name, the note says what helps."""
    images = [make_image("000000000139.png"), make_image("1.png"), make_image("frame 7.png")]
    detections = [{"image_id": i, "category_id": 1, "bbox": [10, 8, 50, 42], "score": 1} for i in (139, 1, 7)]
    (tmp_path / "found.json").write_text(json.dumps(detections))
    result = run("segment", *images, "--boxes-from", "found.json", *NANO)
    assert result.exit_code == 0 and "1 prompt (its image is not an input; 7)" in result.stderr
    assert "image_id 7 stands for 7.jpg, 007.jpg and similar names; to name another image, set" in result.stderr
    assert {name for name in names(tmp_path / "out") if name.endswith(".json")} == {"000000000139.json", "1.json"}


STATED = {  # (width, height) in a COCO file of a photograph of 64x96 that is stored rotated, and a box for it
    "displayed": ((64, 96), [16, 36, 32, 24]),
    "stored": ((96, 64), [36, 16, 24, 32]),
    "displayed, a quarter": ((16, 24), [4, 9, 8, 6]),
    "stored, twice": ((192, 128), [72, 32, 48, 64]),
    "no size": ((None, None), [16, 36, 32, 24]),
    "size 0": ((0, 0), [16, 36, 32, 24]),
    "other": ((64, 64), [16, 36, 32, 24]),
}


@pytest.mark.parametrize("kind", STATED)
def test_sizes_that_a_coco_file_states(run, make_image, tmp_path, kind):
    """All boxes are in pixels of the displayed image, and resuming knows them again."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(make_image()).save(tmp_path / "photo.jpg", exif=exif)
    (width, height), box = STATED[kind]
    image = {"id": 1, "file_name": "photo.jpg", "width": width, "height": height}
    annotations = [{"image_id": 1, "category_id": 1, "bbox": box}]
    (tmp_path / "coco.json").write_text(json.dumps({"images": [image], "annotations": annotations}))
    result = run("segment", "photo.jpg", "--boxes-from", "coco.json", *NANO)
    if kind == "other":
        assert result.exit_code == 1 and not names(tmp_path / "out")
        assert "photo.jpg is displayed with 64x96 pixels, but its annotations are for 64x64" in result.stderr
        return
    (record,) = load(tmp_path / "out/photo.json")["results"]
    assert record["size"] == {"width": 64, "height": 96} and record["prompts"]["box"] == [16, 36, 48, 60]
    again = run("segment", "photo.jpg", "--boxes-from", "coco.json", *NANO, "--resume")
    assert "1 of 1 images were done before" in again.stderr


def test_prompts_for_other_images(boxes_of_detectors, run, make_image, tmp_path):
    """A note counts images without prompts and prompts without an image; with prompts for none, the command fails."""
    image, other = make_image("x.png"), make_image("a.png")
    left_out = f"left out: 1 image (it has no prompts; {image}), 1 prompt (its image is not an input; b)"
    options = ["--boxes-from", boxes_of_detectors["yolo"], *NANO]
    result = run("segment", image, other, *options)
    assert (
        result.exit_code == 0
        and result.stderr == f"sam2fast: note: {left_out}\n"
        and (tmp_path / "out/a.json").is_file()
    )
    result = run("segment", image, *options, "--out", "none")
    assert result.exit_code == 1 and not (tmp_path / "none").exists()
    left_out = left_out.replace(
        "1 prompt (its image is not an input; b)", "4 prompts (its image is not an input; first: a)"
    )
    assert result.stderr == f"sam2fast: there are no prompts for these images; {left_out}\n"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", "0 0.5 0.5 0.2\n", "line 1"),
        ("a.txt", "\ncat 0.5 0.5 0.2 0.2\n", "line 2"),
        ("a.txt", "0 0.5 0.5 0 0.2\n", "line 1"),
        ("a.txt", "0 48 48 112 112\n", "coordinates and confidence must be from 0 to 1"),
        ("a.txt", "0 0.5 0.5 0.2 0.2 7\n", "line 1"),  # a track without a confidence
        ("a.txt", "0 0.2 0.2 0.4 0.4 0.4 0.2 0.91 3\n", "line 1"),  # a polygon's
        (
            "a.json",
            '{"images": [], "annotations": [{"bbox": [1, 1, 2, 2], "image_id": 3, "category_id": 1}]}',
            "not among",
        ),
        ("a.json", '[{"image_id": 1.5, "category_id": 1, "bbox": [1, 1, 2, 2]}]', "a number or a name"),
        ("a.json", '[{"category_id": 1, "bbox": [1, 1, 2, 2]}]', "'image_id' is missing"),
        ("a.json", '[{"image_id": 1, "category_id": 1, "segmentation": []}]', "'bbox' is missing"),
    ],
)
def test_invalid_files_of_boxes(tmp_path, name, content, reason):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=f"{name}.*{reason}|{reason}.*{name}"):
        read_boxes(tmp_path / name)


def test_lines_of_a_tracker_and_of_notepad(tmp_path):
    """A box, its confidence and its track's number; files may begin with a byte order mark."""
    (tmp_path / "a.txt").write_text("0 0.25 0.25 0.5 0.5 0.91 1\n0 0.5 0.5 0.5 0.5 0.8 12\n", "utf-8-sig")
    (tmp_path / "classes.txt").write_text("person\n", "utf-8-sig")
    found = ImagePrompts(read_boxes(tmp_path / "a.txt")).of(IMAGE)
    boxes = {one.object: tuple(one.scaled(IMAGE, 96, 64).box) for one in found}
    assert boxes == {"person_1": (0, 0, 48, 32), "person_2": (24, 16, 72, 48)}


@pytest.mark.parametrize(
    ("name", "content"), [("a.txt", "\n"), ("a.json", "[]"), ("a.json", '{"images": [], "annotations": []}')]
)
def test_detectors_that_found_nothing(run, make_image, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    result = run("segment", make_image(), "--boxes-from", tmp_path / name, "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["results"] == []
    assert result.stderr == f"sam2fast: note: no boxes in {tmp_path / name}\n"
    (tmp_path / "labels").mkdir()
    ends(run("segment", make_image(), "--boxes-from", tmp_path / "labels"), 1, "no files of boxes in")
