"""What runs in a worker process: a service on one device, whose methods the parent calls through a pipe.

Nothing heavy is imported here: the number of threads has to be set before torch is loaded.
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
    """What a service raised, in a form that any process can read."""

    error: bytes | None  # the exception, pickled; None if it cannot be
    summary: str  # one line: its type and message
    trace: str  # the traceback as text


def serve(connection: Connection, setup: bytes, device: str, threads: int, is_deterministic: bool = False) -> None:
    """Makes the service, says so, then answers calls until the parent closes its end of the pipe, or is gone.

    Answers are ``(True, result)`` or ``(False, Failure)``, in the order of the calls; the first is for the making.

    Args:
        setup: pickled, a function of the device's name that makes the service.
        threads: of torch on the CPU.
        is_deterministic: all of it is done in a block of :func:`~sam2fast.utils.reproducibility.deterministic`.
    """
    leave_interrupts_to_the_parent()
    signal.signal(signal.SIGTERM, _exit)  # by which what is half-written is removed on the way
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
        settle(device, threads)
        service = factory(device)
        settle(device, threads)  # whatever was imported by then

    try:
        if not _answer(connection, make):
            return
        idle.set()
        while (call := calls.get()) is not None:
            idle.clear()
            _answer(connection, partial(called, service, call))
            idle.set()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is ending already


def leave_interrupts_to_the_parent() -> None:
    """The terminal sends Ctrl-C to all processes; the parent decides what becomes of its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # see process.interrupts_held_back
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def packed(value: Any) -> bytes:
    """A value as bytes, without memory that processes share: that would be gone with the process that made it.

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
    """Takes calls off the pipe at once: the parent never waits to send while this process waits to answer."""
    try:
        while True:
            calls.put(connection.recv_bytes())
    except (EOFError, OSError):
        calls.put(None)
        if not idle.is_set():  # work that heeds the signal itself may save what it has; any other ends here
            os.kill(os.getpid(), signal.SIGTERM)


def called(service: Any, call: bytes) -> Any:
    """Calls a method of the service, as :func:`~sam2fast.deploy.parallel.process.packed_call` has packed it."""
    name, args, kwargs = pickle.loads(call)  # noqa: S301  of this run's own processes
    return getattr(service, name)(*args, **kwargs)


def _answer(connection: Connection, function: Callable[[], Any]) -> bool:
    """Sends what a function gives or raises; whether it gave something."""
    try:
        answer, done = packed((True, function())), True
    except Exception as error:
        answer, done = packed((False, failure_of(error))), False
    try:
        connection.send_bytes(answer)
    except OSError:  # the parent is gone
        sys.exit(1)
    return done


def failure_of(error: Exception) -> Failure:
    """An exception as :class:`Failure`; called while it is handled, for its traceback."""
    kind = type(error).__name__
    summary = f"{kind}: {' '.join(str(error).split())}" if str(error) else kind
    try:
        content = packed(error)
        pickle.loads(content)  # noqa: S301  some exceptions can be written and not read
    except Exception:
        return Failure(None, summary, traceback.format_exc())
    return Failure(content, summary, traceback.format_exc())


def settle(device: str, threads: int) -> None:
    """Keeps torch to its share of the processor and to its own GPU, also where code says just ``cuda``."""
    torch = sys.modules.get("torch")
    if torch is None and device.startswith("cuda"):
        import torch
    if torch is not None:
        torch.set_num_threads(threads)
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
