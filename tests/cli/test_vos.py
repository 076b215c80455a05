"""``sam2fast vos``: options, resuming and broken data sets. tests/evaluation/vos tests the masks."""

import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import click.testing
import moving_shapes
import numpy as np
import pytest
from commands import ends, invoke, ok
from file_contents import files_of
from mask_sets import cut
from PIL import Image
from small_nano import write_small_nano
from thread_workers import instead_of_processes
from vos_sets import disc, save_png, write_masks, write_video

from sam2fast import nano
from sam2fast.cli import runner_options, vos
from sam2fast.evaluation.vos import build_for_vos

DISCS = {0: {1: (30, 30, 18), 3: (80, 50, 20)}, 2: {1: (34, 32, 16), 3: (76, 50, 20)}}
LENGTHS = {"a": 4, "b": 3, "c": 2}
TOTALS = "3 videos, 9 frames, 6 objects in "
_load_once = functools.cache(build_for_vos)


class DataSet:
    """A folder with videos and masks, and the command for it, with nano at a sixteenth of its pixels."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name, frames in LENGTHS.items():
            write_video(root / "videos" / name, frames, seed=frames)
            write_masks(root / "masks" / name, {t: discs for t, discs in DISCS.items() if t < frames})
        write_small_nano(root / "quick.yaml", 64)

    def __call__(self, *options: Any, out: str = "out", device: str = "cpu") -> click.testing.Result:
        folders = ["--videos", self.root / "videos", "--masks", self.root / "masks", "--out", self.root / out]
        model = ["--model", self.root / "quick.yaml", "--checkpoint", nano.WEIGHTS, "--device", device]
        return invoke("vos", *folders, *model, *options)

    def files(self, out: str = "out") -> dict[str, bytes]:
        """With ``ROOT`` for the path of the data set, which the notes have."""
        root = os.fsencode(os.path.realpath(self.root))
        return {path: content.replace(root, b"ROOT") for path, content in files_of(self.root / out).items()}

    def has_done(self, files: dict[str, bytes]) -> None:
        """The files that a run has written so far."""
        for path, content in files.items():
            (self.root / "out" / path).parent.mkdir(parents=True, exist_ok=True)
            content = content.replace(b"ROOT", os.fsencode(os.path.realpath(self.root)))
            (self.root / "out" / path).write_bytes(content)


@pytest.fixture
def data(tmp_path, monkeypatch) -> DataSet:
    monkeypatch.setattr(vos, "build_for_vos", _load_once)
    return DataSet(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """The files of an uninterrupted run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vos, "build_for_vos", _load_once)
        data = DataSet(tmp_path_factory.mktemp("whole"))
        result = data()
        assert result.exit_code == 0 and result.stderr == ""
        assert result.stdout.startswith(TOTALS) and "frames/s (opening " in result.stdout
        assert result.stdout.endswith(f"written to {data.root / 'out'}\n")
        return data.files()


def pngs(files: dict[str, bytes]) -> dict[str, bytes]:
    return {path: content for path, content in files.items() if path.endswith(".png")}


def test_files(whole):
    masks = [f"{name}/{t:05d}.png" for name, frames in LENGTHS.items() for t in range(frames)]
    assert sorted(whole) == [".a.json", ".b.json", ".c.json", *masks]


def test_original_option_names(data, whole):
    result = invoke(
        *("vos", "--base_video_dir", data.root / "videos", "--input_mask_dir", data.root / "masks"),
        *("--output_mask_dir", data.root / "out", "--sam2_cfg", data.root / "quick.yaml"),
        *("--sam2_checkpoint", nano.WEIGHTS, "--device", "cpu", "--score_thresh", "0.0"),
        "--use_vos_optimized_video_predictor",
    )
    assert result.exit_code == 0 and pngs(data.files()) == pngs(whole)
    (data.root / "some.txt").write_text("a\n")
    first = {path: content for path, content in pngs(whole).items() if path[0] == "a"}
    for flag in ("--apply_postprocessing", "--use_all_masks", "--track_object_appearing_later_in_video"):
        assert data(flag, "--video_list_file", data.root / "some.txt", out=f"out{flag}").exit_code == 0
        found = pngs(data.files(f"out{flag}"))
        assert sorted(found) == sorted(first) and (found == first) == flag.startswith("--track")
    write_masks(data.root / "objects/a", DISCS, per_object=True)
    ends(data("--per_obj_png_file", "--input_mask_dir", data.root / "objects", out="per_object"), 1, "b: ", "c: ")
    assert sorted(pngs(data.files("per_object"))) == [f"a/{i:03d}/{t:05d}.png" for i in (1, 3) for t in range(4)]


def test_list(data, whole):
    (data.root / "some.txt").write_text("c\n\n  a  \nc\n", encoding="utf-8-sig")
    result = data("--list", data.root / "some.txt")
    assert result.exit_code == 0 and result.stdout.startswith("2 videos, 6 frames, 4 objects in ")
    assert pngs(data.files()) == {path: x for path, x in pngs(whole).items() if path[0] in "ac"}


def test_a_list_of_files(data, whole):
    moving_shapes.write_video(data.root / "clip.mp4", moving_shapes.make_frames(2))
    (data.root / "clip.mp4").rename(data.root / "videos/CLIP.MP4")
    write_masks(data.root / "masks/CLIP", {0: DISCS[0]})
    (data.root / "some.txt").write_text("CLIP.MP4\n")
    ok(data("--list", data.root / "some.txt"))
    assert set(pngs(data.files())) == {"CLIP/00000.png", "CLIP/00001.png"}


def test_results_among_the_inputs(data):
    ends(data(out="videos/out"), 2, "the results would lie among the inputs")


def test_problems_are_listed_at_the_end(data, whole):
    frame = data.root / "videos/a/00002.jpg"
    intact = frame.read_bytes()
    frame.write_bytes(b"no image")
    (data.root / "masks/c").rename(data.root / "masks/d")
    (data.root / "some.txt").write_text("a\nb\nc\nnowhere\n")
    result = data("--list", data.root / "some.txt")
    assert result.exit_code == 1 and result.stdout.startswith("1 videos, 3 frames, 2 objects in ")
    report = result.stderr.split("sam2fast: failed or incomplete: 3 of 4 videos:\n")[1].splitlines()
    assert len(report) == 4 and report[3] == "sam2fast: 3 of 4 videos had problems; all else was done"
    assert report[0] == f"  video c: {data.root}/masks/c: No such file or directory"
    assert report[1].startswith("  video nowhere: there is no folder ")
    assert report[2].startswith("  video a: frame 2, ") and "00002.jpg" in report[2]
    assert pngs(data.files()) == {path: x for path, x in pngs(whole).items() if path[0] == "b"}
    frame.write_bytes(intact)
    (data.root / "masks/d").rename(data.root / "masks/c")
    result = data()
    assert result.exit_code == 0 and "; 1 videos were done before" in result.stdout
    assert data.files() == whole


def test_finished_videos_are_skipped(data, whole, monkeypatch):
    data.has_done(whole)
    monkeypatch.setattr(vos, "build_for_vos", None)  # would fail
    result = data("--overwrite")
    assert result.exit_code == 0 and result.stdout.startswith("0 videos, 0 frames, 0 objects in ")
    assert "; 3 videos were done before" in result.stdout and data.files() == whole


def test_other_files_among_the_inputs_do_not_count(data, whole):
    data.has_done(whole)
    (data.root / "masks/b/Thumbs.db").write_bytes(b"")
    (data.root / "videos/a/notes.txt").symlink_to("nowhere")
    (data.root / "out/a/.DS_Store").write_bytes(b"")
    assert "; 3 videos were done before" in data().stdout


@pytest.mark.parametrize("is_foreign", [False, True])
def test_overwrite_replaces_only_videos_of_something_else(data, whole, is_foreign):
    data.has_done(whole)
    if is_foreign:  # masks of another program
        (data.root / "out/.b.json").unlink()
    else:
        write_masks(data.root / "masks/b", {0: {1: (31, 30, 25), 3: (70, 50, 9)}})
    before = data.files()
    result = ends(data(), 1, "has 1 of these videos")
    assert "give another --out folder, or --overwrite" in result.stderr and data.files() == before
    result = data("--overwrite")
    assert result.exit_code == 0 and "; 2 videos were done before" in result.stdout
    assert data.files()[".b.json"] != before.get(".b.json")


@pytest.mark.parametrize(("device", "at_once", "count"), [("cpu,cpu", 1, 2), ("cpu", 9, 3)])
def test_several_at_once(data, whole, monkeypatch, device, at_once, count):
    instead_of_processes(monkeypatch)
    started, original = [], runner_options.on_devices

    def on_devices(devices, at_once, queue):
        started.append((len(devices) * at_once, queue))
        return original(devices, at_once=at_once, queue=queue)

    monkeypatch.setattr(runner_options, "on_devices", on_devices)
    result = data("--at-once", at_once, "--progress", device=device)
    assert result.exit_code == 0 and "9/9" in result.stderr and result.stdout.startswith(TOTALS)
    assert started == [(count, False)]
    assert data.files() == whole


@pytest.mark.parametrize("strategy", ["dam4sam", "sam2long"])
def test_a_strategy_on_a_video_longer_than_the_memory(data, strategy):
    """The masks are those of a session that keeps everything."""
    video = write_video(data.root / "long/a", 24)
    ok(data("--videos", data.root / "long", "--strategy", strategy))
    predictor = _load_once(data.root / "quick.yaml", nano.WEIGHTS, device="cpu")
    labels = {}
    for name in (strategy, "sam2"):
        state, labels[name] = predictor.init_state(str(video), strategy=name), []
        for obj_id, shape in DISCS[0].items():
            predictor.add_new_mask(state, 0, obj_id, disc(*shape))
        for _, ids, logits in predictor.propagate_in_video(state, progress=False):
            masks = (logits[:, 0] > 0).numpy()
            labels[name].append(sum(obj_id * mask for obj_id, mask in zip(ids, masks, strict=True)))
    written = [np.array(Image.open(path)) for path in sorted((data.root / "out/a").iterdir())]
    assert np.array_equal(written, labels[strategy]) and not np.array_equal(written, labels["sam2"])


def test_sam2long_refuses_objects_that_appear_later(data):
    write_masks(data.root / "masks/b", {0: {1: (30, 30, 18)}, 1: {3: (80, 50, 20)}})
    result = data("--strategy", "sam2long", "--late-objects")
    assert result.exit_code == 1 and "b: an object appears on frame 1, others on frame 0" in result.stderr
    assert "track this video with another --strategy, or without --late-objects" in result.stderr
    assert {path.partition("/")[0] for path in data.files()} == {"a", "c", ".a.json", ".c.json"}


def left_out_of(line: dict[str, Any]) -> dict[str, int]:
    return {f"{entry['what']}: {entry['why']}": entry["count"] for entry in line["left_out"]}


def test_inputs_that_no_object_is_tracked_from_are_counted(data):
    write_masks(data.root / "masks/a", {2: {7: (60, 60, 9)}, 3: {8: (60, 60, 9), 9: (20, 60, 9)}, 77: {1: (9, 9, 5)}})
    write_masks(data.root / "masks/b", {2: {7: (60, 60, 9)}})
    cut(data.root / "masks/b/00002.png")
    write_masks(data.root / "masks/nowhere", DISCS)
    for name in ("notes.txt", "photo.jpg", "a/._00000.jpg", "a/preview.png"):
        (data.root / "videos" / name).touch()
    result = ok(data("--jsonl"))
    *videos, last = map(json.loads, result.stdout.splitlines())
    late, unread = "object: appears after the first frame; --late-objects tracks it", "mask: it cannot be read, "
    found = {line["video"]: left_out_of(line) for line in videos}
    assert found["a"] == {late: 3, "mask: no frame has its name": 1} and found["c"] == {}
    assert list(found["b"].values()) == [1] and next(iter(found["b"])).startswith(unread)
    every = left_out_of(last)
    assert (
        every[late] == 3 and every["file: it is not a video"] == 2 and every["mask folder: no video has its name"] == 1
    )
    assert every["frame: its file is hidden"] == every["file: its type is .png"] == 1
    assert "skipped" not in result.stderr
    (note,) = [line for line in result.stderr.splitlines() if "left out" in line]
    assert "3 objects (appears after the first frame; --late-objects tracks it; first: video a)" in note


@pytest.mark.parametrize("options", [[], ["--late-objects"]])
def test_late_and_empty_objects_in_folders_of_their_own(data, options):
    (data.root / "some.txt").write_text("a\n")
    shutil.rmtree(data.root / "masks/a")
    write_masks(data.root / "masks/a", {0: {1: (30, 30, 18)}, 2: {2: (60, 60, 9)}}, per_object=True)
    for name in ("002/00000", "003/00000"):
        save_png(data.root / f"masks/a/{name}.png", np.zeros((90, 120), np.uint8), None)
    result = ok(data("--per-object", "--list", data.root / "some.txt", "--jsonl", *options))
    found = left_out_of(json.loads(result.stdout.splitlines()[0]))
    late = {"object: appears after the first frame; --late-objects tracks it": 1}
    assert found == {**({} if options else late), "object: no mask shows it": 1}


@pytest.mark.parametrize("per_object", [False, True])
def test_void_pixels(data, per_object):
    """255 beside other ids is tracked, with a note; ignored, it is no object, and leaves those of folders."""
    shutil.rmtree(data.root / "masks/a")
    write_masks(data.root / "masks/a", {0: {1: (30, 30, 18)}}, per_object)
    file = next((data.root / "masks/a").rglob("*.png"))
    labels = np.array(Image.open(file))
    assert labels.max() == 1
    labels[70:, 80:] = 255
    save_png(file, labels, None)
    (data.root / "some.txt").write_text("a\n")
    options = ["--list", data.root / "some.txt", *(["--per-object"] if per_object else [])]
    ends(data(*options), 0, "255 was tracked as an object beside others in 1 videos, such as a")
    with_void = data.root / "out/a" / file.relative_to(data.root / "masks/a")
    assert np.array(Image.open(with_void))[85, 110] == (1 if per_object else 255)
    result = data(*options, "--ignore-label", 255, out="clean")
    assert result.exit_code == 0 and "1 videos, 4 frames, 1 objects" in result.stdout and result.stderr == ""
    clean = data.root / "clean/a" / file.relative_to(data.root / "masks/a")
    assert np.array(Image.open(clean))[85, 110] == 0 and np.array(Image.open(clean))[30, 30] == 1


@pytest.mark.parametrize(
    ("masks", "count"),
    [
        ({0: {255: (30, 30, 18)}, 2: {255: (30, 30, 18)}}, 1),  # the only object
        ({2: {1: (30, 30, 18), 255: (90, 60, 9)}}, 2),  # void pixels on a later frame are no late object
    ],
)
def test_255_without_a_note(data, masks, count):
    (data.root / "some.txt").write_text("a\n")
    write_masks(data.root / "masks/a", masks)
    result = data("--list", data.root / "some.txt")
    assert result.exit_code == 0 and result.stderr == "" and f"{count} objects" in result.stdout


def test_two_files_of_one_name_fail_alone(data, whole):
    for ending in ("mp4", "mov"):
        (data.root / f"videos/d.{ending}").touch()
    ends(data(), 1, "d.mov and d.mp4 have the same name")
    assert pngs(data.files()) == pngs(whole)
