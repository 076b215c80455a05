"""Inputs of commands: files, folders, patterns, addresses, stdin; those that fail are named at the end."""

import io
import json
import os
import shutil
from pathlib import Path

import moving_shapes
import numpy as np
import pytest
import torch
from checkpoint_server import CheckpointServer
from commands import assert_one_line, ends, invoke, ok
from file_contents import names
from PIL import Image
from track_runs import ONE, lines_of

from sam2fast import nano
from sam2fast.build_sam import build_sam2
from sam2fast.cli.left_out import LeftOut
from sam2fast.cli.sources import InputSource, list_sources, videos_in
from sam2fast.video_io import open_frames

NANO = ["--model", "nano", "--device", "cpu"]
OF_COMMAND = {
    "segment": ["--point", "20,30"],
    "masks": ["--points-per-side", "1", "--pred-iou-thresh", "0", "--stability-score-thresh", "0", "--format", "json"],
    "find": ["--reference", "d.png", "--mask", "mask.png", "--format", "json"],
}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with CheckpointServer().running() as running:
        yield running


def piped(monkeypatch, content: bytes) -> None:
    """CliRunner gives stdin no bytes of its own here."""
    monkeypatch.setattr("sam2fast.cli.sources.sys", type("Sys", (), {"stdin": io.TextIOWrapper(io.BytesIO(content))}))


@pytest.mark.parametrize("command", OF_COMMAND)
def test_images_of_every_kind(run, make_image, tmp_path, server, monkeypatch, command):
    """The good ones are done. The bad ones are reported when they are met and again at the end."""
    content = make_image("made.png").read_bytes()
    for name in ("photos/b.JPG", "photos/a.gif", "photos/deeper/x.png", "more/c[1].png", "d.png"):
        make_image(name)
    (tmp_path / "photos/notes.txt").write_text("no image")
    Image.fromarray(np.eye(64, 96, dtype=bool)).save(tmp_path / "mask.png")
    server.add("/some/e f.png?size=3", content)
    piped(monkeypatch, content)
    (tmp_path / "text.png").write_text("no image")
    server.add("/broken.png", b"no image")
    (tmp_path / "empty").mkdir()
    good = ["photos", "mor?/*.png", "d.png", "photos/b.JPG", f"{server.url}/some/e%20f.png?size=3", "-"]
    bad = ["nowhere.png", "none*.png", "empty", "text.png", f"{server.url}/gone.png", f"{server.url}/broken.png"]
    result = run(command, *good, *bad, *OF_COMMAND[command], *NANO)
    assert result.exit_code == 1 and "Traceback" not in result.stderr
    heading, *listed, last = result.stderr.split("failed or incomplete: ")[1].splitlines()
    assert heading == "6 of 12 images:" and "6 of 12 images had problems; all else was done" in last
    for name, line in zip(bad, listed, strict=True):
        assert name in line and str(tmp_path) not in line and "sam2fast-" not in line
    if command == "segment":
        records = [json.loads((tmp_path / f"out/{stem}.json").read_text()) for stem in ("a", "b", "c[1]", "d")]
        assert [record["image"] for record in records] == ["photos/a.gif", "photos/b.JPG", "more/c[1].png", "d.png"]
        assert json.loads((tmp_path / "out/stdin.json").read_text())["image"] == "-"
        assert json.loads((tmp_path / "out/e_f.json").read_text())["image"] == good[4]
        assert len(names(tmp_path / "out")) == 18
    else:
        images = json.loads((tmp_path / "out/masks.json").read_text())["images"]
        found = [image["file_name"] for image in images]
        assert found == ["photos/a.gif", "photos/b.JPG", "more/c[1].png", "d.png", good[4], "-"]
    assert not [name for name in os.listdir(tmp_path) if name.startswith("sam2fast-")]


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("a/b.c.png", "b.c"),
        ("https://me:no@host/x%2Fy.jpg?z=1", "y"),
        ("https://host/a%00b/c%3Ad.jpg", "c_d"),
        ("https://host/", "download"),
    ],
)
def test_names_of_results(text, stem):
    assert InputSource(text).stem == stem and "me:no" not in str(InputSource(text))


def test_videos_of_every_kind(track, video_file, tmp_path, server, monkeypatch):
    """Each in a folder of its own; the model is loaded once for all."""
    monkeypatch.chdir(tmp_path)
    for name in ("clips/a.mp4", "clips/b.mp4", "c.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(video_file, tmp_path / name)
    server.add("/d.mp4", video_file.read_bytes())
    (tmp_path / "broken.mp4").write_text("no video")
    options = [*ONE, "--end", "1", "--format", "json", "--out", "all"]
    videos = ["clips", "?.mp4", f"{server.url}/d.mp4", "nowhere.mp4", "broken.mp4", f"{server.url}/gone.mp4"]
    ends(track(*videos, *options), 1, "3 of 7 videos had problems; all else was done")
    assert sorted(os.listdir(tmp_path / "all")) == list("abcd")
    assert len({(tmp_path / f"all/{name}/masks.jsonl").read_bytes() for name in "abcd"}) == 1
    assert json.loads((tmp_path / "all/d/track.json").read_text())["source"] == f"{server.url}/d.mp4"
    again = track(f"{server.url}/d.mp4", *options[:-1], "all/d")
    assert again.exit_code == 0 and "0 frames tracked" in again.stdout
    piped(monkeypatch, video_file.read_bytes())
    assert track("-", *options[:-1], "one").exit_code == 0 and lines_of(Path("one")) == lines_of(Path("all/a"))


@pytest.mark.parametrize(
    ("files", "videos", "skipped"),
    [
        ("a.mp4 b.mp4 folder.jpg", "a.mp4 b.mp4", "1 file (its type is .jpg; {}/folder.jpg)"),
        ("a.MOV a.jpg b.webm b.jpg", "a.MOV b.webm", "2 files (its type is .jpg; first: {}/a.jpg)"),
        ("a.mp4 0.gif", "a.mp4", "1 file (its type is .gif; {}/0.gif)"),
        ("a.mp4 b.mp4 ._a.mp4 .c.jpg", "a.mp4 b.mp4", "1 file (it is hidden; {}/._a.mp4)"),
        ("0.png 1.png .1.png a.mp4", "", "1 file (it is hidden; {0}/.1.png), 1 file (its type is .mp4; {0}/a.mp4)"),
        ("a.mp4 b.mp4", "a.mp4 b.mp4", ""),
        ("a.mp4 link.mp4", "a.mp4 link.mp4", ""),  # the link is broken, and an error of this video
        ("0.png 1.png a.mp4", "", "1 file (its type is .mp4; {}/a.mp4)"),  # one video of two frames
        ("notes.txt", "", ""),
    ],
)
def test_the_most_frequent_kind_of_file_counts(tmp_path, files, videos, skipped):
    for name in files.split():
        (tmp_path / name).symlink_to("nowhere") if name.startswith("link") else (tmp_path / name).touch()
    left_out = LeftOut()
    assert videos_in(tmp_path, left_out) == ([tmp_path / name for name in videos.split()] or [tmp_path])
    assert str(left_out) == skipped.format(tmp_path)


def test_stray_files_among_frames_are_counted_in_one_note(track, tmp_path):
    """Also in the JSON lines, though the folder is read several times."""
    folder = moving_shapes.jpeg_folder(tmp_path / "frames", moving_shapes.make_frames(3))
    Image.new("RGB", (9, 9)).save(folder / "preview.png")
    (folder / "clip.mp4").touch()
    (folder / "old.png").touch()
    result = track(folder, *ONE, "--format", "overlay", "--jsonl", "--out", tmp_path / "out")
    files = [("clip.mp4", 1), ("old.png", 2)]
    assert result.exit_code == 0 and json.loads(result.stdout.splitlines()[-1])["left_out"] == [
        {"what": "file", "why": f"its type is {Path(name).suffix}", "count": count, "first": str(folder / name)}
        for name, count in files
    ]
    assert result.stderr.count("note") == 1 and "left out" in result.stderr


def test_a_model_that_cannot_be_loaded_is_no_error_of_a_video(video_file, tmp_path):
    """It is loaded once, and reported once."""
    weights = build_sam2(nano.CONFIG, None, device="cpu").state_dict()
    images = {name: value for name, value in weights.items() if not name.startswith("memory_")}
    torch.save({"model": images}, tmp_path / "image.pt")
    shutil.copy(video_file, tmp_path / "other.mp4")
    options = [*ONE, "--model", "nano", "--checkpoint", tmp_path / "image.pt", "--out", tmp_path / "all"]
    error = assert_one_line(invoke("track", video_file, tmp_path / "other.mp4", *options))
    assert error.startswith(f"sam2fast: {tmp_path / 'image.pt'} has weights for images only: use another file")


def test_the_table_has_every_kind():
    """In docs/commands.md: the inputs that are given above."""
    page = (Path(__file__).parents[2] / "docs/commands.md").read_text(encoding="utf-8")
    lines = page.split("| input |")[1].split("\n\n")[0].splitlines()[2:]
    images, videos = zip(*(line.strip("| ").split(" | ")[1:] for line in lines), strict=True)
    kinds = ["file", "folder of images", "folder of videos", "pattern", "URL", "standard input", "several"]
    assert all(kind in line for kind, line in zip(kinds, lines, strict=True))
    assert [kind for kind, cell in zip(kinds, images, strict=True) if cell == "–"] == ["folder of videos"]
    assert "–" not in videos


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("MOST_BYTES", 1000, "has more than 1,000 bytes; download it and give the file"),
        ("MOST_SECONDS", -1.0, "takes more than -1 seconds; download it and give the file"),
    ],
)
def test_endless_addresses(run, server, monkeypatch, limit, value, message):
    monkeypatch.setattr(f"sam2fast.cli.sources.{limit}", value)
    server.add("/a.png", b"x" * 2000)
    ends(run("segment", f"{server.url}/a.png", *NANO, "--point", "1,1"), 1, f"a.png cannot be read: it {message}")


def test_images_given_to_track_are_one_error_that_names_their_folder(track, tmp_path):
    folder = moving_shapes.jpeg_folder(tmp_path / "frames", moving_shapes.make_frames(3))
    images = sorted(folder.iterdir())
    for texts in (images, [folder / f"*{images[0].suffix}"]):
        result = track(*texts, *ONE, "--out", tmp_path / "out")
        assert result.exit_code == 1
        line = assert_one_line(result)
        assert f"3 images in {folder}" in line and f"`sam2fast track {folder}`" in line
    # Videos beside images are still tracked.
    ends(track(*images, folder, *ONE, "--format", "json", "--out", tmp_path / "out"), 1, "1 of 2 videos had problems")
    assert len(lines_of(tmp_path / "out/frames")) == 3


def test_a_home_folder_that_the_shell_does_not_expand(run, make_image, tmp_path, monkeypatch):
    make_image("photo.jpg")
    monkeypatch.setenv("HOME", str(tmp_path))
    result = run("segment", "~/photo.jpg", "--point", "9,9", *NANO, "--out=~/results")
    assert result.exit_code == 0 and (tmp_path / "results/photo.json").is_file()
    missing = run("segment", "~/other.jpg", "--point", "9,9", *NANO)
    assert missing.exit_code == 1 and f"no file '{tmp_path}/other.jpg'" in missing.stderr


def test_inputs_of_another_command_name_it(run, track, make_image, tmp_path):
    assert "use `sam2fast segment`" in assert_one_line(track(make_image("photo.jpg"), *ONE))
    for name in ("scan.nii.gz", "scan.NII", "slice.dcm"):
        (tmp_path / name).touch()
        for command in OF_COMMAND:
            options = [*OF_COMMAND[command], "--out", tmp_path / "out"]
            assert "use `sam2fast track`" in assert_one_line(run(command, tmp_path / name, *NANO, *options))


@pytest.mark.parametrize("pattern", ["%03d.png", "frame%d.jpg"])
def test_a_pattern_of_numbers_names_the_folder(run, track, tmp_path, pattern):
    folder = moving_shapes.jpeg_folder(tmp_path / "frames", moving_shapes.make_frames(3))
    for result in (track(folder / pattern, *ONE), run("segment", folder / pattern, "--point", "9,9", *NANO)):
        assert f"read from their folder: give '{folder}'" in assert_one_line(result)
    with pytest.raises(FileNotFoundError, match=r"give '.*frames'"):
        open_frames(str(folder / pattern), 32)


def test_frames_whose_names_begin_with_another_number(track, tmp_path):
    """They are counted from 0, which a note and an error say."""
    for number, frame in enumerate(moving_shapes.make_frames(3), 1001):
        Image.fromarray(frame).save(tmp_path / f"shot.{number}.png")
    result = track(tmp_path, "--point", "1001,1,9,9", "--out", tmp_path / "out")
    assert result.exit_code == 1 and "last frame is 2; frame 0 is shot.1001.png" in result.stderr
    result = track(tmp_path, "--point", "1,1,9,9", "--end", "500", "--out", tmp_path / "out")
    assert result.exit_code == 0 and "note: --end 500 is beyond the last frame, 2\n" in result.stderr
    assert "note: frames are counted from 0: frame 0 is shot.1001.png\n" in result.stderr
    for number in range(3):
        (tmp_path / f"shot.{1001 + number}.png").rename(tmp_path / f"{number}.png")
    result = track(tmp_path, "--point", "1,1,9,9", "--end", "2", "--out", tmp_path / "again")
    assert result.exit_code == 0 and "frame 0 is" not in result.stderr and "beyond" not in result.stderr


def test_a_file_of_several_images_is_a_video(track, tmp_path):
    first, *others = [Image.fromarray(frame) for frame in moving_shapes.make_frames(3)]
    moved = ("animation.png", "PNG"), ("animation.avif", "AVIF"), ("webp.jpg", "WEBP"), ("gif.png", "GIF")
    for name, kind in (("pages.tif", "TIFF"), ("animation.webp", "WEBP"), *moved):
        first.save(tmp_path / name, kind, save_all=True, append_images=others, duration=100)
        result = track(tmp_path / name, *ONE, "--format", "json", "--out", tmp_path / f"out-{name}")
        assert result.exit_code == 0 and "3 frames tracked" in result.stdout, result.stderr
        first.save(tmp_path / name, kind)
        assert "is an image" in assert_one_line(track(tmp_path / name, *ONE))


def test_hidden_files_are_no_frames_or_videos_and_are_counted(track, video_file, tmp_path):
    folder = moving_shapes.jpeg_folder(tmp_path / "frames", moving_shapes.make_frames(3))
    hidden = folder / f"._{next(folder.iterdir()).name}"
    hidden.write_bytes(b"Mac OS X")
    result = track(folder, *ONE, "--format", "json", "--out", tmp_path / "out")
    assert result.exit_code == 0 and "3 frames tracked" in result.stdout
    assert result.stderr.endswith(f"note: left out: 1 file (it is hidden; {hidden})\n")
    (tmp_path / "videos").mkdir()
    shutil.copy(video_file, tmp_path / "videos/a.mp4")
    (tmp_path / "videos/._a.mp4").write_bytes(b"Mac OS X")
    result = track(tmp_path / "videos", *ONE, "--format", "json", "--out", tmp_path / "out2")
    note = f"left out: 1 file (it is hidden; {tmp_path}/videos/._a.mp4)\n"
    assert result.exit_code == 0 and result.stderr.endswith(note)
    # With boxes of a detector, one note has both.
    (tmp_path / "boxes.txt").write_text("1,1,10,10,20,20,1,-1,-1,-1\n1,2,10,10,0,0,1,-1,-1,-1\n")
    ask = ("--boxes-from", tmp_path / "boxes.txt", "--format", "json", "--jsonl", "--out", tmp_path / "out3")
    result = ok(track(tmp_path / "videos", *ask))
    assert [line["what"] for line in json.loads(result.stdout.splitlines()[-1])["left_out"]] == ["file", "box"]
    assert result.stderr.count("left out") == 1


@pytest.fixture
def linked(make_image, tmp_path) -> Path:
    """A folder with two links to one file, as of git-annex, and a link to the folder."""
    content = make_image("store/made.png").rename(tmp_path / "store/3f2a")
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "photos" / name).symlink_to(content)
    (tmp_path / "album").symlink_to("photos")
    return tmp_path / "photos"


@pytest.mark.parametrize("command", OF_COMMAND)
def test_each_link_to_a_file_is_an_input(run, linked, tmp_path, command):
    """A link to the folder makes no further inputs."""
    options = OF_COMMAND[command] if command != "find" else ["--reference", "photos/a.png", *OF_COMMAND["find"][2:]]
    line = [command, "photos", "./photos/a.png", "album", *options, *NANO]
    Image.fromarray(np.eye(64, 96, dtype=bool)).save(tmp_path / "mask.png")
    result = ok(run(*line, "--jsonl"))
    assert [json.loads(text)["image"] for text in result.stdout.splitlines()] == ["photos/a.png", "photos/b.png"]
    assert "2 of 2 images were done before" in ok(run(*line, "--resume")).stderr


def test_prompts_for_each_path_of_an_input(run, linked, tmp_path):
    boxes = {"a.png": [10, 8, 60, 50], "album/b.png": [48, 0, 88, 60], "photos/b.png": [1, 2, 30, 40]}
    entries = [{"object": f"of {name}", "image": name, "box": box} for name, box in boxes.items()]
    (tmp_path / "prompts.json").write_text(json.dumps({"prompts": entries[:2]}))
    (tmp_path / "more.json").write_text(json.dumps({"prompts": entries[2:]}))
    options = ["--prompts", "prompts.json", "--prompts", "more.json", *NANO, "--json"]
    for folders in (["photos", "album"], ["album"]):
        result = ok(run("segment", *folders, *options))
        found = [(one["image"], one["object"], one["prompts"]["box"]) for one in json.loads(result.stdout)["results"]]
        names = [f"{folders[0]}/{Path(name).name}" for name in boxes]
        expected = [(name, f"of {key}", box) for name, (key, box) in zip(names, boxes.items(), strict=True)]
        assert found == expected and result.stderr == ""


RESULTS = {
    "segment": "{}.json {}_mask.png {}_overlay.png",
    "masks": "{}_masks.png {}_overlay.png yolo/labels/{}.txt labelme/{}.json npz/{}.npz",
}


@pytest.mark.parametrize("command", RESULTS)
def test_images_that_differ_by_the_suffix(run, make_image, tmp_path, command):
    """The names of their results have the suffix; --resume finds them."""
    for name in ("IMG_1.gif", "img_1.bmp", "b.gif", "IMG_1.gif.png"):
        make_image(f"photos/{name}")
    options = [*OF_COMMAND[command], *NANO, "--resume"]
    options += ["--format", "json,layers,overlay,yolo,labelme,npz"] if command == "masks" else []
    result = ok(run(command, "photos", *options, "--jsonl"))
    note = "the suffix, which the names of results keep: the results of photos/IMG_1.gif begin with IMG_1.gif"
    assert f"3 images differ from others only by {note}" in result.stderr
    results = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")]
    assert len(results) == len({*map(str.casefold, results)})
    for stem in ("IMG_1.gif", "img_1.bmp", "b"):
        assert {name.format(stem) for name in RESULTS[command].split()} <= {*results}
    if command == "masks":
        assert {"yolo/images/IMG_1.gif.jpg", "yolo/images/img_1.bmp.bmp", "yolo/images/b.jpg"} <= {*results}
    again = ok(run(command, "photos", *options, "--jsonl"))
    assert "4 of 4 images were done before" in again.stderr
    made = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in ("b_overlay.png", "IMG_1.gif_overlay.png")}
    ok(run(command, "photos", *options))
    assert made == {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in made}
    make_image("others/b.gif")
    ends(run(command, "photos", "others", *options, "--out", "none"), 2, "others/b.gif would overwrite one another")


def test_videos_that_differ_by_the_suffix(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("clip.mp4", "clip.AVI", "v1.2.mp4"):
        (tmp_path / name).touch()
    for name in ("v1.2", "other.d"):
        (tmp_path / name).mkdir()
    given = ["clip.mp4", "clip.AVI", "v1.2.mp4", "v1.2", "other.d"]
    found, report = list_sources(given, lambda folder: [folder], "videos")
    assert [source.stem for source in found] == ["clip.mp4", "clip.AVI", "v1.2.mp4", "v1.2", "other.d"]
    assert not report.found and "3 videos differ from others only by the suffix" in capsys.readouterr().err
