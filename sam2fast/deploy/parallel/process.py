"""Parent's side of a worker process."""

import multiprocessing
import pickle
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from sam2fast.deploy.parallel.worker import WorkerSetup, serve
from sam2fast.utils.errors import FixableError

# Time in which workers can end before they are killed, in seconds.
SECONDS_TO_END = 10.0


class WorkerError(FixableError, RuntimeError):
    """Raised if a worker process could not start or has died."""


@contextmanager
def block_interrupts() -> Iterator[None]:
    """Blocks SIGINT in processes started inside the context, until these processes ignore SIGINT themselves.

    A terminal sends Ctrl-C to all processes, and a starting process would print a traceback. The parent process
    receives a blocked SIGINT at the end of the context.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # a resource tracker that starts inside the context would unblock SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class WorkerProcess:
    """Process that runs the jobs of a :class:`~sam2fast.deploy.parallel.worker.Service` in order."""

    def __init__(self, setup: WorkerSetup) -> None:
        self.device = setup.device
        # Uses spawn, because CUDA and OpenMP do not work in a forked process.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        name = f"sam2fast on {setup.device}"
        self._process = context.Process(target=serve, args=(theirs, setup), name=name, daemon=True)
        try:
            with block_interrupts():
                self._process.start()
        except BaseException:
            self.connection.close()
            raise
        finally:
            theirs.close()  # only the child keeps its end of the pipe, so the pipe closes when the child ends

    def send(self, job: bytes) -> None:
        """Sends a pickled job. :meth:`reply` returns the answer."""
        with suppress(OSError):  # a dead process is detected by reply()
            self.connection.send_bytes(job)

    def reply(self) -> tuple[bool, Any]:
        """Returns ``(True, result)`` or ``(False, Failure)`` of the next job.

        Raises:
            WorkerError: If the process has died.
        """
        try:
            content = self.connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise WorkerError(self.ending()) from error
        done, value = pickle.loads(content)  # noqa: S301  from this run's processes
        return done, value

    def ending(self) -> str:
        """Describes how the process ended."""
        self._process.join(SECONDS_TO_END)
        code = self._process.exitcode
        if code is None:
            how = "does not answer"
        elif code >= 0:
            how = f"ended with exit code {code}"
        else:
            how = f"was ended by signal {-code}{', as when memory runs out' if code == -9 else ''}"
        return f"the process {self._process.pid} on {self.device} {how}"


def end_all(workers: Sequence[WorkerProcess]) -> None:
    """Ends all worker processes. Kills processes that do not end within ``SECONDS_TO_END``."""
    for worker in workers:
        worker.connection.close()
    deadline = time.monotonic() + SECONDS_TO_END
    try:
        for worker in workers:
            worker._process.join(max(0.0, deadline - time.monotonic()))
    finally:  # a second Ctrl-C interrupts the wait and kills the processes
        for worker in workers:
            worker._process.kill()
            worker._process.join()
