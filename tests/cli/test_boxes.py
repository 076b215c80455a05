"""Files of boxes: the image that each box is for, and items that cannot be used."""

import json
import unicodedata

import moving_shapes
import pytest
from commands import NANO, ends, ok
from file_contents import names
from PIL import Image
from track_runs import box_of_disc, interrupt_after, lines_of

from sam2fast.cli.boxes import DetectionFile, read_boxes, read_detections
from sam2fast.cli.left_out import LeftOut
from sam2fast.cli.prompts import ImagePrompts
from sam2fast.cli.sources import InputSource
from sam2fast.cli.user_errors import UserError
from sam2fast.io.image_names import ImageNameError

BOX, OTHER = [10, 8, 50, 42], [48, 0, 40, 60]  # x, y, width, height
CATEGORIES = [{"id": 1, "name": "cat"}]


def coco(images, annotations, **more):
    """COCO of images by file name, and of annotations as (image, bbox or a dict)."""
    listed = [{"id": i, "file_name": name, **more} for i, name in enumerate(images)]
    boxes = [
        {
            "id": 10 + n,
            "image_id": images.index(name),
            "category_id": 1,
            **(box if isinstance(box, dict) else {"bbox": box}),
        }
        for n, (name, box) in enumerate(annotations)
    ]
    return {"images": listed, "annotations": boxes, "categories": CATEGORIES}


def write_json(path, content):
    path.write_text(json.dumps(content))
    return path


def boxes_of(prompts, image):
    return [tuple(one.scaled(InputSource(image), 100, 100).box) for one in prompts.of(InputSource(image))]


# The name of an image in COCO, and the path of the image on the command line.
NAMES = {
    "folder": ("a/1.jpg", "a/1.jpg"),
    "longer": ("data/train/a/1.jpg", "a/1.jpg"),
    "shorter": ("a/1.jpg", "data/train/a/1.jpg"),
    "windows": ("a\\1.jpg", "a/1.jpg"),
    "drive": ("C:\\x\\a\\1.jpg", "a/1.jpg"),
    "dot": ("./a/1.jpg", "a/1.jpg"),
    "dots": ("b/../a/1.jpg", "x/../a/1.jpg"),
    "absolute": ("/mnt/a/1.jpg", "a/1.jpg"),
    "case": ("A/1.JPG", "a/1.jpg"),
    "no suffix": ("a/1", "a/1.jpg"),
    "address": ("https://host/a/1.jpg?width=3#top", "a/1.jpg"),
    "escaped": ("s3://bucket/a%20b/1.jpg", "a b/1.jpg"),
    "of an address": ("a b/1.jpg", "https://host/a%20b/1.jpg?x=y/b/1.jpg"),
    "NFD": (unicodedata.normalize("NFD", "ä/ö.jpg"), "ä/ö.jpg"),
    "NFC": ("ä/ö.jpg", unicodedata.normalize("NFD", "ä/ö.jpg")),
}


@pytest.mark.parametrize("kind", NAMES)
def test_the_longest_common_path_decides(tmp_path, kind):
    """Another image has the same file name in another folder, with or without boxes."""
    name, image = NAMES[kind]
    other = name.replace("a/", "b/").replace("a\\", "b\\").replace("A/", "b/").replace("a%20b", "b").replace("a b", "b")
    other = other if other != name else "b/" + name.split("/")[1]
    for annotations in ([(name, BOX), (other, OTHER)], [(other, OTHER), (name, BOX)]):
        file = write_json(tmp_path / "coco.json", coco([other, name], annotations))
        assert boxes_of(ImagePrompts(read_boxes(file)), image) == [(10, 8, 60, 50)]
    file = write_json(tmp_path / "coco.json", coco([other, name], [(other, OTHER)]))
    assert boxes_of(ImagePrompts(read_boxes(file)), image) == []


def test_folders_of_one_name(run, make_image, tmp_path):
    """Each image gets its own boxes; an image in neither folder is refused by name, and others are done."""
    images = [make_image(f"{folder}/1.jpg") for folder in "abc"]
    write_json(tmp_path / "coco.json", coco(["a/1.jpg", "b/1.jpg"], [("a/1.jpg", BOX), ("b/1.jpg", OTHER)]))
    for image, (x, y, width, height) in zip(images, (BOX, OTHER), strict=False):
        result = ok(run("segment", image, "--boxes-from", "coco.json", *NANO, "--json", "--out", "out"))
        (record,) = json.loads(result.stdout)["results"]
        assert record["object"] == "cat_1" and record["prompts"]["box"] == [x, y, x + width, y + height]
    why = f"{images[2]} may be any of a/1.jpg, b/1.jpg in coco.json"
    result = run("segment", images[2], "--boxes-from", "coco.json", *NANO, "--out", "none")
    assert result.exit_code == 1 and why in result.stderr and not (tmp_path / "none").exists()
    prompts = {"object": "all", "image": "2.jpg", "box": [1, 2, 30, 40]}
    write_json(tmp_path / "prompts.json", {"prompts": [prompts]})
    both = ["--boxes-from", "coco.json", "--prompts", "prompts.json"]
    result = run("segment", images[2], make_image("2.jpg"), *both, *NANO, "--out", "two")
    assert result.exit_code == 1 and why in result.stderr and (tmp_path / "two/2.json").is_file()


def test_names_without_folders(tmp_path):
    """The name that has no other folder comes before one that has; prompts of another file join them."""
    file = write_json(tmp_path / "coco.json", coco(["1.jpg", "sub/1.jpg"], [("1.jpg", BOX), ("sub/1.jpg", OTHER)]))
    prompts = ImagePrompts(read_boxes(file))
    assert boxes_of(prompts, "photos/1.jpg") == [(10, 8, 60, 50)]
    assert boxes_of(prompts, "photos/sub/1.jpg") == [(48, 0, 88, 60)]
    assert boxes_of(prompts, "1.png") == [] and prompts.names.guessed == {}
    assert prompts.unused([InputSource("sub/1.jpg"), InputSource("2.jpg")]) == {"1.jpg": 1}


def test_several_files_of_boxes(run, make_image, tmp_path):
    """Boxes of one class are numbered across files, in the order of the files; clicks join the box of their name."""
    write_json(tmp_path / "one.json", coco(["1.png"], [("1.png", BOX)]))
    write_json(tmp_path / "two.json", coco(["a/1.png", "2.png"], [("2.png", BOX), ("a/1.png", OTHER)]))
    (tmp_path / "all.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "classes.txt").write_text("cat\n")
    write_json(tmp_path / "clicks.json", {"prompts": [{"object": "cat_2", "points": [[20, 30]]}]})
    found = []
    for files in (["two.json", "all.txt", "one.json"], ["one.json", "two.json", "all.txt", "all.txt"]):
        options = [option for file in files for option in ("--boxes-from", file)]
        result = ok(run("segment", make_image("a/1.png"), *options, "--prompts", "clicks.json", *NANO, "--json"))
        records = {one["object"]: one["prompts"] for one in json.loads(result.stdout)["results"]}
        assert records["cat_2"]["points"] == [[20, 30]] and records["cat_1"]["points"] == []
        found.append([records[name]["box"][:2] for name in sorted(records)])
    assert found == [[[48, 0], [24, 16], [10, 8]], [[10, 8], [48, 0], [24, 16], [24, 16]]]


def test_a_guess_is_noted(run, make_image, tmp_path):
    """One name has the file name of the image, and another folder."""
    image = make_image("photos/1.jpg")
    write_json(tmp_path / "coco.json", coco(["train/1.jpg"], [("train/1.jpg", BOX)]))
    result = ok(run("segment", image, "--boxes-from", "coco.json", *NANO))
    note = f"1 image is matched by the file name only, since folders differ: {image} is matched with train/1.jpg"
    assert result.stderr == f"sam2fast: note: {note}\n"


@pytest.mark.parametrize("layout", ["labels/{}/1.txt images/{}/1.jpg", "{}/labels/1.txt {}/images/1.jpg"])
def test_yolo_in_subfolders(tmp_path, monkeypatch, layout):
    monkeypatch.chdir(tmp_path)
    label, image = layout.split()
    for part, line in (("train", "0 0.5 0.5 0.2 0.2"), ("valid", "0 0.25 0.25 0.5 0.5"), ("test", "")):
        file = tmp_path / label.format(part)
        file.parent.mkdir(parents=True)
        file.write_text(line)
    (tmp_path / "data.yaml").write_text("names: {0: no, 1: yes}\n")
    folder = tmp_path / "labels" if label.startswith("labels") else tmp_path
    folders = [folder], [(tmp_path / label.format(part)).parent for part in ("train", "valid", "test")]
    for given in folders:  # one after the other as well
        prompts = ImagePrompts([one for path in given for one in read_boxes(path)])
        assert boxes_of(prompts, image.format("train")) == [(40, 40, 60, 60)]
        assert boxes_of(prompts, image.format("valid")) == [(0, 0, 50, 50)]
        assert boxes_of(prompts, image.format("test")) == []
        assert [one.object for one in prompts.of(InputSource(image.format("train")))] == ["no_1"]


def test_subfolders_and_images_elsewhere(tmp_path):
    """The label in the folder itself comes first; two in subfolders are refused by name."""
    for name, line in (
        ("1", "0 0.5 0.5 0.2 0.2"),
        ("old/1", "0 0.25 0.25 0.5 0.5"),
        ("a/2", ""),
        ("b/2", "0 0.5 0.5 1 1"),
    ):
        (tmp_path / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"labels/{name}.txt").write_text(line)
    prompts = ImagePrompts(read_boxes(tmp_path / "labels"))
    assert boxes_of(prompts, "photos/1.jpg") == [(40, 40, 60, 60)]
    assert boxes_of(prompts, "photos/old/1.jpg") == [(0, 0, 50, 50)]
    assert boxes_of(prompts, "photos/b/2.jpg") == [(0, 0, 100, 100)] and not prompts.names.guessed
    with pytest.raises(ImageNameError, match="photos/2.jpg may be any of a/2, b/2"):
        prompts.of(InputSource("photos/2.jpg"))


def test_a_prompt_without_area(run, make_image, tmp_path):
    """In a file of prompts it is left out, too; in an option it is an error."""
    flat, good = ({"object": name, "box": box} for name, box in (("flat", [5, 5, 5, 9]), ("good", [5, 5, 50, 40])))
    write_json(tmp_path / "prompts.json", {"prompts": [good, flat]})
    result = run("segment", make_image("a.png"), "--prompts", "prompts.json", *NANO, "--json")
    assert result.exit_code == 0 and [one["object"] for one in json.loads(result.stdout)["results"]] == ["good"]
    assert json.loads(result.stdout)["left_out"][0]["first"] == "prompts.json, prompt 2"
    write_json(tmp_path / "prompts.json", {"prompts": [flat]})
    result = run("segment", "a.png", "--prompts", "prompts.json", *NANO)
    assert result.exit_code == 1 and "has no usable prompt; left out: 1 prompt" in result.stderr
    assert run("segment", "a.png", "--box", "9,9,5,30", *NANO).exit_code == 2


@pytest.mark.parametrize("place", ["labels/data.yaml", "data.yaml"])
@pytest.mark.parametrize("content", ["nc: 2\nnames: ['dog', cat]\n", "names:\n  0: dog\n  1: cat\n"])
def test_names_in_data_yaml(tmp_path, place, content):
    """A class may be written as 1.0."""
    (tmp_path / "labels").mkdir()
    (tmp_path / place).write_text(content)
    (tmp_path / "labels/a.txt").write_text("1.0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n2 0.5 0.5 0.2 0.2\n")
    assert [one.object for one in read_boxes(tmp_path / "labels")] == ["cat", "dog", "class2"]


def test_data_yaml_that_is_none(tmp_path, capfd):
    (tmp_path / "data.yaml").write_text("names: [")
    (tmp_path / "a.txt").write_text("1 0.5 0.5 0.2 0.2\n")
    assert [one.object for one in read_boxes(tmp_path / "a.txt")] == ["class1"]
    assert "data.yaml is not valid YAML" in capfd.readouterr().err


# Values of a bad annotation instead of its bbox, and the reason why it is left out.
BAD = [
    ({"bbox": BOX, "iscrowd": 1}, "it is a crowd: iscrowd is 1"),
    ({"bbox": BOX, "iscrowd": "1"}, "it is a crowd: iscrowd is 1"),
    ({"bbox": [10, 8, 0, 42]}, "its box has no area"),
    ({"bbox": [10, 8, 30, -42]}, "its box has no area"),
    ({"bbox": [10, 8, float("nan"), 42]}, "bbox has not 4 finite numbers"),
    ({"bbox": None}, "bbox has not 4 finite numbers"),
    ({"bbox": []}, "bbox has not 4 finite numbers"),
    ({"bbox": ["a", 8, 3, 42]}, "bbox has not 4 finite numbers"),
    ({"bbox": "1234"}, "bbox has not 4 finite numbers"),
    ({}, "'bbox' is missing"),
    ({"segmentation": {"size": [2, 2], "counts": [1, 3]}}, "'bbox' is missing"),
    ({"segmentation": [[1, 2]]}, "its box has no area"),
    ({"bbox": BOX, "image_id": 77}, "its image_id is not among the images"),
    ({"bbox": BOX, "category_id": ...}, "'category_id' is missing"),
    ({"bbox": [500, 8, 30, 40]}, "it lies outside the image"),
]


def write_annotations(path, *boxes):
    """Writes COCO of ``a.png``. Ellipsis as ``category_id`` stands for a missing class."""
    document = coco(["a.png"], [("a.png", box) for box in boxes])
    for annotation in document["annotations"]:
        if annotation["category_id"] is ...:
            del annotation["category_id"]
    return write_json(path, document)


def test_bad_annotations_are_counted_by_reason(run, make_image, tmp_path):
    write_annotations(tmp_path / "coco.json", BOX, *(bad for bad, _ in BAD), OTHER)
    result = ok(run("segment", make_image("a.png"), "--boxes-from", "coco.json", *NANO, "--json"))
    found, reasons = json.loads(result.stdout), [why for _, why in BAD]
    assert len(found["results"]) == 2 and result.stderr.count("note: left out") == 1
    for entry in found["left_out"]:
        first = f"coco.json, annotation {11 + reasons.index(entry['why'])}"
        assert entry == {"what": "box", "why": entry["why"], "count": reasons.count(entry["why"]), "first": first}
    assert {entry["why"] for entry in found["left_out"]} == {*reasons}


@pytest.mark.parametrize(("bad", "why"), [BAD[2], BAD[-2], BAD[-1]])
def test_the_only_annotation_is_bad(run, make_image, tmp_path, bad, why):
    """The command fails with the reason, unless another file has a box."""
    write_annotations(tmp_path / "coco.json", bad)
    command = ["segment", make_image("a.png"), *NANO, "--boxes-from", "coco.json"]
    ends(run(*command, "--out", "none"), 1, why)
    assert not list((tmp_path / "none").glob("*"))
    write_annotations(tmp_path / "good.json", BOX)
    result = ok(run(*command, "--boxes-from", "good.json", "--json"))
    assert len(json.loads(result.stdout)["results"]) == 1


def test_boxes_that_are_written_otherwise(tmp_path):
    """Coordinates and ids as texts, and polygons without a box."""
    document = coco(
        ["a.png"], [("a.png", ["10", "8.0", "50", "42"]), ("a.png", {"segmentation": [[1, 2, 30, 2, 30, 41.5]]})]
    )
    for annotation in document["annotations"]:
        annotation |= {"image_id": "0", "category_id": "1"}
    left_out = LeftOut()
    found = read_boxes(write_json(tmp_path / "coco.json", document), left_out)
    assert [(one.object, one.box) for one in found] == [("cat", (10, 8, 60, 50)), ("cat", (1, 2, 30, 41.5))]
    lvis = {"id": 3, "coco_url": "http://images.cocodataset.org/train2017/000000000139.jpg"}
    document = {"images": [lvis], "annotations": [{"image_id": 3, "category_id": 5, "bbox": BOX}]}
    prompts = ImagePrompts(read_boxes(write_json(tmp_path / "lvis.json", document)))
    assert boxes_of(prompts, "val/000000000139.jpg") == [(10, 8, 60, 50)] and not left_out


def test_bad_lines_and_files_of_yolo(tmp_path):
    """They are counted by reason, with the first place."""
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "a.txt").write_text(
        "cat 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0 0.2\n0 nan 0.5 0.1 0.2\n0.5 0.5 0.5 1 1\n"
    )
    (folder / "b.txt").write_text("0 0.5 0.5 0.2 -0.2\n\n")
    (folder / "c.txt").write_bytes(b"\xff\xfe\x00")
    (folder / "._a.txt").write_bytes(b"\x00\x05\x16\x07\xff")  # of macOS, on memory sticks
    left_out = LeftOut()
    assert len([one for one in read_boxes(folder, left_out) if one]) == 1
    assert {(entry["what"], entry["count"], entry["first"].split(":")[0]) for entry in left_out.as_json()} == {
        ("box", 1, f"{folder}/a.txt, line 1"),
        ("box", 1, f"{folder}/a.txt, line 3"),
        ("box", 2, f"{folder}/a.txt, line 4"),
        ("box", 1, f"{folder}/a.txt, line 5"),
        ("file of boxes", 1, f"{folder}/c.txt"),
    }


@pytest.mark.parametrize("name", ["a.txt", "classes.txt", "mot.txt"])
def test_a_text_in_another_encoding_is_named(tmp_path, name):
    """Notepad writes UTF-16, among others."""
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / name).write_text("1 1 10 10 20 20\n", encoding="utf-16")
    with pytest.raises(UserError, match=rf"{name}: it is not text in UTF-8"):
        read_detections(tmp_path / name, []) if name == "mot.txt" else read_boxes(tmp_path / "a.txt")


def test_resuming_knows_boxes_outside(run, make_image, tmp_path):
    """The image is not done again; a larger image of the same name gets all of its boxes."""
    write_json(tmp_path / "coco.json", coco(["a.png"], [("a.png", BOX), ("a.png", [110, 8, 20, 20])]))
    command = ["segment", make_image("a.png"), "--boxes-from", "coco.json", *NANO, "--resume", "--jsonl"]
    note = "sam2fast: note: left out: 1 box (it lies outside the image; coco.json, annotation 11)\n"
    for done in (0, 1):
        result = ok(run(*command))
        assert result.stderr == f"sam2fast: note: {done} of 1 images were done before\n{note}"
        *records, last = map(json.loads, result.stdout.splitlines())
        assert [one["object"] for one in records] == ["cat_1"] and last["left_out"][0]["count"] == 1
    make_image("a.png", width=140)
    result = run(*command)
    assert "0 of 1" in result.stderr and "left out" not in result.stderr and len(result.stdout.splitlines()) == 2


FRACTIONS = "are from 0 to 1: are they fractions of the image's size? Pixels are expected"


@pytest.mark.parametrize(("option", "is_noted"), [
    (["--point", "0.5,0.5"], True),
    (["--box", "0.2,0.2,0.8,0.9"], True),
    (["--box", "0,0,1,1"], True),
    (["--box", "0.5,0.5,50,40"], False),
    (["--point", "0,0"], False),
    (["--prompts", "fractions.json"], True),
    (["--boxes-from", "fractions_of_coco.json"], True),
    (["--boxes-from", "label.txt"], False),
])  # fmt: skip
def test_fractions_in_the_place_of_pixels(run, make_image, tmp_path, option, is_noted):
    write_json(tmp_path / "fractions.json", {"prompts": [{"object": "a", "points": [[0.25, 0.5]]}]})
    write_json(tmp_path / "fractions_of_coco.json", coco(["a.png"], [("a.png", [0.1, 0.2, 0.5, 0.5])]))
    (tmp_path / "label.txt").write_text("0 0.5 0.5 0.2 0.2")
    result = run("segment", make_image("a.png"), *option, *NANO)
    assert result.exit_code == 0 and (FRACTIONS in result.stderr) == is_noted


# Boxes for the frames of a video.


def write_mot(path, frames, score=0.9, offset=1):
    lines = []
    for frame in frames:
        x0, y0, x1, y1 = box_of_disc(frame)
        lines.append(f"{frame + offset},-1,{x0 + 1},{y0 + 1},{x1 - x0},{y1 - y0},{score},-1,-1,-1\n")
    path.write_text("".join(lines))
    return path


@pytest.fixture
def frames(tmp_path):
    def write(name, count=6, folder="clip"):
        (tmp_path / folder).mkdir()
        for frame, pixels in enumerate(moving_shapes.make_frames(count)):
            Image.fromarray(pixels).save(tmp_path / folder / name.format(frame + 301))
        return tmp_path / folder

    return write


def test_mot_without_scores(tmp_path):
    found = DetectionFile(read_detections(write_mot(tmp_path / "det.txt", range(3), -1), []))
    assert found.on(0, 48, 64).scores == [1.0]


@pytest.mark.parametrize(("score", "count"), [(87, 1), (-0.5, 1), (1.01, 1)])
def test_other_scores(tmp_path, score, count):
    file = write_mot(tmp_path / "det.txt", range(3))
    good, left_out = file.read_text(), LeftOut()
    file.write_text(good + f"2,-1,5,5,9,9,{score}\n")
    assert sum(map(len, read_detections(file, [], left_out).values())) == 3
    why = "its score is neither from 0 to 1 nor -1"
    assert left_out.as_json() == [{"what": "box", "why": why, "count": count, "first": f"{file}, line 4"}]
    file.write_text(f"2,-1,5,5,9,9,{score}\n")
    with pytest.raises(UserError, match=f"{why}; .*line 1"):
        read_detections(file, [])


# Names of frames, MOT's frames, and the frames that have a box then.
NUMBERED = [
    (["000301", "000302", "000303"], [301, 303], [0, 2]),
    (["img_301", "img_302", "img_303"], [302], [1]),
    (["301", "302", "303"], range(1, 601), [0, 1, 2]),  # a part of a longer video
    (["0007", "0008", "0009"], [1, 2, 3], [0, 1, 2]),
    (["0000", "0001", "0002"], [1, 2, 3, 4], [0, 1, 2]),
    (["0000", "0001", "0002"], [1, 2], [0, 1]),
    (["01", "11", "21"], range(1, 31), [0, 1, 2]),  # each tenth frame
    (["a", "b", "c"], [2], [1]),
    (["301", "302", "other"], [3], [2]),
]


def counted(left_out: LeftOut) -> int:
    return sum(entry["count"] for entry in left_out.as_json())


@pytest.mark.parametrize(("names", "numbers", "expected"), NUMBERED)
def test_numbers_of_mot_in_names_of_frames(tmp_path, names, numbers, expected):
    file = tmp_path / "det.txt"
    file.write_text("".join(f"{number},-1,{number},5,9,9,0.9\n" for number in numbers))
    left_out = LeftOut()
    found = read_detections(file, names, left_out)
    assert sorted(found) == expected and counted(left_out) == len(numbers) - len(expected)
    if names[0] == "01":
        assert [found[frame][0].box.x0 + 1 for frame in expected] == [1, 11, 21]


def test_folders_of_frames_of_one_name(tmp_path):
    """Frames of two videos in one file, with the same file names."""
    images = [f"{clip}/0000{i}.jpg" for clip in "ab" for i in range(3)]
    file = write_json(tmp_path / "coco.json", coco(images, [(name, [5 + i, 5, 9, 9]) for i, name in enumerate(images)]))
    left_out = LeftOut()
    found = read_detections(file, [str(tmp_path / f"b/0000{i}") for i in range(3)], left_out)
    assert {frame: boxes[0].box.x0 for frame, boxes in found.items()} == {0: 8, 1: 9, 2: 10}
    assert counted(left_out) == 3
    with pytest.raises(ImageNameError, match=r"may be any of a/00000.jpg, b/00000.jpg"):
        read_detections(file, [str(tmp_path / f"c/0000{i}") for i in range(3)])
    found = read_detections(file, [], LeftOut(), "a")
    assert {frame: [one.box.x0 for one in boxes] for frame, boxes in found.items()} == {0: [5], 1: [6], 2: [7]}
    with pytest.raises(UserError, match=r"has boxes of several videos \(a, b\), and none has the name 'c'"):
        read_detections(file, [], LeftOut(), "c")


def test_nothing_is_tracked(track, video_file, tmp_path):
    """The reasons are in the error, also when the command is called again."""
    write_mot(tmp_path / "det.txt", range(4), 0.3)
    command = [
        video_file,
        "--boxes-from",
        tmp_path / "det.txt",
        "--format",
        "json",
        "--out",
        tmp_path / "out",
        "--jsonl",
    ]
    why = f"its score is below --start-score, and it matches no tracked object; first: {tmp_path / 'det.txt'}, line 1"
    for _ in range(2):
        result = ends(track(*command), 1, f"no box started an object: 4 boxes ({why})")
        assert json.loads(result.stdout.splitlines()[0])["left_out"][0]["count"] == 4
    result = track(*command, "--every", 30, "--start", 5, "--overwrite")
    assert result.exit_code == 1 and "--start, --end, --step and --every leave no frame with boxes" in result.stderr


def test_boxes_without_effect_are_counted(track, video_file, tmp_path):
    """Beyond the end, outside the frame, low scores and bad lines are in one note."""
    file = write_mot(tmp_path / "det.txt", [0])
    more = ["2,-1,500,500,9,9,0.9", "3,-1,1,1,9,9,0.2", "900,-1,5,5,9,9,0.9", "900,-1,7,7,9,9,0.9", "4,-1,5,5,0,9"]
    file.write_text(file.read_text() + "\n".join(more))
    result = ok(track(video_file, "--boxes-from", file, "--format", "json", "--out", tmp_path / "out", "--jsonl"))
    counts = {entry["first"][-6:]: entry["count"] for entry in json.loads(result.stdout)["left_out"]}
    assert counts == {"line 2": 1, "line 3": 1, "line 4": 2, "line 6": 1}
    assert result.stderr.count("note") == 1 and "2 boxes (the video has no such frame; first:" in result.stderr


def test_counts_of_a_run_that_continues(track, video_file, tmp_path, monkeypatch):
    """Boxes of both parts are counted once."""
    file = write_mot(tmp_path / "det.txt", [0])
    file.write_text(
        file.read_text() + "".join(f"{frame},-1,1,1,4,4,0.2\n" for frame in range(2, 12)) + "900,-1,5,5,9,9\n"
    )
    command = [video_file, "--boxes-from", file, "--format", "json", "--out", tmp_path / "out", "--jsonl"]
    with monkeypatch.context() as patch:
        interrupt_after(patch, 6)
        assert track(*command).exit_code == 130
    for _ in range(2):
        result = ok(track(*command))
        assert [entry["count"] for entry in json.loads(result.stdout)["left_out"]] == [10, 1]


def test_numbers_in_names_of_a_folder(track, frames, tmp_path):
    """MOT counts from the first number in the names."""
    folder = frames("{:06d}.png")
    write_mot(tmp_path / "det.txt", range(1, 4), offset=301)
    result = track(folder, "--boxes-from", tmp_path / "det.txt", "--format", "json", "--out", tmp_path / "out")
    assert result.exit_code == 0 and "are the numbers in names of images: 301 is 000301" in result.stderr
    assert [len(line["objects"]) for line in lines_of(tmp_path / "out").values()] == [0, 1, 1, 1, 1, 1]
    assert names(tmp_path / "out") == ["masks.jsonl", "track.json"]
