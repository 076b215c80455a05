"""``sam2fast dataset``: extract, convert, info, show; failures are listed at the end, and everything else is done."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from annotated_videos import HEIGHT, WIDTH, read_files, small_video, write_jpegs, write_palette, write_sav
from commands import ends, load, ok
from numbered_videos import number_in
from PIL import Image
from thread_workers import instead_of_processes

from sam2fast.cli.dataset import open_source
from sam2fast.datasets.layout_registry import open_layout
from sam2fast.io.rle import decode_rle


def masklets(path: Path) -> list[list[dict[str, Any]]]:
    """The masks of a file of SA-V's, by frame and object."""
    return load(path)["masklet"]


def number_of(path: Path) -> int:
    with Image.open(path) as image:
        return number_in(torch.from_numpy(np.array(image)))


@pytest.fixture(scope="module")
def video() -> bytes:
    return small_video(11)


@pytest.fixture
def videos(tmp_path, video) -> Path:
    """Videos in folders, as in SA-V: one is truncated, one is no video."""
    folder = tmp_path / "videos"
    for name in ("part_0/a", "part_1/b", "c"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.mp4").write_bytes(video)
    (folder / "part_1/short.mp4").write_bytes(video[: len(video) * 2 // 3])
    (folder / "part_1/text.mp4").write_text("no video")
    (folder / "part_1/a.mp4").write_bytes(video)
    return folder


@pytest.mark.parametrize("jobs", [1, 2])
def test_extract(jobs, run, videos, tmp_path, monkeypatch):
    instead_of_processes(monkeypatch)
    result = run("dataset", "extract", "--videos", videos, "--out", "out", "--jobs", jobs)
    assert result.exit_code == 1 and result.stdout == "9 frames of 3 videos in out\n"
    Image.new("RGB", (8, 8)).save(tmp_path / "q95.jpg", quality=95)
    tables = Image.open(tmp_path / "q95.jpg").quantization
    names = {f"{video}/{frame}.jpg" for video in "abc" for frame in ("00000", "00004", "00008")}
    assert read_files(tmp_path / "out").keys() == names
    for name in names:
        assert number_of(tmp_path / "out" / name) == int(Path(name).stem)
        with Image.open(tmp_path / "out" / name) as image:
            assert image.size == (WIDTH, HEIGHT) and image.quantization == tables
    *_, head, first, second, third, last = result.stderr.splitlines()
    assert head == "sam2fast: failed or incomplete: 3 of 6 videos:"
    assert "part_1/a.mp4 has the name of" in first
    assert "short.mp4" in second + third and "text.mp4" in second + third
    assert last == "sam2fast: 3 of 6 videos had problems; all else was done"
    assert not list((tmp_path / "out").glob(".*.part"))


def test_extract_resumes_with_the_original_flags(run, videos, tmp_path):
    for path in (videos / "part_1").iterdir():
        if path.stem != "b":
            path.unlink()
    flags = ("--sav-vid-dir", videos, "--sav-frame-sample-rate", 5, "--n-jobs", 1, "--output-dir", "out")
    assert run("dataset", "extract", *flags).exit_code == 0
    whole = read_files(tmp_path / "out")
    assert {Path(name).name for name in whole} == {"00000.jpg", "00005.jpg", "00010.jpg"}
    shutil.rmtree(tmp_path / "out/b")
    result = run("dataset", "extract", *flags)
    assert result.exit_code == 0 and result.stdout == "3 frames of 1 videos in out; 2 videos were done before\n"
    assert read_files(tmp_path / "out") == whole
    result = run("dataset", "extract", "--videos", videos, "--out", "out", "--rate", 4)
    assert result.exit_code == 1 and "out differs in --rate (5, now 4)" in result.stderr
    assert read_files(tmp_path / "out") == whole
    ends(run("dataset", "extract", "--videos", videos, "--out", "videos"), 1, "videos is not empty")


@pytest.fixture
def sav(tmp_path, video) -> Path:
    """A folder like SA-V's: annotations with a video, without a video, and a damaged file."""
    folder = tmp_path / "sav"
    write_sav(folder, "clip", frames=3)
    write_sav(folder, "clip", 1, "auto", objects=2, frames=3)
    write_sav(folder / "part", "other", 2, frames=2)
    (folder / "clip.mp4").write_bytes(video)
    (folder / "bad_manual.json").write_text('{"masklet": [[1]]}')
    return folder


def test_convert(run, sav, tmp_path):
    result = run("dataset", "convert", sav, "out", "--to", "sav-png", "--check", "--jobs", 1)
    assert result.exit_code == 1
    told = "2 videos with 6 objects in 5 annotated frames in out, layout sav-png; IN has no images of 1 videos\n"
    assert result.stdout == told and "1 of 3 videos had problems; all else was done\n" in result.stderr
    assert "bad_manual.json" in result.stderr and "masklet[0][0] must have" in result.stderr
    frames = sorted((tmp_path / "out/JPEGImages_24fps/clip").iterdir())
    assert [number_of(path) for path in frames] == list(range(11)), "all frames of the video"
    assert not (tmp_path / "out/JPEGImages_24fps/other").exists()

    ok(run("dataset", "convert", "out", "back", "--to", "sav", "--jobs", 1))
    for name in ("clip", "part/other"):
        assert load(tmp_path / f"back/{Path(name).name}_manual.json") == load(sav / f"{name}_manual.json")


@pytest.mark.parametrize("name", ["", ".", "a/b"])
def test_names_in_a_data_set_that_are_no_file_names(name, run, tmp_path):
    write_palette(tmp_path / "in/Annotations/v1/00000.png", np.ones((HEIGHT, WIDTH)))
    (tmp_path / "in/Annotations" / name).mkdir(parents=True, exist_ok=True)
    objects = {"objects": {"1": {"category": "bear", "frames": ["00000"]}}}
    (tmp_path / "in/meta.json").write_text(json.dumps({"videos": {"v1": objects, name: {"objects": {}}}}))
    result = run("dataset", "convert", "in", "out", "--to", "davis", "--images", "none", "--jobs", 1)
    ends(result, 1, "videos had problems; all else was done\n")
    assert list(read_files(tmp_path / "out/Annotations")) == ["v1/00000.png"]


def test_convert_one_file_of_automatic_masklets_with_its_video(run, sav, tmp_path, video):
    result = run("dataset", "convert", sav / "clip_auto.json", "out", "--to", "coco-jsonl")
    assert result.exit_code == 0 and result.stdout.startswith("1 videos with 2 objects in 3 annotated frames in out")
    assert read_files(tmp_path / "out").keys() == {"clip.jsonl", "clip.mp4"}
    assert (tmp_path / "out/clip.mp4").read_bytes() == video
    result = ok(run("dataset", "convert", "out", "back", "--to", "sav", "--masklets", "auto"))
    assert load(tmp_path / "back/clip_auto.json") == load(sav / "clip_auto.json")


def test_convert_reports_overlaps_a_palette_cannot_hold(run, sav, tmp_path):
    """SA-V's masks overlap."""
    ask = ("dataset", "convert", sav, "flat", "--to", "davis", "--video", "clip", "--jobs", 1)
    result = ends(run(*ask, "--images", "none"), 1, "1 of 1 videos had problems; all else was done\n")
    assert "clip, frame 00000: objects " in result.stderr and "--overlaps" in result.stderr
    assert read_files(tmp_path / "flat") == {}
    result = run(*ask, "--images", "annotated", "--overlaps", "smaller-id", "--overwrite")
    assert result.exit_code == 0 and "clip: lost pixels where masks overlap, " in result.stdout
    assert {path.name for path in tmp_path.glob("flat/JPEGImages/clip/*")} == {"00000.jpg", "00004.jpg", "00008.jpg"}


def test_convert_resumes_without_repeating_work(run, sav, tmp_path):
    (sav / "bad_manual.json").unlink()
    ask = ("dataset", "convert", sav, "out", "--to", "coco-jsonl", "--jobs", 1)
    assert run(*ask).exit_code == 0
    whole = read_files(tmp_path / "out")
    (tmp_path / "out/other.jsonl").unlink()
    (tmp_path / "out/.other.1.part").mkdir()
    (tmp_path / "out/.other.1.part/other.jsonl").write_text("half")
    (tmp_path / "out/clip.jsonl").write_text('{"is": "not made again"}')
    result = run(*ask)
    assert result.exit_code == 0 and "; 1 videos were done before" in result.stdout
    assert (tmp_path / "out/clip.jsonl").read_text() == '{"is": "not made again"}'
    result = run(*ask, "--overwrite")
    assert result.exit_code == 0 and "already" not in result.stdout
    assert read_files(tmp_path / "out") == whole and not list((tmp_path / "out").glob(".*.part"))

    ends(run(*ask, "--masklets", "auto"), 1, "out differs in --masklets (manual, now auto), see out/.convert.json")
    assert read_files(tmp_path / "out") == whole


def test_results_of_other_options_are_not_mixed(run, sav, tmp_path):
    (sav / "bad_manual.json").unlink()
    ask = ("dataset", "convert", sav, "out", "--to", "coco-jsonl", "--jobs", 1)
    assert run(*ask).exit_code == 0
    assert run(*ask, "--images", "none", "--overwrite", "--video", "clip").exit_code == 0
    result = run(*ask, "--images", "none")
    assert result.exit_code == 1
    assert "1 of these videos (other) made from something else: other differs in --images" in result.stderr
    assert run(*ask, "--images", "none", "--overwrite").exit_code == 0 and run(*ask, "--images", "none").exit_code == 0


def test_tracked_videos_have_the_names_of_their_folders(run, tmp_path):
    line = {"frame": 0, "name": "00000", "objects": [{"id": 1, "rle": {"size": [2, 2], "counts": "04"}, "score": 1.0}]}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "masks.jsonl").write_text(json.dumps(line) + "\n")
        assert run("dataset", "convert", name, "out", "--to", "davis").exit_code == 0
    assert run("dataset", "convert", "one/masks.jsonl", "out", "--to", "davis").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "out/Annotations").iterdir()) == ["one", "two"]


def test_info(run, sav):
    result = run("dataset", "info", sav, "--count")
    assert (
        result.exit_code == 1
        and "1 of 4 videos had problems; all else was done\n" in result.stderr
        and "bad_manual.json" in result.stderr
    )
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["video", "objects", "frames", "from", "to", "size", "images", "masks", "visible"]
    assert [line[:-1] for line in lines[1:4]] == [
        ["clip", "manual", "3", "3", "00000", "00008", f"{WIDTH}x{HEIGHT}", "video", "9"],
        ["other", "manual", "3", "2", "00000", "00004", f"{WIDTH}x{HEIGHT}", "0", "6"],
        ["clip", "auto", "2", "3", "00000", "00008", f"{WIDTH}x{HEIGHT}", "video", "6"],
    ]
    visible = sum(decode_rle(rle).any() for frame in masklets(sav / "clip_manual.json") for rle in frame)
    assert int(lines[1][-1]) == visible > 0
    assert result.stdout.endswith("3 videos, 8 objects, 8 annotated frames; layout sav\n")


def test_info_as_json_finds_damaged_images(run, tmp_path):
    for frame in ("00000", "00001"):
        write_palette(tmp_path / f"data/Annotations/good/{frame}.png", np.eye(10, 20))
        write_palette(tmp_path / f"data/Annotations/bad/{frame}.png", np.eye(10, 20))
    write_jpegs(tmp_path / "data/JPEGImages/good", ("00000", "00001", "00002"))
    broken = tmp_path / "data/Annotations/bad/00001.png"
    broken.write_bytes(broken.read_bytes()[:-30])
    result = ends(run("dataset", "info", "data", "--json"), 1, f"{broken.relative_to(tmp_path)}")
    (row,) = json.loads(result.stdout)
    assert row == {
        "video": "good", "masklets": "", "objects": 1, "frames": 2, "first": "00000", "last": "00001",
        "height": 10, "width": 20, "images": 3, "masks": None, "visible": None,
    }  # fmt: skip


def test_show_both_kinds_on_the_video(run, sav, tmp_path):
    result = run("dataset", "show", sav / "clip_auto.json", "--frames", "0,8", "--out", "shown")
    assert result.exit_code == 0 and result.stdout == "2 images in shown\n"
    assert sorted(read_files(tmp_path / "shown")) == ["clip_00000.png", "clip_00008.png"]
    image = np.asarray(Image.open(tmp_path / "shown/clip_00008.png"))
    top = image.shape[0] - HEIGHT
    assert image.shape[1] == 2 * WIDTH + 4 and 12 <= top <= 30
    panels = {"manual": image[top:, :WIDTH], "auto": image[top:, -WIDTH:]}
    videos = open_layout(sav).frame_files("clip")
    ((_, frame),) = videos.read(["00008"])
    for kind, panel in panels.items():
        masks = [decode_rle(rle) for rle in masklets(sav / f"clip_{kind}.json")[2]]
        outside = ~np.any(masks, axis=0)
        changed = (panel != frame).any(-1)
        assert outside.any() and (changed[~outside]).mean() > 0.9
        # Ids are drawn slightly outside of their masks.
        assert changed[outside].mean() < 0.5


def test_show_without_images_is_grey(run, sav, tmp_path):
    result = run("dataset", "show", sav, "--video", "other", "--out", "shown")
    assert result.exit_code == 0 and sorted(read_files(tmp_path / "shown")) == ["other_00000.png", "other_00004.png"]
    image = np.asarray(Image.open(tmp_path / "shown/other_00000.png"))[-HEIGHT:]
    masks = [decode_rle(rle) for rle in masklets(sav / "part/other_manual.json")[0]]
    outside = ~np.any(masks, axis=0)
    assert (image[outside] == 128).all(-1).mean() > 0.5 and (image[~outside] != 128).any(-1).mean() > 0.9


def test_show_continues_after_problems(run, sav, tmp_path):
    result = run("dataset", "show", sav, "--frames", "0", "--out", "shown")
    assert result.exit_code == 1 and result.stdout == "2 images in shown\n"
    assert "1 of 4 videos had problems; all else was done\n" in result.stderr and "bad_manual.json" in result.stderr
    result = run("dataset", "show", sav, "--frames", "4,5", "--out", "more", "--video", "clip")
    assert result.exit_code == 1 and "clip has no annotation in frame 5; it has 00000, 00004, 00008" in result.stderr


def test_a_link_to_the_results_of_track(tmp_path):
    """Its folder names the video, as with git-annex."""
    for folder in ("store", "clip"):
        (tmp_path / folder).mkdir()
    (tmp_path / "store/masks.jsonl").touch()
    (tmp_path / "clip/masks.jsonl").symlink_to(tmp_path / "store/masks.jsonl")
    data, videos = open_source(tmp_path / "clip/masks.jsonl", None, "manual", 4)
    assert videos == ["clip"] and data.masks_at("clip").is_file()
