"""A worker process as its parent sees it."""

import multiprocessing
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from sam2fast.deploy.parallel.worker import Failure, packed, serve
from sam2fast.utils.reproducibility import is_deterministic

# Until a worker that should end is killed: time to save what it has.
SECONDS_TO_END = 10.0


class WorkerError(RuntimeError):
    """A worker process could not be made ready, or is gone; the message says which, and why."""


class RemoteTraceback(Exception):
    """The cause of an exception that comes from a worker: its traceback there, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Keeps Ctrl-C from a process that is started in the block until it has said that they are not its own.

    A terminal sends it to all processes, and those that are just being loaded would tell of it by tracebacks. This one
    has it when the block ends.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # or it is started in the block, and ends the holding back
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Worker:
    """A process with a service on one device. Calls are answered in their order.

    Args:
        device: its name.
        factory: picklable; makes the service from the device's name, in the process.
        threads: of torch on the CPU.

    Raises:
        TypeError: the factory cannot be pickled.
    """

    def __init__(self, device: str, factory: Callable[[str], Any], threads: int) -> None:
        self.device = device
        try:
            setup = packed(factory)
        except Exception as error:
            raise TypeError(
                f"what a worker is made with must be picklable, such as functools.partial of a function: {error}"
            ) from error
        # Not a fork: CUDA does not survive one, nor do threads of OpenMP.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve,
            args=(theirs, setup, device, threads, is_deterministic()),
            name=f"sam2fast on {device}",
            daemon=True,
        )
        try:
            with interrupts_held_back():
                self._process.start()
        except BaseException:
            self.connection.close()
            raise
        finally:
            theirs.close()  # so that the end of the process ends the pipe

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def send_packed(self, call: bytes) -> None:
        """Calls a method of the service, as :func:`packed_call` gives it; :meth:`reply` has the answer."""
        with suppress(OSError):  # a process that is gone is noticed when its answer is read
            self.connection.send_bytes(call)

    def reply(self) -> tuple[bool, Any]:
        """The next answer: whether the call succeeded, and its result or a :class:`Failure`.

        Raises:
            WorkerError: the process is gone.
        """
        try:
            content = self.connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise WorkerError(self.ending()) from error
        done, value = pickle.loads(content)  # noqa: S301  of this run's own processes
        return done, value

    def ending(self) -> str:
        """How the process ended, in words."""
        self._process.join(SECONDS_TO_END)
        code = self._process.exitcode
        if code is None:
            how = "does not answer"
        elif code < 0:
            how = f"was ended by signal {-code}"
            if code == -getattr(signal, "SIGKILL", 0):
                how += ", as when memory runs out"
        else:
            how = f"ended with exit code {code}"
        return f"the process {self.pid} on {self.device} {how}"

    def _let_go(self) -> None:
        self.connection.close()

    def _end(self, seconds: float) -> None:
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def end_all(workers: Sequence[Worker]) -> None:
    """Ends processes, all at once; those that do not end by themselves are killed. None is left behind."""
    for worker in workers:
        worker._let_go()
    deadline = time.monotonic() + SECONDS_TO_END
    try:
        for worker in workers:
            worker._end(max(0.0, deadline - time.monotonic()))
    except BaseException:  # a second Ctrl-C
        for worker in workers:
            worker._end(0)
        raise


def packed_call(method: str, *args: Any, **kwargs: Any) -> bytes:
    """A call as bytes.

    Raises:
        TypeError: an argument cannot be pickled.
    """
    try:
        return packed((method, args, kwargs))
    except Exception as error:
        raise TypeError(f"it cannot go to another process: {error}") from error


def raise_failure(failure: Failure) -> None:
    """Raises what a service raised, with its traceback there as the cause.

    Raises:
        WorkerError: in place of an exception that cannot be read here.
    """
    error: Exception = WorkerError(failure.summary)
    if failure.error is not None:
        error = pickle.loads(failure.error)  # noqa: S301  of this run's own processes
    raise error from RemoteTraceback(failure.trace)
