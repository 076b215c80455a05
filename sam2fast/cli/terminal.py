"""Prints to the terminal, and handles the signals that end a command."""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

import click

SIGNAL_EXIT_BASE = 128  # exit code of a signal minus the signal's number, as in shells
# SIGHUP: the terminal was closed. SIGTERM: a batch system ends the job. Python handles Ctrl-C itself.
TERMINATION_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
STOPPING = (signal.SIGINT, *TERMINATION_SIGNALS)
STDERR = 2


class Terminated(KeyboardInterrupt):
    """Raised when a termination signal arrives, possibly in any statement, like KeyboardInterrupt."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def exit_code(stop: KeyboardInterrupt) -> int:
    """Returns 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return SIGNAL_EXIT_BASE + (stop.number if isinstance(stop, Terminated) else signal.SIGINT)


def print_message(line: str) -> None:
    """Prints a line to stderr, or nothing if stderr is closed."""
    with ignore_closed_stream(sys.stderr):
        click.echo(f"sam2fast: {line}", err=True)


class ClosedPipeError(Exception):
    """Raised if stdout or stderr is a closed pipe. The command ends without a message.

    The class is not an OSError, because commands report an OSError as the error of an input.
    """


@contextmanager
def raise_closed_pipe() -> Iterator[None]:
    """Raises :class:`ClosedPipeError` if the block prints to a closed pipe."""
    try:
        yield
    except BrokenPipeError as error:
        raise ClosedPipeError from error


def echo(line: object, err: bool = False) -> None:
    """Calls ``click.echo``. Raises :class:`ClosedPipeError` if the stream is a closed pipe."""
    with raise_closed_pipe():
        click.echo(line, err=err)


@contextmanager
def ignore_closed_stream(stream: IO[str]) -> Iterator[None]:
    """Discards the output of the block if the terminal or pipe of the stream is closed."""
    try:
        yield
    except (OSError, ClosedPipeError):
        # At shutdown, Python writes the buffered text again. Redirects this text to /dev/null.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def handle_signals() -> Iterator[None]:
    """Makes termination signals without another handler raise :class:`Terminated` in the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def stop(number: int, frame: Any) -> None:
        if os.getpid() != owner:  # a forked process has no files to clean up
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise Terminated(number)

    ours = [number for number in TERMINATION_SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in ours:
            signal.signal(number, stop)
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def note_signals(announce: Callable[[int], None], once: bool) -> Iterator[list[int]]:
    """Yields a list of the signals (Ctrl-C, SIGTERM, SIGHUP) that arrive in the block. No other handlers run.

    Ignored signals, as under ``nohup``, remain ignored.

    Args:
        announce: Function that the handler calls with the signal's number, perhaps in the middle of a write.
        once: True to restore all handlers after the first signal, False to restore only the handler of this signal.
    """
    received: list[int] = []
    owner, before = os.getpid(), {number: signal.getsignal(number) for number in STOPPING}

    def note(number: int, frame: Any) -> None:
        if os.getpid() == owner:  # forked workers ignore signals, since the run ends all workers
            received.append(number)
            for other in ours if once else [number]:
                signal.signal(other, before[other])
            announce(number)

    ours = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    try:
        for number in ours:
            signal.signal(number, note)
        yield received
    finally:
        for number in ours:
            signal.signal(number, before[number])


def announce_stop(number: int) -> None:
    """Prints that the run stops after this frame. A handler of signals."""
    # The signal may have interrupted a write to sys.stderr, so the buffer of sys.stderr is not used.
    with suppress(OSError):
        os.write(STDERR, b"\nsam2fast: stopping after this frame\n")


@contextmanager
def report_interrupt(ctx: click.Context) -> Iterator[None]:
    """If the block is interrupted, prints how to continue, and ends the command."""
    try:
        yield
    except KeyboardInterrupt as stop:
        print_message("interrupted; run the same command again to continue")
        ctx.exit(exit_code(stop))


def exit_quietly() -> None:
    """Makes Ctrl-C during Python's shutdown end the process without a traceback."""
    if threading.current_thread() is threading.main_thread():
        atexit.unregister(_restore_default_sigint)  # so that the function is registered only once
        atexit.register(_restore_default_sigint)


def _restore_default_sigint() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
