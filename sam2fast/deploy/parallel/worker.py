"""Code of a worker process, which runs the parent's jobs on one device.

This module does not import torch, because the number of threads must be set before torch is imported.
"""

import io
import os
import pickle
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from sam2fast.utils.reproducibility import deterministic, is_deterministic

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Failure(NamedTuple):
    """Exception of a service, as bytes and text for another process."""

    error: bytes | None  # pickled exception; None if the exception cannot be pickled
    summary: str  # type and message of the exception in one line
    trace: str  # traceback as text


class WorkerSetup(NamedTuple):
    """Arguments of a :class:`Service`."""

    functions: bytes  # pickled pair ``(build, function)``
    device: str
    threads: int  # number of torch's CPU threads
    is_deterministic: bool  # if True, jobs run in sam2fast.utils.reproducibility.deterministic


def setup_of(build: Callable[..., Any], function: Callable[[Any, Any], Any], device: str, threads: int) -> WorkerSetup:
    """Returns the setup of a worker.

    Raises:
        TypeError: If ``build`` or ``function`` cannot be pickled.
    """
    try:
        functions = packed((build, function))
    except Exception as error:
        raise TypeError(
            f"build and function must be picklable, such as functools.partial of a function: {error}"
        ) from error
    return WorkerSetup(functions, device, threads, is_deterministic())


class Service:
    """Builds a worker's predictor and calls the worker's function."""

    def __init__(self, setup: WorkerSetup) -> None:
        self._lasting = ExitStack()
        if setup.is_deterministic:
            self._lasting.enter_context(deterministic())
        build, self._function = pickle.loads(setup.functions)  # noqa: S301  from this run's processes
        configure_torch(setup.device, setup.threads)
        self._predictor = build(device=setup.device)
        configure_torch(setup.device, setup.threads)  # build may have imported torch

    def do(self, job: bytes) -> Any:
        """Runs the function on a pickled job."""
        return self._function(self._predictor, pickle.loads(job))  # noqa: S301  from this run's processes


def serve(connection: Connection, setup: WorkerSetup) -> None:
    """Creates the service, then runs jobs until the pipe closes. Sends :func:`answer_of` each job."""
    ignore_interrupts()
    # On SIGTERM, exits normally, so that partial files are removed.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(setup.threads)))
    jobs: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    idle = threading.Event()
    threading.Thread(target=_read, args=(connection, jobs, idle), daemon=True).start()
    services: list[Service] = []
    try:
        if not _answer(connection, lambda: services.append(Service(setup))):
            return
        idle.set()
        while (job := jobs.get()) is not None:
            idle.clear()
            _answer(connection, partial(services[0].do, job))
            idle.set()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the process is already ending


def ignore_interrupts() -> None:
    """Ignores SIGINT, because a terminal sends Ctrl-C to all processes, and the parent ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # see process.block_interrupts
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def packed(value: Any) -> bytes:
    """Pickles a value without shared memory, which would vanish with the process that created it.

    Raises:
        TypeError: If the value contains a tensor that is not on the CPU.
        Exception: If the value cannot be pickled.
    """
    buffer = io.BytesIO()
    _HostPickler(buffer, pickle.HIGHEST_PROTOCOL).dump(value)
    return buffer.getvalue()


class _HostPickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor) and value.device.type != "cpu":
            raise TypeError(
                f"a tensor on {value.device} cannot go to another process; give arrays, run lengths or CPU tensors"
            )
        return NotImplemented


def _read(connection: Connection, jobs: "queue.SimpleQueue[bytes | None]", idle: threading.Event) -> None:
    """Reads jobs from the pipe immediately, so that parent and worker never wait for each other."""
    try:
        while True:
            jobs.put(connection.recv_bytes())
    except (EOFError, OSError):
        jobs.put(None)
        if not idle.is_set():  # ends the running job; a job that handles SIGTERM may save its work
            os.kill(os.getpid(), signal.SIGTERM)


def answer_of(function: Callable[[], Any]) -> tuple[bytes, bool]:
    """Calls a function. Returns the pickled ``(True, result)`` or ``(False, Failure)``, and True on success."""
    try:
        return packed((True, function())), True
    except Exception as error:
        return packed((False, failure_of(error))), False


def _answer(connection: Connection, function: Callable[[], Any]) -> bool:
    """Calls a function and sends its result or exception. Returns True if the function succeeded."""
    answer, done = answer_of(function)
    try:
        connection.send_bytes(answer)
    except OSError:  # the parent has died
        sys.exit(1)
    return done


def failure_of(error: Exception) -> Failure:
    """Converts the current exception to a :class:`Failure`."""
    name = type(error).__name__
    summary = f"{name}: {' '.join(str(error).split())}" if str(error) else name
    try:
        content = packed(error)
        pickle.loads(content)  # noqa: S301  some exceptions can be pickled, but not unpickled
    except Exception:
        return Failure(None, summary, traceback.format_exc())
    return Failure(content, summary, traceback.format_exc())


def configure_torch(device: str, threads: int) -> None:
    """Sets torch's number of threads and current GPU. On the CPU, does nothing if torch is not imported."""
    torch = sys.modules.get("torch")
    if torch is None and device.startswith("cuda"):
        import torch
    if torch is not None:
        torch.set_num_threads(threads)
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
