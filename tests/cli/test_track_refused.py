"""Inputs that ``sam2fast track`` refuses before it writes anything."""

import json
from pathlib import Path

import click.testing
import moving_shapes
import pytest
from PIL import Image
from track_runs import (
    ONE,
)

from sam2fast.cli import main, track_run


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        ([], 2, "no prompts; give"),
        (["--point", "0,1,2"], 2, "FRAME,OBJ,X,Y[,LABEL]"),
        ([*ONE, "--format", "json,video"], 2, "no format 'video'"),
        ([*ONE, "--stream", "--reverse"], 2, "--reverse needs the whole video"),
        ([*ONE, "--max-frames", "3"], 2, "--max-frames goes with --stream"),
        ([*ONE, "--start", "5", "--end", "4"], 2, "--start 5 lies after --end 4"),
        (["--point", "99,1,5,5"], 1, "beyond the end of the video, which has 20 frames"),
        (["--point", "0,1,5,500"], 1, "outside of the image, 64x48"),
        (["--mask", "0,1,nowhere.png"], 1, "object 1 on frame 0: no file 'nowhere.png'"),
        (["--prompts", "nowhere.json"], 1, "nowhere.json"),
        ([*ONE, "--checkpoint", "nowhere.pt"], 3, "nowhere.pt"),
    ],
)
def test_refused_before_any_work(video_file, tmp_path, arguments, code, reason, monkeypatch):
    monkeypatch.setattr(track_run, "build_sam2_video_predictor", None)  # would fail
    command = ["track", str(video_file), "--model", "nano", "--out", str(tmp_path / "out"), *arguments]
    result = click.testing.CliRunner().invoke(main, command)
    assert result.exit_code == code and reason in result.stderr and result.stdout == ""
    assert not (tmp_path / "out").exists()


def test_refused_videos(track, video_file, tmp_path):
    (tmp_path / "no.mp4").write_text("no video")
    (tmp_path / "empty").mkdir()
    for video, code, reason in (
        (tmp_path / "nowhere.mp4", 1, "no video file or folder"),
        (tmp_path / "no.mp4", 1, "no.mp4"),
        (tmp_path / "empty", 1, "empty"),
        ("camera:0", 2, "give --stream"),
        ("http://x/y.mp4", 2, "give --stream"),
        ("camera:x", 2, "names no camera"),
    ):
        result = track(video, *ONE, "--out", tmp_path / "out")
        assert result.exit_code == code and reason in result.stderr, video
    assert not (tmp_path / "out").exists()


def test_refused_masks(track, video_file, tmp_path):
    Image.new("L", (64, 48)).save(tmp_path / "black.png")
    Image.new("L", (48, 64), 255).save(tmp_path / "turned.png")
    for name, reason in (("black.png", "all of its pixels are black"), ("turned.png", "is 48x64, but the video 64x48")):
        result = track(video_file, "--mask", f"0,1,{tmp_path / name}", "--out", tmp_path / "out")
        assert result.exit_code == 1 and reason in result.stderr
    assert not (tmp_path / "out").exists()


def test_results_never_over_the_video(track, video_file, tmp_path):
    folder = moving_shapes.write_folder(tmp_path / "frames", moving_shapes.make_frames(3))
    result = track(folder, *ONE, "--out", folder)
    assert result.exit_code == 2 and "would lie among the frames" in result.stderr
    inside = moving_shapes.write_video(tmp_path / "out/overlay.mp4", moving_shapes.make_frames(3))
    result = track(inside, *ONE, "--out", tmp_path / "out")
    assert result.exit_code == 2 and "would overwrite the video" in result.stderr


def test_too_many_objects_for_a_palette(track, video_file, tmp_path):
    entries = [{"frame": 0, "object": i, "points": [[5, 5]]} for i in range(256)]
    (tmp_path / "p.json").write_text(json.dumps({"prompts": entries}))
    result = track(video_file, "--prompts", tmp_path / "p.json", "--format", "png", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "256 objects" in result.stderr


def test_a_file_that_cannot_be_written(track, video_file, tmp_path):
    (tmp_path / "masks.jsonl").mkdir()
    (tmp_path / "track.json").write_text("")
    result = track(video_file, *ONE, "--end", 1, "--out", Path(tmp_path / "track.json"))
    assert result.exit_code == 1 and "is a file" in result.stderr
