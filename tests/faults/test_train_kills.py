"""Training processes killed at any time: the error is one line, and the next run continues bitwise."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import ranks
import train_kills
from killed import Fault, forked, is_running
from waiting import wait_until

from sam2fast.checkpoints import CheckpointError
from sam2fast.training import checkpointing
from sam2fast.training.checkpointing import lock_folder
from sam2fast.training.reporting import Reporter


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The output of one training that was disturbed in several ways, in its own process."""
    (lines,) = ranks.in_ranks(1, train_kills.disturbed_training, tmp_path_factory.mktemp("training"))
    return list(lines)


@pytest.mark.long
def test_a_killed_worker_is_named(output: list[str]) -> None:
    assert output[0].startswith("sam2fast: a process that makes batches was lost")


@pytest.mark.long
def test_a_killed_run_resumes_and_validates_once(output: list[str]) -> None:
    assert output[1:] == [f"-{signal.SIGKILL} ", ""]


def content(steps: int) -> dict[str, Any]:
    return {"model": {}, "optimizer": {}, "steps": steps, "padding": bytes(5000)}


def test_a_save_that_is_killed_anywhere_leaves_a_checkpoint(tmp_path: Path) -> None:
    """Before each file operation, and during a write."""
    faults = [Fault(change, tmp_path) for change in range(40)] + [Fault(size=size) for size in (1, 3000, 6000)]
    codes = set()
    for number, fault in enumerate(faults):
        folder = tmp_path / str(number)
        for steps in (1, 2):
            checkpointing.save_current(content(steps), folder)

        def save(folder: Path = folder) -> None:
            with lock_folder(folder):
                checkpointing.save_current(content(3), folder)

        ended = forked(save, fault)
        codes.add(ended.code)
        with lock_folder(folder):
            found = checkpointing.load_current(folder)
            assert found is not None and found["steps"] in ((3,) if ended.code == 0 else (2, 3))
            checkpointing.save_current(content(4), folder)
        assert sorted(path.name for path in folder.iterdir()) == [".lock", "checkpoint.pt", "checkpoint_previous.pt"]
        assert checkpointing.load(folder / checkpointing.PREVIOUS)["steps"] == found["steps"]
    assert codes == {0, -signal.SIGKILL, -signal.SIGXFSZ}


def test_leftovers_behind_links_are_removed(tmp_path: Path) -> None:
    """Except partial files of other processes, which may have links of the same names."""
    run, disk = tmp_path / "run", tmp_path / "disk"
    run.mkdir()
    disk.mkdir()
    (run / checkpointing.CURRENT).symlink_to("../disk/a.pt")
    (run / checkpointing.PREVIOUS).symlink_to("../disk/b.pt")
    others = {".checkpoint.pt.1.tmp", ".c.pt.1.tmp", ".a.pt.x.1.tmp", ".a.pt.tmp"}
    for name in others:
        (disk / name).touch()

    def work() -> None:
        for steps in (1, 2):
            checkpointing.save_current(content(steps), run)

    ends = [forked(work, Fault(change, disk)).code for change in range(20)]
    assert ends[0] == -signal.SIGKILL and ends[-1] == 0  # killed before every change
    left = {path.name for path in disk.iterdir()} - others
    assert any(name.startswith(".a.pt.") for name in left) and any(name.startswith(".b.pt.") for name in left)
    with lock_folder(run):
        assert {path.name for path in disk.iterdir()} <= others | {"a.pt", "b.pt"}
        assert others <= {path.name for path in disk.iterdir()}


def test_a_lock_is_not_inherited(tmp_path: Path) -> None:
    """Forked processes may outlive a killed run."""
    (read, write), (read_ready, write_ready) = os.pipe(), os.pipe()
    with lock_folder(tmp_path):
        child = os.fork()
        if child == 0:
            os.write(write_ready, b"x")
            os.read(read, 1)
            os._exit(0)
        os.read(read_ready, 1)
        with pytest.raises(CheckpointError, match="another run uses"), lock_folder(tmp_path):
            pass
    try:
        with lock_folder(tmp_path):
            pass
    finally:
        os.write(write, b"x")
        os.waitpid(child, 0)
        for end in (read, write, read_ready, write_ready):
            os.close(end)


def test_validation_results_are_reported_once(tmp_path: Path) -> None:
    reporter = Reporter(tmp_path, 0, tensorboard=False)
    for step, kind in ((1, "train"), (2, "train"), (2, "val"), (3, "train")):
        reporter.report(step, kind, {"x": 1.0})
    Reporter(tmp_path, 2, tensorboard=False, is_validated=True)
    assert reported(tmp_path) == [(1, "train"), (2, "train"), (2, "val")]
    Reporter(tmp_path, 2, tensorboard=False, is_validated=False)
    assert reported(tmp_path) == [(1, "train"), (2, "train")]


def test_a_truncated_line_does_not_affect_others(tmp_path: Path) -> None:
    Reporter(tmp_path, 0, tensorboard=False).report(1, "train", {"x": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "ki')
    Reporter(tmp_path, None, tensorboard=False).report(1, "val", {"x": 2.0})
    assert reported(tmp_path) == [(1, "train"), (1, "val")]


def reported(folder: Path) -> list[tuple[int, str]]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["kind"]) for line in lines]


@pytest.mark.long
def test_processes_stop_when_their_launcher_is_killed(tmp_path: Path) -> None:
    """Otherwise nothing could stop them, and the run could not be restarted."""
    (code,) = ranks.in_ranks(1, train_kills.launch_and_be_killed, tmp_path)
    assert code == -signal.SIGKILL
    assert wait_until(lambda: len(list(tmp_path.glob("stopped-*"))) == 2), sorted(tmp_path.iterdir())
    pids = [int(path.read_text()) for path in tmp_path.glob("ready-*")]
    assert len(pids) == 2 and wait_until(lambda: not any(is_running(pid) for pid in pids))
