"""More jobs for workers of a cluster, besides those of parallel_jobs."""

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
    """The process id, once a second process does the same; each writes a file of its name."""
    Path(folder, str(predictor["pid"])).touch()
    assert wait_until(lambda: len(os.listdir(folder)) > 1, 60)
    return predictor["pid"]


def killed_when_seen(predictor: dict[str, Any], job: tuple[int, str]) -> tuple[int, int]:
    """Job 2 kills the first process that runs it, after a file says that the answer of job 1 was received.

    A worker's last answer may be lost with it; then its job is retried.
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
