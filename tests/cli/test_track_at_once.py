"""Tests that ``sam2fast track --at-once`` has the files, messages and exit codes of tracking one by one."""

import json
import os
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import moving_shapes
import pytest
from commands import act_at, assert_one_line, ends, invoke, load, ok
from file_contents import files_of, names
from killed import SECONDS_TO_END, session_of, start
from track_runs import ONE, interrupt_after, press_ctrl_c
from waiting import wait_until

from sam2fast import nano
from sam2fast.cli import track_passes, track_run, track_workers
from sam2fast.deploy.parallel import WorkerError
from sam2fast.deploy.parallel.runners import in_this_process
from sam2fast.video_io import read_frames

LENGTHS = {"a": 9, "b": 6, "c": 5}
HELD = Path(__file__).parents[1] / "support/held_track.py"
SECONDS = re.compile(r'[\d.]+ frames/s|\(load model .*?\)|"seconds": {.*?}')


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    """A folder of videos of different lengths."""
    folder = tmp_path_factory.mktemp("videos")
    for name, length in LENGTHS.items():
        moving_shapes.write_video(folder / f"{name}.mp4", moving_shapes.make_frames(length))
    return folder


@pytest.fixture(scope="module")
def whole(track, videos, tmp_path_factory) -> dict[str, bytes]:
    """The files of videos that are tracked one by one."""
    out = tmp_path_factory.mktemp("one by one")
    ok(track(videos, *ONE, "--out", out))
    return files_of(out)


@pytest.fixture
def processes(monkeypatch) -> list[int]:
    """Runs all workers in this process. Returns a list of their numbers."""
    asked: list[int] = []

    def on_devices(device: str, at_once: int, **options: bool) -> Any:
        asked.append(at_once)
        assert options == {"queue": False, "retry": False}
        return in_this_process(device)

    monkeypatch.setattr("sam2fast.cli.track.on_devices", on_devices)
    return asked


def without_seconds(text: str, out: Path) -> str:
    return SECONDS.sub("", text).replace(str(out), "OUT")


def test_worker_processes(track, videos, tmp_path):
    """Includes videos with errors."""
    (tmp_path / "text.mp4").write_text("no video")
    cut = moving_shapes.write_video(tmp_path / "cut.mkv", moving_shapes.make_frames(40))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    paths = [videos / "a.mp4", tmp_path / "text.mp4", cut, tmp_path / "nowhere.mp4", videos / "b.mp4", videos / "c.mp4"]
    results = {n: track(*paths, *ONE, "--at-once", n, "--out", tmp_path / n) for n in ("1", "2")}
    one, two = (without_seconds(result.stdout, tmp_path / n) for n, result in results.items())
    assert two == one and one.count("written to") == 4
    one, two = (without_seconds(result.stderr, tmp_path / n) for n, result in results.items())
    assert two == one and "3 of 6 videos had problems" in one and "the rest of the file is damaged" in one
    assert [result.exit_code for result in results.values()] == [1, 1]
    assert files_of(tmp_path / "2") == files_of(tmp_path / "1") != {}


def test_notes_are_printed_once(track, videos, processes, tmp_path, monkeypatch):
    check = track_run.check_against_video

    def warn(*arguments):
        warnings.warn("a warning", stacklevel=1)
        check(*arguments)

    monkeypatch.setattr(track_run, "check_against_video", warn)
    for n in (1, 2):
        result = ok(track(videos, *ONE, "--end", 0, "--format", "json", "--at-once", n, "--out", tmp_path / str(n)))
        assert result.stderr == "sam2fast: note: a warning\n"
    assert processes == [2]


def test_a_process_loads_the_model_once(track, videos, processes, tmp_path, monkeypatch):
    load, calls = track_run.load_predictor, []
    monkeypatch.setattr(track_run, "load_predictor", lambda *options: calls.append(options) or load(*options))
    for n in (1, 2):
        ok(track(videos, *ONE, "--end", 0, "--format", "json", "--at-once", n, "--out", tmp_path / str(n)))
        assert len(calls) == n


def test_lines_of_json(track, videos, whole, processes, tmp_path):
    """One line for each video, in the order of the videos, also with a progress bar."""
    (tmp_path / "text.mp4").write_text("no video")
    paths, out = [videos / "c.mp4", tmp_path / "text.mp4", videos], tmp_path / "out"
    result = track(*paths, *ONE, "--jsonl", "--progress", "--at-once", 9, "--out", out)
    c, error, a, b = map(json.loads, result.stdout.splitlines())
    assert result.exit_code == 1 and error["input"] == str(tmp_path / "text.mp4")
    assert [(line["video"], line["frames"]) for line in (c, a, b)] == [
        (str(videos / f"{name}.mp4"), LENGTHS[name]) for name in "cab"
    ]
    assert "4/4" in result.stderr and "frames:" not in result.stderr
    assert files_of(out) == whole and processes == [4]


@pytest.mark.parametrize(("count", "at_once"), [(1, 2), (2, 1)])
def test_one_process(track, videos, processes, tmp_path, count, at_once):
    paths = [videos / f"{name}.mp4" for name in "bc"][:count]
    ok(track(*paths, *ONE, "--end", 1, "--at-once", at_once, "--out", tmp_path))
    assert not processes


@pytest.mark.parametrize("is_stopped", [False, True])
def test_no_worker_is_left(track, videos, whole, processes, tmp_path, monkeypatch, is_stopped):
    """The results that arrived are printed in order. If a signal ended the workers, lost videos have no errors."""

    def lose_second(function, jobs, build):
        first, _, third = in_this_process("cpu")(function, jobs, build)
        yield from (third, first)
        if is_stopped:
            press_ctrl_c()
        raise WorkerError("no process is left")

    monkeypatch.setattr("sam2fast.cli.track.on_devices", lambda device, **_: lose_second)
    result = track(videos, *ONE, "--at-once", 2, "--out", tmp_path)
    assert re.findall("written to .*/(.)", result.stdout) == ["a", "c"]
    if is_stopped:
        ends(result, 130, "interrupted; run the same command again to continue")
    else:
        ends(result, 1, f"{videos / 'b.mp4'}: no process is left\n", "1 of 3 videos had problems")
    assert ("no process" in result.stderr) != is_stopped


def test_a_signal_before_the_first_video(track, videos, processes, tmp_path, monkeypatch):
    act_at(monkeypatch, track_workers, "_track", 1, press_ctrl_c)
    result = track(videos, *ONE, "--at-once", 2, "--out", tmp_path / "out")
    ends(result, 130, "interrupted; run the same command again to continue")
    assert result.stdout == "" and not (tmp_path / "out").exists()


def test_a_signal_of_a_worker(track, videos, processes, tmp_path, monkeypatch):
    """The other videos stop, too."""
    interrupt_after(monkeypatch, 4)
    result = track(videos, *ONE, "--at-once", 2, "--out", tmp_path)
    ends(result, 130, "stopped after 4 frames; run the same command again to continue")
    assert names(tmp_path) == ["a"] and "stopping after" not in result.stderr


def test_the_model_cannot_be_loaded(track, videos, processes, tmp_path):
    """Tests that one error ends the command, as without the option."""
    (tmp_path / "nano.safetensors").write_bytes(b"no weights")
    options = [*ONE, "--model", track.config, "--checkpoint", tmp_path / "nano.safetensors", "--device", "cpu"]
    one, two = (assert_one_line(invoke("track", videos, *options, "--at-once", n)) for n in (1, 2))
    assert one == two and "nano.safetensors" in one


def test_cameras(track, processes, tmp_path, monkeypatch):
    frames = {number: moving_shapes.make_frames(number + 3) for number in (0, 1)}
    monkeypatch.setattr(track_passes, "read_frames", lambda source, size: read_frames(iter(frames[source]), size))
    options = [*ONE, "--stream", "--format", "json", "--at-once", 2, "--out", tmp_path]
    result = ok(track("camera:0", "camera:1", *options))
    assert "3 frames tracked" in result.stdout and "4 frames tracked" in result.stdout and processes == [2]


class Held:
    """The command in a process of its own, when two videos are at the same frame."""

    def __init__(self, arguments: Sequence[Any], folder: Path) -> None:
        folder.mkdir()
        self._folder, self._stdout, self._stderr = folder, folder / "stdout.txt", folder / "stderr.txt"
        path = os.pathsep.join(filter(None, sys.path))
        command = [HELD, folder, "track", *arguments]
        with open(self._stdout, "wb") as out, open(self._stderr, "wb") as err:
            self.process = start(list(map(str, command)), out, err, env={**os.environ, "PYTHONPATH": path})
        assert wait_until(lambda: len(self.workers) == 2 or self.process.poll() is not None, SECONDS_TO_END)
        assert self.process.poll() is None, self.stderr

    @property
    def workers(self) -> list[int]:
        return [int(path.name) for path in self._folder.iterdir() if path.name.isdecimal()]

    @property
    def stderr(self) -> str:
        return self._stderr.read_text()

    def go_on(self) -> int:
        """Lets the videos go on, and returns the exit code of the command. No process is left."""
        (self._folder / "go").touch()
        code = self.process.wait(SECONDS_TO_END)
        assert wait_until(lambda: not session_of(self.process.pid))
        return code


@pytest.fixture
def held(track, videos, tmp_path):
    """The command with two of three videos, which wait. Without ``--at-once``, the same command goes on."""
    options = [
        *ONE,
        "--model",
        track.config,
        "--checkpoint",
        nano.WEIGHTS,
        "--device",
        "cpu",
        "--out",
        tmp_path / "out",
    ]
    command = Held([videos, *options, "--at-once", 2], tmp_path / "held")
    yield command
    for pid in session_of(command.process.pid):
        os.kill(pid, signal.SIGKILL)
    command.process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped(track, videos, whole, held, tmp_path, number):
    """All processes get the signal, as from a terminal or a batch system."""
    out = tmp_path / "out"
    os.killpg(held.process.pid, number)
    assert wait_until(lambda: "stopping" in held.stderr)
    assert held.go_on() == 128 + number
    again = "sam2fast: stopped after 4 frames; run the same command again to continue"
    note = "sam2fast: note: held"  # of both workers
    assert held.stderr.split("\n") == ["", "sam2fast: stopping after this frame", note, again, again, ""]
    assert names(out) == ["a", "b"]
    for name in "ab":
        manifest = load(out / name / "track.json")
        assert manifest["done"] == 4 and not manifest["complete"] and (out / name / manifest["state"]).exists()
    ok(track(videos, *ONE, "--out", out))
    assert files_of(out) == whole


def test_a_killed_worker(track, videos, whole, held, tmp_path):
    """Its video has an error, and the others are done."""
    out, pid = tmp_path / "out", held.workers[0]
    os.kill(pid, signal.SIGKILL)
    assert held.go_on() == 1
    error = f"sam2fast: {videos}/(.).mp4: the job was lost: the process {pid} on cpu was ended by signal 9"
    found = re.search(error, held.stderr)
    assert found and "sam2fast: 1 of 3 videos had problems; all else was done\n" in held.stderr
    done = {name: content for name, content in files_of(out).items() if not name.startswith(found[1])}
    assert done == {name: content for name, content in whole.items() if not name.startswith(found[1])}
    ok(track(videos, *ONE, "--out", out))
    assert files_of(out) == whole
