"""Several workers that do the same at the same time."""

from collections.abc import Callable, Sequence
from typing import Any

from sam2fast.parallel.process import Worker, end_all, packed_call, raise_failure


class WorkerGroup:
    """Processes with a service each, which are called together.

    When one is lost, or a call is interrupted, all of them end.

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
        try:
            for device in devices:
                self.workers.append(Worker(device, factory, threads))
            self.gather(self.workers)  # each says that it is ready
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
        for worker in workers:
            worker.send_packed(call)
        return self.gather(workers)

    def gather(self, workers: Sequence[Worker]) -> list[Any]:
        """An answer of each to what it was sent; raises as :meth:`call`, which is then free to call again."""
        try:
            answers = [worker.reply() for worker in workers]
        except BaseException:  # a process that is gone, or Ctrl-C: some answers are still to come
            self.close()
            raise
        for done, value in answers:
            if not done:
                raise_failure(value)
        return [value for _, value in answers]

    def close(self) -> None:
        """Ends the processes; may be called twice."""
        self.closed = True
        end_all(self.workers)
