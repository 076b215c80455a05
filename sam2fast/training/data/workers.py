"""Processes that make batches, where they end before their time."""

import signal
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")

# With which torch begins what it says of them; the thread pins batches to memory, and ends with the process it reads,
# and where batches are shared as named memory the name goes with the process.
SIGNS = ("DataLoader worker", "Pin memory thread", "unable to open shared memory object")
SECONDS_TO_END = 10.0  # a killed process lets go of its connections before it is gone


class LostWorkerError(RuntimeError):
    """A process that makes batches was killed, or has ended by itself."""


@contextmanager
def lost_workers_named() -> Iterator[None]:
    """Raises :class:`LostWorkerError` for what torch raises when a process that makes batches is gone.

    That is anywhere in the main thread, since torch hears of it by a signal, and not only where a batch is asked for.
    """
    try:
        yield
    except RuntimeError as error:
        said = _said(error)
        if said is None or isinstance(error, LostWorkerError):
            raise
        raise _lost(said) from error


def received(made: Iterable[Item]) -> Iterator[Item]:
    """What worker processes make, all of whose own errors have another form than those of a broken connection.

    A process that is killed while it hands a batch over may be there still when the connection ends, and then torch
    lets the error of the connection pass. How the process ended is waited for.

    Whatever is raised, the other processes are ended before.

    Raises:
        LostWorkerError: a connection has ended.
    """
    batches = iter(made)
    try:
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (OSError, EOFError) as error:  # also "got end of file during message", and files that are gone
                raise _lost(_how_it_ended(batches) or f"{type(error).__name__} amid a batch: {error}") from error
            yield batch
    except Exception as error:
        _let_go(error)
        raise
    finally:
        del batches


def _how_it_ended(batches: Iterator[Item]) -> str | None:
    """What torch would say of the first worker that has ended, or None if none has in time.

    Torch may hear of it by a signal meanwhile, and raises its error from here; but not where somebody else has taken
    the signal, or asks for the process first.
    """
    until = time.monotonic() + SECONDS_TO_END
    while True:
        for worker in getattr(batches, "_workers", ()):
            if (code := worker.exitcode) is not None:
                how = f"is killed by signal: {signal.strsignal(-code)}" if code < 0 else f"exited with code {code}"
                return f"DataLoader worker (pid {worker.pid}) {how}"
        if time.monotonic() > until:
            return None
        time.sleep(0.01)


def _let_go(error: BaseException) -> None:
    """Of what the frames that an error has left hold: torch's hold its processes.

    They would end with the next collection of garbage, which may be in a copy of this process that cannot end them.
    """
    for left in _chain(error):
        traceback.clear_frames(left.__traceback__)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that led to it, each once: after ``raise error from error`` one leads to itself."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def _lost(said: str) -> LostWorkerError:
    return LostWorkerError(
        f"a process that makes batches was lost ({said}); where memory ran out, take fewer: "
        "trainer.data.train.num_workers, trainer.data.val.num_workers"
    )


def _said(error: BaseException) -> str | None:
    """What torch says first of a worker: the later errors that it led to do not say how it ended."""
    found: str | None = None
    for cause in _chain(error):
        if str(cause).startswith(SIGNS):
            found = " ".join(str(cause).split()).rstrip(". ")
    return found
