"""A Ray for tests: two CPUs, little memory, a short folder, gone afterwards."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sam2fast.deploy.ray.ray_session import RayPlan, connected

WORKERS = 2
STORE_BYTES = 80 * 2**20  # hardly more than Ray insists on


@contextmanager
def importable() -> Iterator[None]:
    """Processes that are started inside find what the tests import, and get their share of the processors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")  # Ray's 15 beside other tests is to hardly run at all
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        yield


@contextmanager
def small_ray() -> Iterator[Path]:
    """Ray, to which this process is connected, and its folder."""
    # Not pytest's folders: paths of sockets have room for 107 characters.
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True))
        with importable():  # Ray's processes inherit it; with PYTHONPATH set, pip installs nothing for other tests
            stack.enter_context(connected(RayPlan("local", WORKERS, 0, 1, 1, STORE_BYTES, Path(folder))))
        yield Path(folder)


def slots_of(folder: Path) -> list[int]:
    """The processes of the actors of the Ray in this folder."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and _command(process).startswith("ray::WorkerActor"):
            parent = next(line for line in _status(process) if line.startswith("PPid:")).split()[1]
            if str(folder) in _command(Path("/proc", parent)):  # its raylet
                found.append(int(process.name))
    return found


def _command(process: Path) -> str:
    try:
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _status(process: Path) -> list[str]:
    try:
        return (process / "status").read_text().splitlines()
    except OSError:
        return ["PPid: 0"]
