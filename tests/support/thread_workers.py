"""Workers as threads of the test process: the same work without loading everything again."""

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import Pipe
from typing import Any

import pytest

from sam2fast.deploy.parallel import pool
from sam2fast.deploy.parallel.process import WorkerProcess
from sam2fast.deploy.parallel.worker import Service, WorkerSetup, _answer, setup_of


class WorkerThread(threading.Thread):
    """A thread with the method of a process that ends it."""

    def kill(self) -> None:
        self.join(60)
        assert not self.is_alive()


class ThreadWorker(WorkerProcess):
    """A worker in this process."""

    def __init__(self, setup: WorkerSetup) -> None:
        self.device = setup.device
        self.connection, self._theirs = Pipe()
        self._process: Any = WorkerThread(target=self._serve, args=(setup,), daemon=True)
        self._process.start()

    def _serve(self, setup: WorkerSetup) -> None:
        service: list[Service] = []
        with self._theirs, suppress(SystemExit):
            if not _answer(self._theirs, lambda: service.append(Service(setup))):
                return
            while True:
                try:
                    job = self._theirs.recv_bytes()
                except (EOFError, OSError):
                    return
                _answer(self._theirs, partial(service[0].do, job))

    def ending(self) -> str:
        return f"the thread on {self.device} has ended"


_builds: list[Callable[..., Any]] = []


def _build(index: int, device: str) -> Any:
    return _builds[index](device=device)


def _setup_of(build: Callable[..., Any], function: Callable[[Any, Any], Any], device: str, threads: int) -> WorkerSetup:
    _builds.append(build)
    return setup_of(partial(_build, len(_builds) - 1), function, device, threads)


def instead_of_processes(patch: pytest.MonkeyPatch) -> None:
    """Replaces worker processes by threads; ``build`` need not be picklable."""
    patch.setattr(pool, "setup_of", _setup_of)
    patch.setattr(pool, "WorkerProcess", ThreadWorker)
