"""The progress of long requests, and their cancellation."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from sam2fast.demo.server.demo_errors import BadInputError, CancelledError, shortened

Report: TypeAlias = Callable[[float], None]  # takes the share that is done, 0 to 1; raises CancelledError
_JOB_ID = re.compile(r"[0-9a-zA-Z-]{8,64}")


def ignore_progress(share: float) -> None:
    """A report to nobody."""


class Jobs:
    """Requests that are being answered, by an id that their client has chosen; thread-safe."""

    def __init__(self) -> None:
        self._shares: dict[str, float] = {}
        self._cancelled: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def run(self, job: str | None) -> Iterator[Report]:
        """Keeps a job while the block runs, and gives its report; without an id nobody can ask for it.

        Raises:
            BadInputError: the id has another form, or another request has it.
            CancelledError: the client has cancelled the job; raised by the report.
        """
        if job is None:
            yield ignore_progress
            return
        if not _JOB_ID.fullmatch(job):
            raise BadInputError(f"job is {shortened(job)}; expected 8 to 64 letters, digits and hyphens")

        def report(share: float) -> None:
            with self._lock:
                if job in self._cancelled:
                    raise CancelledError("the request was cancelled")
                self._shares[job] = min(1.0, share)

        with self._lock:
            if job in self._shares:
                raise BadInputError(f"job {job} is running; each request needs an id of its own")
            self._shares[job] = 0.0
        try:
            yield report
        finally:
            with self._lock:
                del self._shares[job]
                self._cancelled.discard(job)

    def share(self, job: str) -> float | None:
        """The share of a job that is done; None if no such job is running."""
        with self._lock:
            return self._shares.get(job)

    def cancel(self, job: str) -> None:
        """Ends a job at its next report; one that is not running is not an error."""
        with self._lock:
            if job in self._shares:
                self._cancelled.add(job)
