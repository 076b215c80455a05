"""Inputs that ``sam2fast track`` refuses before it writes anything."""

import json
from pathlib import Path

import moving_shapes
import pytest
from commands import invoke
from PIL import Image
from track_runs import ONE

from sam2fast.cli import track_run


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["--prompts", "many.json", "--format", "png"], 2, "256 objects"),
        (["--mask", "0,1,black.png"], 1, "all of its pixels are black"),
        (["--mask", "0,1,turned.png"], 1, "is 48x64, but the video 64x48"),
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
    monkeypatch.chdir(tmp_path)
    Image.new("L", (64, 48)).save("black.png")
    Image.new("L", (48, 64), 255).save("turned.png")
    entries = [{"frame": 0, "object": i, "points": [[5, 5]]} for i in range(256)]
    Path("many.json").write_text(json.dumps({"prompts": entries}))
    check_refused(monkeypatch, [video_file, *arguments], code, reason)


def check_refused(monkeypatch, arguments, code, reason):
    monkeypatch.setattr(track_run, "build_sam2_video_predictor", None)  # would fail
    result = invoke("track", *arguments, "--model", "nano", "--out", "out")
    assert result.exit_code == code and reason in result.stderr and result.stdout == ""
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("video", "code", "reason"),
    [
        ("nowhere.mp4", 1, "no video file or folder"),
        ("no.mp4", 1, "no.mp4"),
        ("empty", 1, "empty"),
        ("camera:0", 2, "give --stream"),
        ("http://x/y.mp4", 2, "give --stream"),
        ("camera:x", 2, "names no camera"),
    ],
)
def test_refused_videos(tmp_path, monkeypatch, video, code, reason):
    monkeypatch.chdir(tmp_path)
    Path("no.mp4").write_text("no video")
    Path("empty").mkdir()
    check_refused(monkeypatch, [video, *ONE], code, reason)


def test_results_never_over_the_video(track, video_file, tmp_path):
    folder = moving_shapes.write_folder(tmp_path / "frames", moving_shapes.make_frames(3))
    result = track(folder, *ONE, "--out", folder)
    assert result.exit_code == 2 and "would lie among the frames" in result.stderr
    inside = moving_shapes.write_video(tmp_path / "out/overlay.mp4", moving_shapes.make_frames(3))
    result = track(inside, *ONE, "--out", tmp_path / "out")
    assert result.exit_code == 2 and "would overwrite the video" in result.stderr
