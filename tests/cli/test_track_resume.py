"""``sam2fast track`` continues interrupted runs, and only runs with the same options."""

import json

import moving_shapes
import pytest
from commands import ends
from file_contents import names
from track_runs import FRAMES, ONE, PROMPTS, interrupt_after, lines_of, middle_of_square, text

from sam2fast.cli import track_passes, track_run
from sam2fast.results import read_masks


def fail():
    raise ZeroDivisionError


# At the saved turning point, and after one backward frame.
@pytest.mark.parametrize("count", [7, 13])
def test_resumed_runs_give_the_same_bytes(track, video_file, whole, tmp_path, monkeypatch, count):
    interrupt_after(monkeypatch, count)
    command = [video_file, *PROMPTS, "--reverse", "--out", tmp_path / "out", "--format"]
    result = track(*command, "json")
    assert result.exit_code == 130
    assert f"stopped after {count} frames; run the same command again to continue" in result.stderr
    manifest = json.loads((tmp_path / "out/track.json").read_text())
    assert manifest["done"] == count and not manifest["complete"]
    assert (tmp_path / "out" / manifest["state"]).is_file()
    assert len(list(read_masks(tmp_path / "out/masks.jsonl"))) == count
    result = track(*command, "png,json")
    assert result.exit_code == 0 and f"{FRAMES - count} frames tracked" in result.stdout
    assert (tmp_path / "out/masks.jsonl").read_bytes() == (whole / "masks.jsonl").read_bytes()
    assert names(tmp_path / "out") == ["masks", "masks.jsonl", "track.json"]


@pytest.mark.parametrize(("strategy", "again"), [("samurai", "continue"), ("sam2long", "begin again")])
def test_a_strategy(track, video_file, whole, tmp_path, monkeypatch, strategy, again):
    """A stopped run goes on with it; one that decides when a pass ends begins again, with the same result."""
    command = [video_file, *PROMPTS, "--strategy", strategy, "--format", "json", "--out"]
    assert track(*command, tmp_path / "at once").exit_code == 0
    interrupt_after(monkeypatch, 8)
    ends(track(*command, tmp_path / "out"), 130, f"stopped after 8 frames; run the same command again to {again}")
    assert track(*command, tmp_path / "out").exit_code == 0
    records = [(tmp_path / folder / "masks.jsonl").read_bytes() for folder in ("at once", "out")]
    assert records[0] == records[1] != (whole / "masks.jsonl").read_bytes()


@pytest.mark.parametrize(("seconds", "saved"), [(0.0, 11), (30.0, 0)])
def test_a_failed_run_resumes_from_its_last_checkpoint(track, video_file, whole, tmp_path, monkeypatch, seconds, saved):
    monkeypatch.setattr(track_run, "SECONDS_BETWEEN_CHECKPOINTS", seconds)
    interrupt_after(monkeypatch, 12, fail)
    command = [video_file, *PROMPTS, "--reverse", "--format", "json", "--out", tmp_path / "out"]
    with pytest.raises(ZeroDivisionError):
        track(*command)
    record = tmp_path / "out/masks.jsonl"
    with open(record, "ab") as file:
        file.write(record.read_bytes().splitlines(keepends=True)[0] + b'{"frame": 99, "torn')
    result = track(*command)
    assert result.exit_code == 0 and f"{FRAMES - saved} frames tracked" in result.stdout
    assert record.read_bytes() == (whole / "masks.jsonl").read_bytes()
    assert names(tmp_path / "out") == ["masks.jsonl", "track.json"]


def test_a_finished_run_only_writes_missing_files(track, video_file, tmp_path, monkeypatch):
    command = [video_file, *ONE, "--end", 4, "--out", tmp_path / "out", "--format"]
    assert track(*command, "json").exit_code == 0
    monkeypatch.setattr(track_passes.VideoPropagation, "__init__", None)  # would fail
    result = track(*command, "overlay,png")
    assert result.exit_code == 0 and "0 frames tracked" in result.stdout
    assert names(tmp_path / "out") == ["masks", "masks.jsonl", "overlay.mp4", "track.json"]
    before = (tmp_path / "out/overlay.mp4").stat().st_mtime_ns
    (tmp_path / "out/masks/00002.png").unlink()
    assert track(*command, "overlay,png").exit_code == 0
    assert (tmp_path / "out/overlay.mp4").stat().st_mtime_ns == before
    assert names(tmp_path / "out/masks") == [f"{t:05d}.png" for t in range(5)]
    assert track(*command, "overlay", "--show-ids").exit_code == 0  # another video
    assert (tmp_path / "out/overlay.mp4").stat().st_mtime_ns > before


def test_overwrite_removes_only_what_the_command_wrote(track, video_file, tmp_path):
    out = tmp_path / "out"
    command = [video_file, "--end", 2, "--out", out]
    assert track(*command, *ONE, "--format", "json,png,coco,overlay").exit_code == 0
    (out / "notes.txt").write_text("mine"), (out / "masks/mine.png").write_text("mine")
    (out / ".overlay.mp4.123.part").write_text("left by a run that was killed")
    other = ["--point", text(1, 1, *middle_of_square(1))]
    assert track(*command, *other, "--format", "json", "--overwrite").exit_code == 0
    assert names(out) == ["masks", "masks.jsonl", "notes.txt", "track.json"]
    assert names(out / "masks") == ["mine.png"] and list(lines_of(out)) == [1, 2]


@pytest.mark.parametrize("name", ["masks.jsonl", "masks/00000.png", "state_00001.safetensors"])
def test_files_of_unknown_origin_are_not_overwritten(track, video_file, tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    ends(track(video_file, *ONE, "--end", 2, "--out", tmp_path), 1, "no track.json that describes its run")
    assert (tmp_path / name).read_text() == "mine" and not (tmp_path / "track.json").exists()


def test_damaged_record_and_manifest(track, video_file, tmp_path, monkeypatch):
    interrupt_after(monkeypatch, 4)
    command = [video_file, *ONE, "--end", 5, "--format", "json", "--out", tmp_path]
    assert track(*command).exit_code == 130
    lines = (tmp_path / "masks.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "masks.jsonl").write_bytes(b"".join(lines[:2]))
    ends(track(*command), 1, "has fewer than the 4 frames")
    (tmp_path / "track.json").write_text('{"asked": 3}')
    ends(track(*command), 1, "track.json cannot be read")
    assert track(*command, "--overwrite").exit_code == 0


def test_a_frame_that_cannot_be_read_ends_the_run(track, tmp_path):
    folder = moving_shapes.jpeg_folder(tmp_path / "frames", moving_shapes.make_frames(8))
    (folder / "00005.jpg").write_bytes((folder / "00005.jpg").read_bytes()[:400])
    for _ in range(2):  # also in the second run
        ends(track(folder, *ONE, "--out", tmp_path / "out"), 1, "frame 5", "5 frames before that are in")
        assert list(lines_of(tmp_path / "out")) == list(range(5))
        assert len(moving_shapes.decoded(tmp_path / "out/overlay.mp4")[0]) == 5


@pytest.mark.parametrize("options", [[], ["--stream"], ["--reverse"]])
def test_a_truncated_video_is_reported_at_the_end(track, video_file, tmp_path, options):
    cut = tmp_path / "cut.mkv"
    whole = moving_shapes.write_video(tmp_path / "whole.mkv", moving_shapes.make_frames(20))
    cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.6)])
    prompt = ["--point", text(3, 1, *middle_of_square(3))]
    result = track(cut, *prompt, *options, "--out", tmp_path / "out")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1 and "cut.mkv" in result.stderr
    frames = list(lines_of(tmp_path / "out"))
    assert 5 < len(frames) < 20 and frames == list(range(0 if options == ["--reverse"] else 3, frames[-1] + 1))
    assert len(moving_shapes.decoded(tmp_path / "out/overlay.mp4")[0]) == frames[-1] + 1
    again = track(cut, *prompt, *options, "--out", tmp_path / "out")
    assert again.exit_code == 1 and again.stderr == result.stderr
