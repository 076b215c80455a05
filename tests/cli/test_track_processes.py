"""``sam2fast track`` as a process: interrupted, killed and restarted."""

import functools
import json
import os
import select
import signal
import subprocess
import sys
from contextlib import contextmanager

import click.testing
import moving_shapes
import pytest
import torch

from sam2fast.cli import main
from sam2fast.video_results import read_masks

FRAMES, RECORDED = 16, 3
# The command, which saves its state after each frame, and waits after recording some frames.
COMMAND = f"""
import os
from sam2fast.cli import main, track_run
from sam2fast.cli.track_folder import RunFolder

append = RunFolder.append

def append_and_wait(folder, line):
    append(folder, line)
    if folder.done == {RECORDED}:
        os.write(1, b"recorded")
        os.read(0, 1)

RunFolder.append = append_and_wait
track_run.SECONDS_BETWEEN_CHECKPOINTS = -1.0
main(prog_name="sam2fast")
"""


@pytest.fixture(scope="module")
def video_file(tmp_path_factory):
    return moving_shapes.write_video(tmp_path_factory.mktemp("video") / "video.mp4", moving_shapes.make_frames(FRAMES))


def arguments_for(video_file, out, *options):
    x0, y0, x1, y1 = moving_shapes.square_at(0)
    box = f"0,1,{x0},{y0},{x1},{y1}"
    return ["track", str(video_file), "--box", box, "--model", "nano", "--device", "cpu", "--out", str(out), *options]


def run_here(video_file, out, *options):
    """Runs the same command in this process."""
    result = click.testing.CliRunner().invoke(main, arguments_for(video_file, out, *options))
    assert result.exit_code == 0 and result.stderr == ""
    return result.stdout


@contextmanager
def waiting(video_file, out, *options):
    """The command in a process that has recorded some frames and waits for input."""
    # Tests that run in the background of a shell ignore interrupts; child processes inherit that.
    handle = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # results depend on it
    command = [sys.executable, "-c", COMMAND, *arguments_for(video_file, out, *options)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(command, env=environment, preexec_fn=handle, **pipes)
    try:
        assert select.select([process.stdout], [], [], 100)[0], "it does not come so far"
        assert os.read(process.stdout.fileno(), 100) == b"recorded", process.communicate()
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def whole(video_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    assert f"{FRAMES} frames tracked" in run_here(video_file, out, "--format", "json")
    return (out / "masks.jsonl").read_bytes()


def test_interrupted_command(video_file, whole, tmp_path):
    out = tmp_path / "out"
    with waiting(video_file, out) as process:
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(b".", timeout=60)
    assert (
        process.returncode == 130 and b"Traceback" not in stderr and b"run the same command again to continue" in stderr
    )
    done = json.loads((out / "track.json").read_text())["done"]
    assert done == RECORDED == len(list(read_masks(out / "masks.jsonl")))
    assert len(moving_shapes.decoded(out / "overlay.mp4")[0]) == done
    assert not any(name.endswith(".part") for name in os.listdir(out))
    assert f"{FRAMES - done} frames tracked" in run_here(video_file, out)
    assert (out / "masks.jsonl").read_bytes() == whole


def test_killed_command(video_file, whole, tmp_path):
    out = tmp_path / "out"
    with waiting(video_file, out, "--format", "json"):
        pass  # kills the process
    saved = json.loads((out / "track.json").read_text())["done"]
    assert (saved, len(list(read_masks(out / "masks.jsonl")))) == (RECORDED - 1, RECORDED)
    stdout = run_here(video_file, out, "--format", "json")
    assert f"{FRAMES} in all" in stdout and f"{FRAMES - saved} frames tracked" in stdout
    assert (out / "masks.jsonl").read_bytes() == whole
    assert sorted(os.listdir(out)) == ["masks.jsonl", "track.json"]


def test_help_and_usage_errors_need_no_torch(tmp_path):
    (tmp_path / "video.mp4").write_text("no video")
    code = """
import sys
from sam2fast.cli import main
for arguments in (["--help"], ["video.mp4", "--format", "x"], ["video.mp4"], ["nowhere.mp4", "--point", "0,1,2,3"]):
    try:
        main(["track", *arguments], prog_name="sam2fast")
    except SystemExit as stop:
        print("exit", stop.code)
assert "torch" not in sys.modules and "numpy" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    exits = [line for line in done.stdout.splitlines() if line.startswith("exit")]
    assert exits == ["exit 0", "exit 2", "exit 2", "exit 1"]
    assert "masks.jsonl" in done.stdout
