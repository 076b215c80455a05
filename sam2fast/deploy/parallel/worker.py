"""The code of a worker process: a service on one device, whose methods the parent calls through a pipe.

This module does not import torch: the number of threads must be set before.
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

from sam2fast.utils.reproducibility import deterministic

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Failure(NamedTuple):
    """An exception of a service, in a form that any process can read."""

    error: bytes | None  # the pickled exception; None if it cannot be pickled
    summary: str  # one line: its type and message
    trace: str  # the traceback as text


def serve(connection: Connection, setup: bytes, device: str, threads: int, is_deterministic: bool = False) -> None:
    """Creates the service and answers calls until the parent closes the pipe or dies.

    Answers are ``(True, result)`` or ``(False, Failure)``, in the order of the calls. The first one is the result of
    creating the service.

    Args:
        setup: a pickled function that creates the service from the device's name.
        threads: torch's CPU threads.
        is_deterministic: run everything in a block of :func:`~sam2fast.utils.reproducibility.deterministic`.
    """
    ignore_interrupts()
    signal.signal(signal.SIGTERM, _exit)  # exits normally, so that partial files are removed
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    calls: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    idle = threading.Event()
    threading.Thread(target=_read, args=(connection, calls, idle), daemon=True).start()
    service: Any = None
    lasting = ExitStack()

    def make() -> None:
        nonlocal service
        if is_deterministic:
            lasting.enter_context(deterministic())
        factory: Callable[[str], Any] = pickle.loads(setup)  # noqa: S301  of this run's own processes
        configure_torch(device, threads)
        service = factory(device)
        configure_torch(device, threads)  # the factory may have imported torch

    try:
        if not _answer(connection, make):
            return
        idle.set()
        while (call := calls.get()) is not None:
            idle.clear()
            _answer(connection, partial(called, service, call))
            idle.set()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the process is already ending


def ignore_interrupts() -> None:
    """Ignores SIGINT: a terminal sends Ctrl-C to all processes, and the parent ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # see process.block_interrupts
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def packed(value: Any) -> bytes:
    """Pickles a value without shared memory, which would vanish with the process that created it.

    Raises:
        TypeError: it holds a tensor that is not on the CPU.
        Exception: it cannot be pickled.
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


def _exit(number: int, frame: Any) -> None:
    sys.exit(128 + number)


def _read(connection: Connection, calls: "queue.SimpleQueue[bytes | None]", idle: threading.Event) -> None:
    """Reads calls from the pipe at once, so that parent and worker never wait for each other."""
    try:
        while True:
            calls.put(connection.recv_bytes())
    except (EOFError, OSError):
        calls.put(None)
        if not idle.is_set():  # a job that handles the signal may save its work; others end here
            os.kill(os.getpid(), signal.SIGTERM)


def called(service: Any, call: bytes) -> Any:
    """Runs a call that :func:`~sam2fast.deploy.parallel.process.packed_call` has pickled."""
    name, args, kwargs = pickle.loads(call)  # noqa: S301  of this run's own processes
    return getattr(service, name)(*args, **kwargs)


def _answer(connection: Connection, function: Callable[[], Any]) -> bool:
    """Sends the result or the exception of a function; returns whether it succeeded."""
    try:
        answer, done = packed((True, function())), True
    except Exception as error:
        answer, done = packed((False, failure_of(error))), False
    try:
        connection.send_bytes(answer)
    except OSError:  # the parent has died
        sys.exit(1)
    return done


def failure_of(error: Exception) -> Failure:
    """The exception that is being handled, as :class:`Failure`."""
    kind = type(error).__name__
    summary = f"{kind}: {' '.join(str(error).split())}" if str(error) else kind
    try:
        content = packed(error)
        pickle.loads(content)  # noqa: S301  some exceptions can be pickled but not unpickled
    except Exception:
        return Failure(None, summary, traceback.format_exc())
    return Failure(content, summary, traceback.format_exc())


def configure_torch(device: str, threads: int) -> None:
    """Sets torch's number of threads and its current GPU, if torch is loaded or needed."""
    torch = sys.modules.get("torch")
    if torch is None and device.startswith("cuda"):
        import torch
    if torch is not None:
        torch.set_num_threads(threads)
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
