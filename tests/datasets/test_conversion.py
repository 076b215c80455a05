"""Conversions between all layouts and back keep every mask, name and metadata value."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from annotated_videos import (
    HEIGHT,
    WIDTH,
    pixels_of,
    random_labels,
    random_masks,
    random_video,
    read_files,
    write_jpegs,
    write_palette,
    write_sav,
)
from PIL import Image

from sam2fast.datasets.annotations import VideoAnnotations, first_difference
from sam2fast.datasets.conversion import ConvertJob, convert_video
from sam2fast.datasets.dataset_files import DatasetError, OverlapError
from sam2fast.datasets.frame_files import FrameFiles
from sam2fast.datasets.layout import Settings, StagingFolder
from sam2fast.datasets.layout_registry import BY_NAME, detect, open_layout
from sam2fast.datasets.sav_json import read_masklets
from sam2fast.io.rle import decode_rle, encode_rle

PALETTES = ("davis", "ytvos")
NAMES = [*BY_NAME]
# Every two different layouts once, and every layout as source and as target.
PAIRS = [(NAMES[i], NAMES[(i + step) % len(NAMES)]) for i in range(len(NAMES)) for step in (1, 2)]
FACTS = {"sav": {"video_id": "x", "video_environment": ["a"], "masklet_num": 3}, "ytvos": {"objects": {}, "extra": 1}}


def put(root: Path, layout: str, video: VideoAnnotations, settings: Settings | None = None) -> None:
    """Writes annotations from memory."""
    target = open_layout(root, layout, settings)
    with StagingFolder(root, video.name) as stage:
        stage.move(target.write(video, stage).paths)
    target.finish()


def convert(source: Path, layout: str, target: Path, to: str, name: str, images: str = "all", **settings):
    """Converts one video, and writes the files about all videos."""
    output = open_layout(target, to, Settings(**settings))
    done = convert_video(None, ConvertJob(open_layout(source, layout, Settings(**settings)), output, name, images))
    output.finish()
    return done


def example(layout: str, root: Path, name: str = "bear") -> None:
    """A video as other programs write it, without the files of this package."""
    rng = np.random.default_rng(7)
    names = tuple(f"{index:05d}" for index in range(0, 25, 5 if layout == "ytvos" else 4))
    if layout == "sav":
        content = write_sav(root, name)
        if (root.parent / "flat").is_dir():  # for layouts in which masks may not overlap
            for frame in content["masklet"]:
                frame[:] = [encode_rle(mask) for mask in random_masks(rng, 3)]
            (root / f"{name}_manual.json").write_text(json.dumps(content))
    elif layout == "sav-png":
        write_jpegs(root / "JPEGImages_24fps" / name, ("00000", "00001", "00004"))
        for frame in names:
            for number, mask in enumerate(random_masks(rng, 3, overlap=not (root.parent / "flat").is_dir())):
                if rng.random() < 0.8:
                    write_palette(root / f"Annotations_6fps/{name}/{number:03d}/{frame}.png", mask)
    elif layout == "coco-jsonl":
        root.mkdir(parents=True)
        header = {
            "format": "sam2fast masks", "version": 1, "video": name, "size": [HEIGHT, WIDTH],
            "frames": list(names), "objects": [3, 1], "facts": {"mine": "kept"},
        }  # fmt: skip
        lines = [header]
        for frame in names:
            masks = random_masks(rng, 2)
            entries = [{"id": i, "rle": encode_rle(m)} for i, m in zip((3, 1), masks, strict=True)]
            lines.append({"frame": int(frame), "name": frame, "objects": entries[: rng.integers(0, 3)]})
        (root / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        colours = bytes(rng.integers(0, 256, 48, dtype=np.uint8)) if layout == "ytvos" else None
        shown: dict[int, list[str]] = {1: [], 2: [], 7: []}
        for frame in names:
            labels = random_labels(rng, tuple(shown))
            write_palette(root / f"Annotations/{name}/{frame}.png", labels, colours)
            for number in shown.keys() & set(np.unique(labels).tolist()):
                shown[number].append(frame)
        write_jpegs(root / "JPEGImages" / name, names)
        if layout == "ytvos":
            objects = {str(i): {"category": "bear" if i == 1 else "ape", "frames": f} for i, f in shown.items()}
            (root / "meta.json").write_text(json.dumps({"videos": {name: {"objects": objects}}}))


def content_of(layout: str, root: Path) -> dict:
    """All parsed data of a layout, for comparison."""
    content: dict = {path.name: json.loads(path.read_text()) for path in root.glob("*.json")}
    content |= {path.name: [json.loads(line) for line in path.open()] for path in root.glob("*.jsonl")}
    for path, labels in pixels_of(root).items():
        content[path] = (labels != 0 if layout == "sav-png" else labels).tolist()
    for path in root.rglob("*.png"):
        if layout == "ytvos":
            content[f"{path.name} colours"] = Image.open(path).getpalette()[:48]
    return content | {path: data for path, data in read_files(root).items() if path.endswith((".jpg", ".mp4"))}


@pytest.mark.parametrize("one, other", PAIRS)
def test_files_of_others_there_and_back(one, other, tmp_path):
    """Compares data of other programs after both conversions: parsed JSON, pixels of PNGs, and bytes of JPEGs."""
    if other in PALETTES:
        (tmp_path / "flat").mkdir()
    example(one, tmp_path / "a")
    assert detect(tmp_path / "a") == one
    convert(tmp_path / "a", one, tmp_path / "b", other, "bear")
    assert detect(tmp_path / "b") == other
    assert first_difference(open_layout(tmp_path / "a").open("bear"), open_layout(tmp_path / "b").open("bear")) is None
    convert(tmp_path / "b", other, tmp_path / "c", one, "bear")
    assert content_of(one, tmp_path / "c") == content_of(one, tmp_path / "a")


@pytest.mark.parametrize("one, other", PAIRS)
def test_random_annotations_there_and_back(one, other, tmp_path):
    """Converts objects without annotations, ids with gaps, irregular frames, and metadata of every layout."""
    overlap = one not in PALETTES and other not in PALETTES
    videos = [
        random_video("even", 1, facts=FACTS, overlap=overlap),
        random_video("uneven", 2, (5, 2, 9), ("00003", "00005", "00012"), overlap=overlap),
        random_video("named", 3, (1,), ("first", "second"), {"davis": {"a": None}}),
        random_video("short", 4, (2, 70000), ("7", "11"), overlap=overlap, gaps=False),
        random_video("nothing", 5, (), ("00000", "00004"), gaps=False),
    ]
    for video in videos:
        put(tmp_path / "a", one, video)
    source = open_layout(tmp_path / "a", one)
    assert source.videos() == sorted(video.name for video in videos)
    for video in videos:
        assert first_difference(video, source.open(video.name)) is None
        convert(tmp_path / "a", one, tmp_path / "b", other, video.name)
        convert(tmp_path / "b", other, tmp_path / "c", one, video.name)
        assert first_difference(video, open_layout(tmp_path / "b", other).open(video.name)) is None
        assert first_difference(video, open_layout(tmp_path / "c", one).open(video.name)) is None
    assert read_files(tmp_path / "c").keys() == read_files(tmp_path / "a").keys()
    assert not list(tmp_path.rglob(".*.part"))


def test_ids_are_one_more_in_palettes(tmp_path):
    """As training's loader of SA-V folders reads them."""
    (tmp_path / "flat").mkdir()
    example("sav", tmp_path / "a")
    convert(tmp_path / "a", "sav", tmp_path / "b", "davis", "bear")
    content = json.loads((tmp_path / "a/bear_manual.json").read_text())
    for position, rles in enumerate(content["masklet"]):
        with Image.open(tmp_path / f"b/Annotations/bear/{4 * position:05d}.png") as image:
            assert image.mode == "P"
            labels = np.asarray(image)
        for number, rle in zip(content["masklet_id"], rles, strict=True):
            np.testing.assert_array_equal(labels == number + 1, decode_rle(rle))


@pytest.mark.parametrize(
    "names, rate, positions",
    [
        (("00000", "00004", "00012"), 4, [0, 1, 3]),
        (("00000", "00005", "00010"), 5, [0, 1, 2]),
        (("00003", "00005", "00012"), 1, [3, 5, 12]),
        (("0", "4"), 4, [0, 1]),
        (("b", "a"), 1, [0, 1]),
        (("00001", "00402"), 1, [0, 1]),  # far apart: no entries for what is between
    ],
)
def test_entries_of_sav_are_evenly_spaced(names, rate, positions, tmp_path):
    """Other programs find frames by counting entries."""
    video = random_video("bear", frames=names, gaps=False)
    put(tmp_path, "sav", video)
    content = json.loads((tmp_path / "bear_manual.json").read_text())
    assert len(content["masklet"]) == positions[-1] + 1 and content["masklet_id"] == [0, 1, 3]
    for position, rles in enumerate(content["masklet"]):
        frame = dict(zip(positions, names, strict=True)).get(position)
        assert rles == (list(video.masks(frame).values()) if frame else [None] * 3)
    assert read_masklets(tmp_path / "bear_manual.json").rate == rate


def overlapping(*masks: tuple[slice, slice]) -> VideoAnnotations:
    stored = {}
    for number, area in enumerate(masks, 1):
        mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
        mask[area] = True
        stored[number] = encode_rle(mask)
    read = {"00000": {1: stored[1]}, "00004": stored}.__getitem__
    return VideoAnnotations("heap", (HEIGHT, WIDTH), ("00000", "00004"), tuple(stored), {}, read)


@pytest.mark.parametrize("to", PALETTES)
@pytest.mark.parametrize("objects", [(2, 300), tuple(range(1, 257))], ids=["an id", "a number of objects"])
def test_ids_above_255_have_16_bits(objects, to, tmp_path):
    """In all frames, also in those without these ids."""
    put(tmp_path / "a", "coco-jsonl", random_video("many", 0, objects, ("00000", "00005"), overlap=False))
    assert not convert(tmp_path / "a", "coco-jsonl", tmp_path / to, to, "many").numbers
    for file in (tmp_path / to).rglob("*.png"):
        with Image.open(file) as image:
            assert image.mode == "I;16" and {*np.unique(np.asarray(image))} <= {0, *objects}
    shutil.rmtree(tmp_path / to / "Facts")
    assert {*open_layout(tmp_path / to, to).open("many").objects} <= {*objects}


def test_larger_ids_are_numbered(tmp_path):
    put(tmp_path / "a", "coco-jsonl", random_video("many", 0, (2, 70000), overlap=False))
    assert convert(tmp_path / "a", "coco-jsonl", tmp_path / "b", "davis", "many").numbers == {2: 1, 70000: 2}


@pytest.mark.parametrize("to", PALETTES)
def test_overlaps_are_refused(to, tmp_path):
    video = overlapping(np.s_[:9, :9], np.s_[5:20, 5:20], np.s_[25:, :])
    put(tmp_path / "a", "coco-jsonl", video)
    with pytest.raises(OverlapError, match="00004: objects 1, 2 .*--overlaps"):
        convert(tmp_path / "a", "coco-jsonl", tmp_path / to, to, video.name)
    assert read_files(tmp_path / to) == {}
    convert(tmp_path / "a", "coco-jsonl", tmp_path / "c", "sav-png", video.name)
    assert open_layout(tmp_path / "c").open(video.name).objects == video.objects


@pytest.mark.parametrize("overlaps, winner, loser", [("smaller-id", 1, 2), ("larger-area", 2, 1)])
def test_resolved_overlaps_are_reported(overlaps, winner, loser, tmp_path):
    """By id, as in the official VOS tool, or by area."""
    put(tmp_path / "a", "coco-jsonl", overlapping(np.s_[:9, :9], np.s_[5:20, 5:20]))
    done = convert(tmp_path / "a", "coco-jsonl", tmp_path / "b", "davis", "heap", overlaps=overlaps)
    assert done.lost == {"00004": [loser]}
    labels = np.asarray(Image.open(tmp_path / "b/Annotations/heap/00004.png"))
    assert (labels[5:9, 5:9] == winner).all()
    assert ((labels == 1) | (labels == 2)).sum() == 81 + 225 - 16


def test_meta_of_videos_that_have_none(tmp_path):
    """The entry lists the frames that show an object."""
    example("davis", tmp_path / "a")
    convert(tmp_path / "a", "davis", tmp_path / "b", "ytvos", "bear")
    objects = json.loads((tmp_path / "b/meta.json").read_text())["videos"]["bear"]["objects"]
    assert objects.keys() == {"1", "2", "7"}
    for number, entry in objects.items():
        shown = [p.stem for p in sorted((tmp_path / "a/Annotations/bear").iterdir())
                 if (np.asarray(Image.open(p)) == int(number)).any()]  # fmt: skip
        assert entry == {"category": "object", "frames": shown}


def test_meta_of_all_videos(tmp_path):
    """Including videos of earlier runs, and videos whose metadata file was removed."""
    for name in ("one", "two"):
        put(tmp_path / "a", "coco-jsonl", random_video(name))
        convert(tmp_path / "a", "coco-jsonl", tmp_path / "b", "ytvos", name)
        (tmp_path / f"b/Facts/{name}.json").unlink()
    assert open_layout(tmp_path / "b").videos() == ["one", "two"]
    assert json.loads((tmp_path / "b/meta.json").read_text())["videos"].keys() == {"one", "two"}


def test_davis_has_a_folder_for_its_resolution(tmp_path):
    example("davis", tmp_path / "a")
    for kind in ("Annotations", "JPEGImages"):
        (tmp_path / "a" / kind).rename(tmp_path / "moved")
        (tmp_path / "a" / kind).mkdir()
        (tmp_path / "moved").rename(tmp_path / "a" / kind / "480p")
    layout = open_layout(tmp_path / "a")
    assert layout.name == "davis" and layout.videos() == ["bear"] and len(layout.open("bear").frames) == 7
    assert len(layout.frame_files("bear").images) == 7


@pytest.mark.parametrize("images, there", [("none", []), ("annotated", ["00000", "00004"])])
def test_which_images_are_copied(images, there, tmp_path):
    example("sav-png", tmp_path / "a")
    convert(tmp_path / "a", "sav-png", tmp_path / "b", "coco-jsonl", "bear", images)
    assert sorted(path.stem for path in tmp_path.glob("b/JPEGImages/bear/*.jpg")) == there


def test_a_video_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    """Including a video that is written again: it stays unchanged."""
    for layout in BY_NAME:
        (tmp_path / layout / "flat").mkdir(parents=True)
        root = tmp_path / layout
        example("davis", root / "a")
        convert(root / "a", "davis", root / "b", layout, "bear")
        if layout == "ytvos":
            (root / "b/.meta.json.1.part").touch()  # of a killed process
            convert(root / "a", "davis", root / "b", layout, "bear")
        whole = read_files(root / "b")
        broken = root / "a/Annotations/bear/00016.png"
        broken.write_bytes(broken.read_bytes()[:60])
        with pytest.raises(DatasetError, match=r"00016\.png"):
            convert(root / "a", "davis", root / "b", layout, "bear")
        assert read_files(root / "b") == whole and not list(root.glob("b/.*.part"))


@pytest.mark.parametrize(
    "root, layout, message",
    [
        (".", None, "none of the layouts sav, sav-png, davis"),
        ("nowhere", None, "not a folder"),
        (".", "coco", "no layout 'coco'"),
    ],
)
def test_folders_in_no_layout(root, layout, message, tmp_path):
    with pytest.raises(DatasetError, match=message):
        open_layout(tmp_path / root, layout)


def meta(content: dict):
    return lambda root: (root / "meta.json").write_text(json.dumps({"videos": content}))


def image(path: str, *size: int):
    return lambda root: write_palette(root / path, np.zeros(size or (HEIGHT, WIDTH)))


def renamed(name: str):
    return lambda root: (root / "bear.jsonl").write_text((root / "bear.jsonl").read_text().replace('"00004"', name))


def after_conversion(change):
    """With a metadata file."""
    return lambda root: (put(root, "davis", random_video("bear", gaps=False)), change(root))


def no_masks(root: Path) -> None:
    shutil.rmtree(root / "Annotations/bear")
    (root / "Annotations/bear").mkdir()


MASKS, NAME = "Annotations/bear", "cannot be the name of a file"


@pytest.mark.parametrize(
    "layout, change, message",
    [
        ("ytvos", meta({"wolf": {"objects": {}}}), r"meta\.json .* bear"),
        ("ytvos", meta({"bear": {"objects": {"1": {}, "2": {}}}}), r"\.png has the index 7"),
        ("ytvos", meta({"bear": {"objects": {"7": {}, "07": {}}}}), r'meta\.json, video bear: expected "objects"'),
        ("ytvos", image(f"{MASKS}/00010.png", 5, 6), r"00010\.png has 6x5 pixels, .* 46x34"),
        ("ytvos", image(f"{MASKS}/5.png"), r"00005\.png and 5\.png"),
        ("ytvos", no_masks, r"no masks: expected <frame>\.png"),
        ("sav-png", image("Annotations_6fps/bear/first/00000.png"), "first: .* number"),
        ("sav-png", image("Annotations_6fps/bear/009/4.png"), "4.png: another object"),
        ("davis", after_conversion(image(f"{MASKS}/00099.png")), r"Facts/bear\.json .*00099; .*remove that file"),
        ("davis", after_conversion(lambda root: (root / f"{MASKS}/00004.png").unlink()), r"00004\.png is missing"),
        *(("coco-jsonl", renamed(name), NAME) for name in ('"a/../../../00004"', '".00004"', '""', r'"a\\b"')),
    ],
)
def test_refused_sources(layout, change, message, tmp_path):
    example(layout, tmp_path / "a")
    list(open_layout(tmp_path / "a").open("bear"))
    change(tmp_path / "a")
    with pytest.raises(DatasetError, match=message):
        convert(tmp_path / "a", layout, tmp_path / "b", "sav-png", "bear")
    assert read_files(tmp_path / "b") == {} and not (tmp_path / "00004.png").exists()


def test_frames_of_other_formats(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "00000.webp")
    with pytest.raises(DatasetError, match=r"has frames such as 00000.webp; expected JPEG or PNG"):
        FrameFiles.find([tmp_path])
    Image.new("RGB", (4, 4)).save(tmp_path / "00000.jpg")
    assert FrameFiles.find([tmp_path]).images == {0: tmp_path / "00000.jpg"}
