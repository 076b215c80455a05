"""Commands that are told to stop: what is half-written goes, one line says so, and the exit code tells the signal."""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

import click

SIGNALLED = 128  # and the signal's number, as shells have it
# The terminal is closed, or the batch system makes room. Ctrl-C is Python's own.
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class Terminated(KeyboardInterrupt):
    """A signal that ends the process was received; like Ctrl-C, it is raised wherever the program is."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def exit_code(stop: KeyboardInterrupt) -> int:
    """130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return SIGNALLED + (stop.number if isinstance(stop, Terminated) else signal.SIGINT)


def tell(line: str) -> None:
    """Prints a line to stderr, unless nobody can read it any more."""
    with if_read(sys.stderr):
        click.echo(f"sam2fast: {line}", err=True)


@contextmanager
def if_read(stream: IO[str]) -> Iterator[None]:
    """In the block, printing to a stream does nothing once its terminal is closed or its pipe has lost its reader."""
    try:
        yield
    except OSError:
        # What could not be written waits to be written when Python shuts down; it goes nowhere.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def heeded() -> Iterator[None]:
    """Inside, signals that would end the process on the spot raise :class:`Terminated` instead.

    What is ignored stays so, as under ``nohup``, and what somebody else handles is left to them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def stop(number: int, frame: Any) -> None:
        if os.getpid() != owner:  # a fork, which has nothing of its own to clean up
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise Terminated(number)

    ours = [number for number in ENDING if signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in ours:
            signal.signal(number, stop)
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def end_quietly() -> None:
    """Has Ctrl-C while Python shuts down end the process, rather than be told by tracebacks of what it came upon."""
    if threading.current_thread() is threading.main_thread():
        atexit.unregister(_obey_interrupts)  # once is enough
        atexit.register(_obey_interrupts)


def _obey_interrupts() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
