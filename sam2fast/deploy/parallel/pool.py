"""Pool of processes, one per device. Each process builds its predictor once and then runs jobs.

If one process dies, the jobs of other processes continue, unlike with ``concurrent.futures.ProcessPoolExecutor``.
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

# Maximum number of jobs sent to a worker: the running job and one queued job. See ``queue`` of :func:`run_jobs`.
JOBS_AT_ONCE = 2
# Maximum number of jobs per worker that run ahead of the next ordered result.
JOBS_AHEAD = 4
# Number of processes that a job may lose before the job fails.
MOST_LOSSES = 2


class RemoteTraceback(Exception):
    """Holds a worker's traceback as text. Used as the ``__cause__`` of a worker's exception in the parent process."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


@dataclass(frozen=True)
class JobResult:
    """Outcome of one job.

    Attributes:
        index: index of the job in the input, from 0.
        job: input job.
        device: device on which the job ran; None if the job was never sent to a worker.
        value: result of the function.
        error: one-line description of the error; None on success.
        failure: exception in the worker; None without an exception.
    """

    index: int
    job: Any
    device: str | None
    value: Any = None
    error: str | None = None
    failure: Failure | None = None

    @property
    def done(self) -> bool:
        """Returns True if the job succeeded."""
        return self.error is None

    @property
    def trace(self) -> str | None:
        """Returns the worker's traceback as text, or None if the worker raised no exception."""
        return None if self.failure is None else self.failure.trace

    def unwrap(self) -> Any:
        """Returns the job's value or raises the job's exception.

        Raises:
            WorkerError: If the process was lost, or the worker's exception cannot be unpickled in this process.
            Exception: If the function raised this exception in the worker. Its cause holds the worker's traceback.
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
    queue: bool = True,
    retry: bool = True,
) -> Iterator[JobResult]:
    """Runs jobs on several devices, one process per device, and yields results as they complete.

    Neither jobs nor results accumulate: a job is taken when a process can accept a job, and results wait in the
    processes. If a job raises, its result has an ``error``, and other jobs continue. If a process dies, its job is
    retried once in another process. If the second process dies, or no other process is left, the job's result has an
    ``error``. All processes end when the iterator ends, is closed or is interrupted.

    Args:
        function: picklable module-level function, called with the predictor and a job. The function must return
            picklable results without device tensors, such as arrays, run lengths or packed bits.
        jobs: picklable jobs.
        devices: ``"cuda:0,cuda:1"``, ``"all"`` for every CUDA device, or a list; ``["cpu", "cpu"]`` for two processes.
        build: picklable function that returns the predictor, such as
            ``functools.partial(build_sam2_video_predictor, config, checkpoint)``. Each process calls ``build`` once,
            with a device such as ``device="cuda:1"``.
        ordered: if True, yields results in the order of the jobs.
        threads: number of CPU threads per process; by default an equal part of this process's threads.
        queue: if True, each process gets a second job while it computes, so that the device stays busy between short
            jobs. If False, only idle processes get jobs, so that no job waits for a long one.
        retry: if True, a job whose process dies runs again in another process.

    Raises:
        ValueError, RuntimeError: see :func:`~sam2fast.deploy.parallel.device_list.device_list`.
        WorkerError: If jobs remain, but every worker died or failed to start.
        TypeError: If ``build`` or ``function`` cannot be pickled, such as a lambda.
    """
    # Devices and threads are checked at the call, not at the first result.
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
            members = [PoolWorker(worker) for worker in workers]
            pool = Pool(members, source, ahead, JOBS_AT_ONCE if queue else 1, MOST_LOSSES if retry else 1)
            yield from pool.in_order() if ordered else pool.results()
        finally:
            end_all(workers)

    return results()


@dataclass
class QueuedJob:
    """Pickled job and its index."""

    index: int
    job: Any
    packed: bytes
    losses: int = 0  # number of processes that died while they ran this job


class PoolWorker:
    """Worker and its queue of tasks. The first task of the queue is running."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.is_ready = False
        self.tasks: deque[QueuedJob] = deque()


class JobSource:
    """Queue of jobs to start. Jobs of lost processes come before new jobs."""

    def __init__(self, jobs: Iterator[Any]) -> None:
        self._jobs = enumerate(jobs)
        self._peeked: deque[tuple[int, Any]] = deque()  # zero or one job that has_next() has read
        self._retries: deque[QueuedJob] = deque()

    def has_next(self) -> bool:
        """Returns True if a job is left. May read the next job from the iterator and keep it for :meth:`take`."""
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
        """Returns the next job as a task. If the job cannot be pickled, returns a :class:`JobResult` with the error."""
        if self._retries:
            return self._retries.popleft()
        index, job = self._peeked.popleft()
        try:
            return QueuedJob(index, job, packed(job))
        except Exception as error:
            return JobResult(index, job, None, error=f"TypeError: it cannot go to another process: {error}")

    def put_back(self, tasks: Iterable[QueuedJob]) -> None:
        """Puts back tasks of a lost worker, so that these tasks run before new tasks."""
        self._retries = deque(sorted([*self._retries, *tasks], key=lambda task: task.index))


class Pool:
    """Distributes jobs to workers, at most ``jobs_at_once`` to each. A job fails if it loses ``most_losses`` workers.

    At most ``most_ahead`` jobs (None: no limit) run before the next ordered result.
    """

    def __init__(
        self,
        members: list[PoolWorker],
        source: JobSource,
        most_ahead: int | None,
        jobs_at_once: int = JOBS_AT_ONCE,
        most_losses: int = MOST_LOSSES,
    ) -> None:
        self._members, self._source = members, source
        self._most_ahead, self._jobs_at_once, self._most_losses = most_ahead, jobs_at_once, most_losses
        self._yielded = 0  # number of results yielded in order
        self._last_loss = ""

    def in_order(self) -> Iterator[JobResult]:
        """Yields the results in the order of the jobs."""
        early: dict[int, JobResult] = {}
        for result in self.results():
            early[result.index] = result
            while self._yielded in early:
                # Increases the count before the yield, so that new jobs may start when the caller asks for a result.
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
        """Sends jobs to workers until each worker has ``jobs_at_once`` jobs. Idle workers get jobs first."""
        for room in range(1, self._jobs_at_once + 1):
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
            return False  # a retried job runs alone, so that the cause of another loss is known
        return self._most_ahead is None or self._source.next_index < self._yielded + self._most_ahead

    def _receive(self, member: PoolWorker) -> Iterator[JobResult]:
        """Receives one answer of a worker, or handles the loss of the worker."""
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
            tasks[0].losses += 1  # only the first task was running when the worker was lost
            if tasks[0].losses == self._most_losses or not self._members:
                task = tasks.pop(0)
                yield JobResult(task.index, task.job, member.worker.device, error=f"the job was lost: {why}")
        self._source.put_back(tasks)
