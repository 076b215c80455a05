"""Work for workers of a cluster, beside that of parallel_jobs."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import parallel_jobs
from waiting import wait_until


def where(predictor: dict[str, Any], number: int) -> tuple[str, str, str, bool]:
    return os.getcwd(), os.environ["SAM2FAST_MINE"], os.environ["OMP_NUM_THREADS"], "torch" in sys.modules


def in_company(predictor: dict[str, Any], folder: str) -> int:
    """The process, once there is another one that does this too; each leaves a file named after itself."""
    Path(folder, str(predictor["pid"])).touch()
    assert wait_until(lambda: len(os.listdir(folder)) > 1, 60)
    return predictor["pid"]


def killed_when_seen(predictor: dict[str, Any], job: tuple[int, str]) -> tuple[int, int]:
    """Number 2 kills the first process that does it, once it is noted in a file that number 1's answer was seen.

    A worker's last answer may be lost with it; its job is then done again.
    """
    number, folder = job
    killed = Path(folder, "killed")
    if number == 2 and not killed.exists():
        killed.touch()
        assert wait_until(Path(folder, "seen-1").exists, 60)
        os.kill(os.getpid(), signal.SIGKILL)
    return number, predictor["pid"]


def build_late(device: str, seconds: float) -> dict[str, Any]:
    time.sleep(seconds)
    return parallel_jobs.build_nothing(device)


def note_then_be_preempted(predictor: dict[str, Any], job: tuple[int, str]) -> int:
    """Leaves a file for each call; number 2 is told to make room when it is called first."""
    number, notes = job
    note = Path(notes, str(number))
    if note.exists():
        note = note.with_name(f"{number}-again")
    note.touch(exist_ok=False)
    if note.name == "2":
        from submitit.core.job_environment import JobEnvironment

        os.kill(os.getpid(), JobEnvironment._usr_sig())  # which is how SLURM says so
        time.sleep(30)
    return number


def first_quick(predictor: dict[str, Any], job: tuple[int, str]) -> None:
    """All but number 0 leave a file named after the process, then work for a long time."""
    number, notes = job
    if number:
        Path(notes, str(os.getpid())).touch()
        time.sleep(600)


def this_process(predictor: dict[str, Any], number: int) -> int:
    return os.getpid()
