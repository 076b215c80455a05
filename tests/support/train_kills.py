"""Disturbs ``sam2fast train``, checks the files, and runs the command again."""

import multiprocessing
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import disturbed_clips
import launched
import torch
from disturbed import Disturbance, after_full_disk, after_signal, can_mount, chosen, small_disk
from killed import Ended, Fault, Sent, forked, session_of, started
from small_training import RECIPE, assert_same, overrides, reports
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from waiting import wait_until

from sam2fast.cli import main
from sam2fast.training import checkpointing
from sam2fast.training.distributed.launch import launch
from sam2fast.training.reporting import Reporter

WORKERS = "+trainer.data.train.num_workers=1"
# Files that say where or when they were written.
OF_THE_PLACE = ("config_resolved.yaml", "error.txt", ".lock")


class TrainKills:
    """See tests/faults/campaign.py; epochs of two updates with checkpoints. ``folder`` has an undisturbed run."""

    def __init__(self, folder: Path, epochs: int = 2) -> None:
        torch.set_num_threads(1)  # other threads do not survive a fork
        self.whole, self.epochs = folder / "whole", epochs
        ended = forked(self.command(self.whole), Fault(folder=self.whole))
        assert ended.code == 0 and ended.stderr == "", ended
        self.changes = ended.changes
        self.reports = reports(self.whole)
        steps = [(step, kind) for step in range(1, 2 * epochs + 1) for kind in ("train", "val")[: 2 - step % 2]]
        assert [(line["step"], line["kind"]) for line in self.reports] == steps

    def arguments(self, folder: Path, *more: str) -> list[str]:
        changes = [
            f"trainer.max_epochs={self.epochs}",
            "scratch.updates=2",
            "trainer.checkpoint.save_every_steps=1",
            "+trainer.checkpoint.save_freq=1",
            "trainer.logging.tensorboard=true",
            "trainer.accelerator=cpu",
            # Draws from the global generators, whose states are a part of checkpoints.
            "++trainer.model.image_encoder.trunk.drop_path_rate=0.3",
        ]
        own = [change for change in overrides(folder, *changes, *more) if change != "scratch.updates=6"]
        return ["train", "-c", RECIPE, "--threads", "1", "--allow-target", "disturbed_clips", *own]

    def command(self, folder: Path, *more: str) -> Callable[[], None]:
        def work() -> None:
            # Daemonic processes may have no children, such as workers.
            multiprocessing.current_process()._config["daemon"] = False
            main(self.arguments(folder, *more), prog_name="sam2fast")

        return work

    def goes_on(self, folder: Path, *more: str) -> Ended:
        """The same command again gives bitwise the results of an undisturbed run, and leaves no other files."""
        ended = forked(self.command(folder, *more))
        assert ended.code == 0 and "Traceback" not in ended.stderr, ended
        self.compare(folder)
        return ended

    def compare(self, folder: Path) -> None:
        assert reports(folder) == self.reports
        assert sorted(names(folder)) == sorted(names(self.whole))
        for path in sorted((self.whole / "checkpoints").glob("*.pt")):
            if path.name == checkpointing.PREVIOUS:  # an earlier one, where the last was written twice
                continue
            assert_same(*(torch.load(at, weights_only=True) for at in (folder / "checkpoints" / path.name, path)))

    def disturb(self, rng: random.Random, folder: Path) -> str:
        """See tests/faults/campaign.py."""
        out, more = folder / "out", (WORKERS,) if rng.random() < 0.3 else ()
        kind = rng.random()
        if kind < 0.1 and can_mount():
            return self._small_disk(rng, folder / "disk")
        if kind < 0.2:
            told = self._in_a_process(rng, out, more)
        elif kind < 0.3:
            told = killed_worker(self, out)
        else:
            told = "; ".join(self._here(rng, out, more) for _ in range(rng.randint(1, 3)))
        self.goes_on(out, *more)
        return f"{told} {'with workers' if more else ''}"

    def _here(self, rng: random.Random, out: Path, more: tuple[str, ...]) -> str:
        disturbance = chosen(rng, out, self.changes, seconds=3.0)
        ended = forked(self.command(out, *more), disturbance.fault, disturbance.sent)
        if disturbance.fault is not None and disturbance.fault.number != signal.SIGKILL:
            disturbance = disturbance._replace(is_certain=False)  # it may save a checkpoint and end with 0
        if not (more and disturbance.fault is not None and disturbance.fault.size is not None and lost_worker(ended)):
            check(disturbance, ended)
        left_whole(out)
        return f"{disturbance.told} -> {ended.code}"

    def _in_a_process(self, rng: random.Random, out: Path, more: tuple[str, ...]) -> str:
        number, after = rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGKILL]), rng.uniform(0.0, 8.0)
        sent = [Sent(number, after, to_group=rng.random() < 0.5 and number == signal.SIGINT)]
        ended = started(["-m", "sam2fast", *self.arguments(out, *more)], sent, env=with_support())
        told = f"process, {sent} -> {ended.code}"
        left_whole(out)
        assert wait_until(lambda: not session_of(ended.pid)), f"{told}: processes are left"
        after_signal(ended, [number], from_the_first_import=after < 3)
        return told

    def _small_disk(self, rng: random.Random, folder: Path) -> str:
        with small_disk(folder, rng.randint(100, 12_000)) as disk:
            told = f"small disk: {after_full_disk(forked(self.command(disk / 'out')))}"
            left_whole(disk / "out")
            subprocess.run(["mount", "-o", "remount,size=256m", str(disk)], check=True)
            self.goes_on(disk / "out")
        return told


def check(disturbance: Disturbance, ended: Ended) -> None:
    """:meth:`Disturbance.check` without the notes of a resumed run."""
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("sam2fast: note: ")]
    disturbance.check(ended._replace(stderr="\n".join(lines)))


def lost_worker(ended: Ended) -> bool:
    """Whether the limit of a write ended a worker, which passes batches in files, rather than the process."""
    how = "a process that makes batches was lost .* killed by signal: File size limit exceeded"
    return ended.code == 1 and len(ended.stderr.splitlines()) == 1 and re.search(how, ended.stderr) is not None


def killed_worker(kills: TrainKills, out: Path) -> str:
    """The line that a run prints when its worker is killed."""
    clips = f"{{_target_: disturbed_clips.KilledClips, file: {out / 'killed'}, dataset: '${{clips}}'}}"
    out.mkdir()
    ended = forked(kills.command(out, WORKERS, f"trainer.data.train.datasets.0.dataset={clips}"))
    (line,) = ended.stderr.splitlines()
    how = r"\(DataLoader worker \(pid.*\) (is killed by signal: Killed|exited unexpectedly)\); if memory ran out"
    assert ended.code == 1 and re.search(f"a process that makes batches was lost {how}", line), ended
    left_whole(out)
    (out / "killed").unlink()
    for name in ("config_resolved.yaml", "error.txt"):  # other clips, and the traceback
        (out / "logs" / name).unlink()
    return line


def left_whole(folder: Path) -> None:
    """Checks that files with final names are complete, and that there is a checkpoint once there was one."""
    files = [path for path in folder.rglob("*") if not path.name.startswith(".")] if folder.is_dir() else []
    for path in files:
        if path.suffix == ".pt":
            assert "model" in torch.load(path, weights_only=True), path
        elif path.suffix == ".jsonl":
            reports(folder)
        elif path.parent.name == "tensorboard":
            EventAccumulator(str(path)).Reload()
    written = {path.name for path in files}
    if checkpointing.PREVIOUS in written or "best.pt" in written:
        assert checkpointing.CURRENT in written


def names(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "tensorboard")
    return [str(path.relative_to(folder)) for path in files if path.name not in OF_THE_PLACE]


def with_support() -> dict[str, str]:
    path = os.pathsep.join([str(Path(disturbed_clips.__file__).parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path}


def disturbed_training(folder: Path) -> list[str]:
    """A worker is killed; then the run, during a validation and with a worker; then the run is resumed."""
    kills = TrainKills(folder, epochs=1)
    out = folder / "out"
    first = killed_worker(kills, out)
    second = forked(lambda: _killed_after_validation(kills, out))
    left_whole(out)
    third = kills.goes_on(out, WORKERS)
    return [first, f"{second.code} {second.stderr}", third.stderr]


def _killed_after_validation(kills: TrainKills, out: Path) -> None:
    """Its report is not in a checkpoint yet, and its worker is still running when the next run begins."""
    report = Reporter.report

    def report_and_end(self: Reporter, step: int, kind: str, values: dict[str, float]) -> None:
        report(self, step, kind, values)
        if kind == "val":
            if os.fork() == 0:
                _outlive()
            os.kill(os.getpid(), signal.SIGKILL)

    Reporter.report = report_and_end
    kills.command(out, WORKERS)()


def _outlive() -> None:
    """Runs as long as a worker that finishes a batch after the run was killed."""
    os.close(1), os.close(2)  # others would wait for their end
    time.sleep(10.0)
    os._exit(0)


def launch_and_be_killed(folder: Path) -> int:
    return forked(lambda: launch([launched.__file__, "abandoned", str(folder)], 2)).code
