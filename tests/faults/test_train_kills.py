"""Training processes killed at any time: the error is one line, and the next run continues bitwise."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import ranks
import train_kills
from killed import Fault, forked
from waiting import is_alive, wait_until

from sam2fast.checkpoints import CheckpointError
from sam2fast.training import checkpointing
from sam2fast.training.checkpointing import lock_folder
from sam2fast.training.reporting import Reporter


def test_a_training_disturbed_in_several_ways(tmp_path: Path) -> None:
    """A killed worker is named; a killed run resumes, and validates once."""
    (output,) = ranks.in_ranks(1, train_kills.disturbed_training, tmp_path)
    assert output[0].startswith("sam2fast: a process that makes batches was lost")
    assert output[1:] == [f"-{signal.SIGKILL} ", ""]


def content(steps: int) -> dict[str, Any]:
    return {"model": {}, "optimizer": {}, "steps": steps, "padding": bytes(5000)}


def test_leftovers_behind_links_are_removed(tmp_path: Path) -> None:
    """Except partial files of other processes, which may have links of the same names."""
    run, disk = tmp_path / "run", tmp_path / "disk"
    run.mkdir()
    disk.mkdir()
    (run / checkpointing.CURRENT).symlink_to("../disk/a.pt")
    (run / checkpointing.PREVIOUS).symlink_to("../disk/b.pt")
    others = {".checkpoint.pt.1.part", ".c.pt.1.part", ".a.pt.x.1.part", ".a.pt.part"}
    for name in others:
        (disk / name).touch()

    def work() -> None:
        for steps in (1, 2):
            checkpointing.save_current(content(steps), run)

    changes = 0  # killed before every change
    while changes < 20 and forked(work, Fault(changes, disk)).code == -signal.SIGKILL:
        changes += 1
    assert 0 < changes < 20
    left = {path.name for path in disk.iterdir()} - others
    assert any(name.startswith(".a.pt.") for name in left) and any(name.startswith(".b.pt.") for name in left)
    with lock_folder(run):
        assert {path.name for path in disk.iterdir()} <= others | {"a.pt", "b.pt"}
        assert others <= {path.name for path in disk.iterdir()}


def test_one_run_at_a_time_and_forked_processes_hold_no_lock(tmp_path: Path) -> None:
    """Forked workers may outlive a killed run."""

    def other_run() -> int:
        try:
            with lock_folder(tmp_path):
                return 0
        except CheckpointError as error:
            return 3 if "another run uses" in str(error) else 4

    (read, write), (read_ready, write_ready) = os.pipe(), os.pipe()
    with lock_folder(tmp_path):
        child = os.fork()
        if child == 0:
            os.write(write_ready, b"x")
            os.read(read, 1)
            os._exit(0)
        os.read(read_ready, 1)
        assert forked(other_run).code == 3
    try:
        assert forked(other_run).code == 0
    finally:
        os.write(write, b"x")
        os.waitpid(child, 0)
        for end in (read, write, read_ready, write_ready):
            os.close(end)


def test_results_are_reported_once_and_without_truncated_lines(tmp_path: Path) -> None:
    def reported() -> list[tuple[int, str]]:
        lines = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
        return [(line["step"], line["kind"]) for line in lines]

    steps = [(1, "train"), (2, "train"), (2, "val")]
    reporter = Reporter(tmp_path, 0, tensorboard=False)
    for step, kind in (*steps, (3, "train")):
        reporter.report(step, kind, {"x": 1.0})
    Reporter(tmp_path, 2, tensorboard=False, is_validated=True)
    assert reported() == steps
    Reporter(tmp_path, 2, tensorboard=False, is_validated=False)
    assert reported() == steps[:2]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "ki')
    (tmp_path / ".metrics.jsonl.1.part").touch()  # of a killed process
    Reporter(tmp_path, None, tensorboard=False).report(2, "val", {"x": 2.0})
    assert reported() == steps and [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_processes_stop_when_their_launcher_is_killed(tmp_path: Path) -> None:
    """Otherwise nothing could stop them, and the run could not be restarted."""
    (code,) = ranks.in_ranks(1, train_kills.launch_and_be_killed, tmp_path)
    assert code == -signal.SIGKILL
    assert wait_until(lambda: len(list(tmp_path.glob("stopped-*"))) == 2), sorted(tmp_path.iterdir())
    pids = [int(path.read_text()) for path in tmp_path.glob("ready-*")]
    assert len(pids) == 2 and wait_until(lambda: not any(is_alive(pid) for pid in pids))
