"""Several workers that do the same at the same time."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from sam2fast.parallel.process import Worker, end_all, packed_call, raise_failure


class WorkerGroup:
    """Processes with a service each, which are called together.

    When one is lost, or a call is interrupted, all of them end. Calls of several threads take turns.

    Args:
        devices: their names.
        factory: see :class:`Worker`.
        threads: of each.

    Raises:
        WorkerError: a process is lost.
        Exception: what ``factory`` raises in a process.
    """

    def __init__(self, devices: Sequence[str], factory: Callable[[str], Any], threads: int) -> None:
        self.workers: list[Worker] = []
        self.closed = False
        # From the first thing sent to the last answer: who comes in between would take another's answers.
        # Reentrant: a signal's handler may close the group in the middle of a call.
        self._turn = threading.RLock()
        self._postponed: deque[list[tuple[Worker, bytes]]] = deque()
        try:
            for device in devices:
                self.workers.append(Worker(device, factory, threads))
            _results(self._exchange([(worker, None) for worker in self.workers]))  # each says that it is ready
        except BaseException:
            self.close()
            raise

    def call(self, workers: Sequence[Worker], method: str, *args: Any, **kwargs: Any) -> list[Any]:
        """Calls a method of some of them, all at the same time; gives an answer of each.

        Raises:
            TypeError: an argument cannot be pickled.
            WorkerError: a process is lost.
            Exception: what the method raises, once all have answered.
        """
        call = packed_call(method, *args, **kwargs)
        return self.call_each([(worker, call) for worker in workers])

    def call_each(self, calls: Sequence[tuple[Worker, bytes]]) -> list[Any]:
        """The same with a call of its own for each, as :func:`packed_call` gives them."""
        with self._turn:
            while self._postponed:
                self._exchange(self._postponed.popleft())
            answers = self._exchange(calls)
        return _results(answers)

    def call_later(self, workers: Sequence[Worker], method: str, *args: Any) -> None:
        """Calls a method before the next call; nobody hears of its answer. May be called amid a call."""
        call = packed_call(method, *args)
        self._postponed.append([(worker, call) for worker in workers])

    def close(self) -> None:
        """Ends the processes, once a call of another thread is done; may be called twice."""
        with self._turn:
            self.closed = True
            end_all(self.workers)

    def _exchange(self, calls: Sequence[tuple[Worker, bytes | None]]) -> list[tuple[bool, Any]]:
        """An answer of each of them, once it is sent its call, if there is one."""
        try:
            for worker, call in calls:
                if call is not None:
                    worker.send_packed(call)
            return [worker.reply() for worker, _ in calls]
        except BaseException:  # a process that is gone, or Ctrl-C: some answers are still to come
            self.close()
            raise


def _results(answers: Sequence[tuple[bool, Any]]) -> list[Any]:
    for done, value in answers:
        if not done:
            raise_failure(value)
    return [value for _, value in answers]
