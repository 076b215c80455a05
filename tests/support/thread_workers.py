"""Workers as threads of the test process: the same work without loading everything again."""

import pickle
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing import Pipe
from typing import Any

import pytest

from sam2fast.deploy.parallel import pool
from sam2fast.deploy.parallel.process import WorkerProcess
from sam2fast.deploy.parallel.worker import _answer, called, packed


class ThreadWorker(WorkerProcess):
    """In the place of a process; ``travels`` is whether what makes its service must be picklable, as there."""

    travels = True

    def __init__(self, device: str, factory: Callable[[str], Any], threads: int) -> None:
        self.device, self.threads = device, threads
        if self.travels:
            factory = pickle.loads(packed(factory))
        self.connection, self._theirs = Pipe()
        self._thread = threading.Thread(target=self._serve, args=(factory,), daemon=True)
        self._thread.start()

    def _serve(self, factory: Callable[[str], Any]) -> None:
        service: list[Any] = []
        with self._theirs, suppress(SystemExit):
            if not _answer(self._theirs, lambda: service.append(factory(self.device))):
                return
            while True:
                try:
                    call = self._theirs.recv_bytes()
                except (EOFError, OSError):
                    return
                _answer(self._theirs, partial(called, service[0], call))

    def ending(self) -> str:
        return f"the thread on {self.device} has ended"

    def _end(self, seconds: float) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


def instead_of_processes(patch: pytest.MonkeyPatch, travels: bool = True) -> None:
    """Replaces worker processes by threads."""
    patch.setattr(ThreadWorker, "travels", travels)
    patch.setattr(pool, "WorkerProcess", ThreadWorker)
