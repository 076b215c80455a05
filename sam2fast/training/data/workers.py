"""Processes that make batches, where they end before their time."""

from collections.abc import Iterator
from contextlib import contextmanager

SIGN = "DataLoader worker"  # with which torch begins what it says of them


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
        if said is None:
            raise
        raise LostWorkerError(
            f"a process that makes batches was lost ({said}); where memory ran out, take fewer: "
            "trainer.data.train.num_workers, trainer.data.val.num_workers"
        ) from error


def _said(error: BaseException) -> str | None:
    """What torch says first of a worker: the later errors that it led to do not say how it ended."""
    found: str | None = None
    cause: BaseException | None = error
    while cause is not None:
        if str(cause).startswith(SIGN):
            found = " ".join(str(cause).split()).rstrip(". ")
        cause = cause.__cause__ or cause.__context__
    return found
