"""Tasks of an array that were submitted: their answers, until all have come or none can come any more."""

import pickle
import time
from collections.abc import Iterator, Sequence
from typing import Any

from sam2fast.cluster.chunk import NOT_BEGUN, Chunk
from sam2fast.cluster.result_file import read_answers
from sam2fast.parallel.pool import JobResult, Task

SECONDS_BETWEEN_LOOKS = {"slurm": 2.0, "local": 0.1, "debug": 0.0}
# After a task's end, for its last answers to be seen here.
SECONDS_TO_APPEAR = {"slurm": 15.0, "local": 0.0, "debug": 0.0}
# Until what a run leaves is removed: submitit writes a last file when a task has ended.
SECONDS_TO_END = 10.0


class TaskArray:
    """Tasks that were submitted, and the jobs without an answer.

    Attributes:
        is_clean: nothing has gone wrong so far.
    """

    def __init__(self, cluster: str, shares: "Sequence[Share]") -> None:
        self._cluster, self._shares = cluster, shares
        self.is_clean = True

    def results(self) -> Iterator[JobResult]:
        """Of all jobs, as they come."""
        open_shares = list(self._shares)
        while open_shares:
            has_news = False
            for share in list(open_shares):
                is_over = share.is_over(SECONDS_TO_APPEAR[self._cluster])  # before its answers are read
                for result in share.news():
                    has_news = True
                    self.is_clean = self.is_clean and result.done
                    yield result
                if is_over and share.left:
                    self.is_clean = False
                    yield from share.lost()
                if not share.left:
                    open_shares.remove(share)
            if open_shares and not has_news:
                time.sleep(SECONDS_BETWEEN_LOOKS[self._cluster])

    def end(self) -> None:
        """Cancels the tasks that still have jobs, and lets the others come to their end."""
        for share in self._shares:
            if share.left:
                self.is_clean = False
                share.cancel()
        deadline = time.monotonic() + SECONDS_TO_END
        while self.is_clean and time.monotonic() < deadline and not all(share.is_over(0) for share in self._shares):
            time.sleep(SECONDS_BETWEEN_LOOKS["local"])


class Share:
    """A task, its jobs without an answer, and how far its answers were read.

    Args:
        tasks: the jobs.
        handle: submitit's job.
    """

    def __init__(self, tasks: Sequence[Task], chunk: Chunk, handle: Any) -> None:
        self.left = {task.index: task for task in tasks}
        self._answers, self._handle = chunk.answers, handle
        self._device = f"{handle.job_id}/{chunk.setup.device}"
        self._read = 0
        self._ended: float | None = None

    def is_over(self, patience: float) -> bool:
        """Whether no answer can come any more, ``patience`` seconds after the task's end."""
        if self._ended is None and self._handle.done():
            self._ended = time.monotonic()
        return self._ended is not None and time.monotonic() - self._ended >= patience

    def news(self) -> Iterator[JobResult]:
        """What has come since it was last asked."""
        for answer in read_answers(self._answers, self._read):
            self._read = answer.end
            done, value = pickle.loads(answer.content)  # noqa: S301  of this run's own processes
            if answer.job == NOT_BEGUN:
                yield from self._without(f"the task {self._handle.job_id} could not begin: {value.summary}")
            elif (task := self.left.pop(answer.job, None)) is not None:
                if done:
                    yield JobResult(task.index, task.job, self._device, value)
                else:
                    yield JobResult(task.index, task.job, self._device, error=value.summary, failure=value)

    def lost(self) -> Iterator[JobResult]:
        """The jobs that are left, once the task is over."""
        yield from self._without(
            f"the task {self._handle.job_id} ended before it ({self._handle.state}), see {self._handle.paths.stderr}; "
            "do the same again for the jobs that were not done"
        )

    def cancel(self) -> None:
        """Ends the task, without waiting for that."""
        self._handle.cancel(check=False)

    def _without(self, why: str) -> Iterator[JobResult]:
        for index in sorted(self.left):
            task = self.left.pop(index)
            yield JobResult(index, task.job, self._device, error=why)
