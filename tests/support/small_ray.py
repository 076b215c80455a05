"""A Ray for tests: two CPUs, little memory, a short folder, gone afterwards."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
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
        if process.name.isdecimal() and command_of(process).startswith("ray::WorkerActor"):
            with suppress(OSError):  # it may end meanwhile
                parent = re.search(r"PPid:\s*(\d+)", (process / "status").read_text())
                if parent is not None and str(folder) in command_of(Path("/proc", parent[1])):  # its raylet
                    found.append(int(process.name))
    return found


def command_of(process: Path) -> str:
    """The command line of a process in ``/proc``; empty if it has ended."""
    with suppress(OSError):
        return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
