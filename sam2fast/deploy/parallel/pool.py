"""Pool of processes, one per device. Each process builds its predictor once and then runs jobs.

``concurrent.futures.ProcessPoolExecutor`` would end the jobs of all its processes if one of them dies.
"""

import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, TypeVar

from sam2fast.deploy.parallel.device_list import Devices, device_list, threads_for_each
from sam2fast.deploy.parallel.process import WorkerError, WorkerProcess, end_all
from sam2fast.deploy.parallel.worker import Failure, packed, setup_of

Job = TypeVar("Job")

# Number of jobs per worker: the running job, and a queued job that keeps the device busy.
JOBS_AT_ONCE = 2
# Maximum number of jobs per worker that run ahead of the next ordered result.
JOBS_AHEAD = 4
# A job fails after this many lost processes.
MOST_LOSSES = 2


class RemoteTraceback(Exception):
    """Traceback of a worker as text. It is the cause of the worker's exception in this process."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass(frozen=True)
class JobResult:
    """Outcome of one job.

    Attributes:
        index: index of the job in the input, from 0.
        job: job.
        device: device on which it ran; None if it was never sent.
        value: result of the function.
        error: one-line description of the error; None on success.
        failure: exception in the worker, if it caused the error.
    """

    index: int
    job: Any
    device: str | None
    value: Any = None
    error: str | None = None
    failure: Failure | None = None

    @property
    def done(self) -> bool:
        """Returns True if there is a value."""
        return self.error is None

    @property
    def trace(self) -> str | None:
        """Returns the worker's traceback as text, or None without an exception."""
        return None if self.failure is None else self.failure.trace

    def unwrap(self) -> Any:
        """Returns the value.

        Raises:
            WorkerError: If the process was lost, or its exception cannot be unpickled here.
            Exception: If the function raised it in the worker. The worker's traceback is its cause.
        """
        if self.error is None:
            return self.value
        if self.failure is None:
            raise WorkerError(self.error)
        error: Exception = WorkerError(self.error)
        if self.failure.error is not None:
            error = pickle.loads(self.failure.error)  # noqa: S301  from this run's processes
        raise error from RemoteTraceback(self.failure.trace)


def run_jobs(
    function: Callable[[Any, Job], Any],
    jobs: Iterable[Job],
    devices: Devices,
    build: Callable[..., Any],
    *,
    ordered: bool = False,
    threads: int | None = None,
) -> Iterator[JobResult]:
    """Runs jobs on several devices, one process per device, and yields results as they complete.

    Neither jobs nor results accumulate: jobs are taken when a process has room for them, and results wait in the
    processes. A job that raises gives a result with an ``error``; other jobs continue. If a process dies, its job is
    retried once in another process. If that process dies too, or there is no other, the job gives a result with an
    ``error``. All processes end when the iterator ends, is closed or is interrupted.

    Args:
        function: picklable module-level function that is called with the predictor and a job. Its result must be
            picklable and have no device tensors: arrays, run lengths, packed bits.
        jobs: picklable jobs.
        devices: ``"cuda:0,cuda:1"``, ``"all"`` for every CUDA device, or a list; ``["cpu", "cpu"]`` for two processes.
        build: picklable function that returns the predictor, such as
            ``functools.partial(build_sam2_video_predictor, config, checkpoint)``. It is called once in each process
            with a device such as ``device="cuda:1"``.
        ordered: if True, yields results in the order of the jobs.
        threads: number of CPU threads per process; by default an equal part of this process's threads.

    Raises:
        ValueError, RuntimeError: see :func:`~sam2fast.deploy.parallel.device_list.device_list`.
        WorkerError: If jobs remain, but every worker died or failed to start.
        TypeError: If ``build`` or ``function`` cannot be pickled, such as a lambda.
    """
    # These raise at the call, not at the first result.
    names, source = device_list(devices), JobSource(iter(jobs))
    share = threads_for_each(len(names), threads)

    def results() -> Iterator[JobResult]:
        if not source.has_next():
            return
        workers: list[WorkerProcess] = []
        try:
            for device in names:
                workers.append(WorkerProcess(setup_of(build, function, device, share)))
            ahead = JOBS_AHEAD * len(workers) if ordered else None
            pool = Pool([PoolWorker(worker) for worker in workers], source, ahead)
            yield from pool.in_order() if ordered else pool.results()
        finally:
            end_all(workers)

    return results()


@dataclass
class QueuedJob:
    """A pickled job with its index."""

    index: int
    job: Any
    packed: bytes
    losses: int = 0  # number of processes that died during it


class PoolWorker:
    """Worker with its queue of tasks. The first task is running."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.is_ready = False
        self.tasks: deque[QueuedJob] = deque()


class JobSource:
    """Source of jobs to start: first jobs of lost processes, then new jobs."""

    def __init__(self, jobs: Iterator[Any]) -> None:
        self._jobs = enumerate(jobs)
        self._peeked: deque[tuple[int, Any]] = deque()  # at most one, read ahead by has_next()
        self._retries: deque[QueuedJob] = deque()

    def has_next(self) -> bool:
        """Returns True if a job is left. Reads one job ahead."""
        if not self._retries and not self._peeked:
            self._peeked.extend([pair] if (pair := next(self._jobs, None)) is not None else [])
        return bool(self._retries or self._peeked)

    @property
    def next_index(self) -> int:
        return self._retries[0].index if self._retries else self._peeked[0][0]

    @property
    def next_losses(self) -> int:
        return self._retries[0].losses if self._retries else 0

    def take(self) -> "QueuedJob | JobResult":
        """Returns the next task, or the result of a job that cannot be sent."""
        if self._retries:
            return self._retries.popleft()
        index, job = self._peeked.popleft()
        try:
            return QueuedJob(index, job, packed(job))
        except Exception as error:
            return JobResult(index, job, None, error=f"TypeError: it cannot go to another process: {error}")

    def put_back(self, tasks: Iterable[QueuedJob]) -> None:
        """Puts back tasks of a lost worker. They come before new tasks."""
        self._retries = deque(sorted([*self._retries, *tasks], key=lambda task: task.index))


class Pool:
    """Distributes jobs to workers. If given, at most ``most_ahead`` jobs run ahead of the next ordered result."""

    def __init__(self, members: list[PoolWorker], source: JobSource, most_ahead: int | None) -> None:
        self._members, self._source, self._most_ahead = members, source, most_ahead
        self._yielded = 0  # number of results yielded in order
        self._last_loss = ""

    def in_order(self) -> Iterator[JobResult]:
        """Yields the results in the order of the jobs."""
        early: dict[int, JobResult] = {}
        for result in self.results():
            early[result.index] = result
            while self._yielded in early:
                # Counts before the yield, so that devices continue while the caller processes the result.
                self._yielded += 1
                yield early.pop(self._yielded - 1)

    def results(self) -> Iterator[JobResult]:
        """Yields the results as they complete."""
        while True:
            yield from self._dispatch()
            busy = [member for member in self._members if member.tasks or not member.is_ready]
            if not any(member.tasks for member in busy) and not self._source.has_next():
                return
            if not busy:
                raise WorkerError(f"jobs are left, but no process to run them: {self._last_loss}")
            for member in self._wait_for_answers(busy):
                yield from self._receive(member)

    def _wait_for_answers(self, busy: list[PoolWorker]) -> list[PoolWorker]:
        """Waits until some workers have answered or ended, and returns these workers."""
        answered = wait([member.worker.connection for member in busy])
        return [member for member in busy if member.worker.connection in answered]

    def _dispatch(self) -> Iterator[JobResult]:
        """Sends jobs to workers that have room, idle workers first."""
        for room in range(1, JOBS_AT_ONCE + 1):
            for member in self._members:
                while member.is_ready and len(member.tasks) < room and self._may_start(member):
                    task = self._source.take()
                    if isinstance(task, JobResult):
                        yield task
                    else:
                        member.tasks.append(task)
                        member.worker.send(task.packed)

    def _may_start(self, member: PoolWorker) -> bool:
        if not self._source.has_next():
            return False
        if member.tasks and (member.tasks[-1].losses or self._source.next_losses):
            return False  # a retried job runs alone, so that only it can cause another loss
        return self._most_ahead is None or self._source.next_index < self._yielded + self._most_ahead

    def _receive(self, member: PoolWorker) -> Iterator[JobResult]:
        """Receives one answer of a worker, or handles its loss."""
        device = member.worker.device
        try:
            done, value = member.worker.reply()
        except WorkerError as error:
            yield from self._handle_loss(member, str(error))
            return
        if not member.is_ready:
            member.is_ready = done
            if not done:
                yield from self._handle_loss(member, f"the process on {device} could not begin: {value.summary}")
            return
        task = member.tasks.popleft()
        if done:
            yield JobResult(task.index, task.job, device, value)
        else:
            yield JobResult(task.index, task.job, device, error=value.summary, failure=value)

    def _handle_loss(self, member: PoolWorker, why: str) -> Iterator[JobResult]:
        self._members.remove(member)
        self._last_loss = why
        tasks = list(member.tasks)
        if tasks:
            tasks[0].losses += 1  # the running task; other tasks had not started
            if tasks[0].losses == MOST_LOSSES or not self._members:
                task = tasks.pop(0)
                yield JobResult(task.index, task.job, member.worker.device, error=f"the job was lost: {why}")
        self._source.put_back(tasks)
