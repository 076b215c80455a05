"""Jobs for several processes, one on each device, which builds its predictor once and does one job after the other."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import wait
from typing import Any, TypeVar

from sam2fast.deploy.parallel.devices import Devices, device_list, threads_for_each
from sam2fast.deploy.parallel.process import Worker, WorkerError, end_all, packed_call, raise_failure
from sam2fast.deploy.parallel.worker import Failure

Job = TypeVar("Job")

# Of each worker: the job it does, and one that waits there so that the device does not.
JOBS_AT_ONCE = 2
# In order, a job is begun at most so many jobs for each worker before the one whose result is awaited is done.
JOBS_AHEAD = 4
# So many processes may die over a job.
MOST_LOSSES = 2


@dataclass(frozen=True)
class JobResult:
    """What became of one job.

    Attributes:
        index: of the job, from 0, in the order in which jobs were given.
        job: itself.
        device: where it was done; None if it never came to that.
        value: what the function gave.
        error: one line on what went wrong, None if nothing did.
        failure: what was raised in the worker, if that is what went wrong.
    """

    index: int
    job: Any
    device: str | None
    value: Any = None
    error: str | None = None
    failure: Failure | None = None

    @property
    def done(self) -> bool:
        """Whether there is a value."""
        return self.error is None

    @property
    def trace(self) -> str | None:
        """The traceback in the worker as text, where an exception was raised."""
        return None if self.failure is None else self.failure.trace

    def unwrap(self) -> Any:
        """The value.

        Raises:
            WorkerError: the process was lost.
            Exception: what the function raised in the worker, whose traceback is the cause.
        """
        if self.failure is not None:
            raise_failure(self.failure)
        if self.error is not None:
            raise WorkerError(self.error)
        return self.value


def run_jobs(
    function: Callable[[Any, Job], Any],
    jobs: Iterable[Job],
    devices: Devices,
    build: Callable[..., Any],
    *,
    ordered: bool = False,
    threads: int | None = None,
) -> Iterator[JobResult]:
    """Does jobs on several devices, one process on each, and yields results as they come.

    Jobs are taken from the iterable when a process has room for them, and results wait in the processes until they are
    asked for; so neither piles up. A job that raises is a result with an ``error``; the others go on. When a process
    dies, its job is given to another one, once; if that dies too, or there is none, the job is a result with an
    ``error``. The processes that are left go on with the rest. When the iterator ends, is closed or is interrupted, all
    processes end.

    Args:
        function: of the predictor and a job, a module's own (it is pickled); its result must be picklable too, without
            tensors on devices: arrays, run lengths, packed bits.
        jobs: picklable.
        devices: ``"cuda:0,cuda:1"``, ``"all"`` for every CUDA device, or a list; ``["cpu", "cpu"]`` are two processes.
        build: picklable; called once in each process with ``device="cuda:1"`` and such, gives the predictor:
            ``functools.partial(build_sam2_video_predictor, config, checkpoint)``.
        ordered: yield results in the order of the jobs.
        threads: of each process on the CPU; by default an equal share of this one's.

    Raises:
        ValueError, RuntimeError: see :func:`~sam2fast.deploy.parallel.devices.device_list`.
        WorkerError: jobs are left, and no process: none could be made ready, or all have died.
    """
    names = device_list(devices)
    share = threads_for_each(len(names), threads)
    return _results(partial(Service, build, function), iter(jobs), names, share, ordered)


class Service:
    """In a worker: a predictor, and what is done with it."""

    def __init__(self, build: Callable[..., Any], function: Callable[[Any, Any], Any], device: str) -> None:
        self._predictor, self._function = build(device=device), function

    def do(self, job: Any) -> Any:
        """What the function makes of a job."""
        return self._function(self._predictor, job)


@dataclass
class Task:
    """A job as it is sent."""

    index: int
    job: Any
    call: bytes
    losses: int = 0  # processes that died over it


class Member:
    """A worker and the tasks it has; it does the first of them."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker
        self.is_ready = False
        self.tasks: deque[Task] = deque()


def _results(
    factory: Callable[[str], Any], jobs: Iterator[Any], devices: list[str], threads: int, ordered: bool
) -> Iterator[JobResult]:
    source = JobSource(jobs)
    if not source.has_next():
        return
    workers: list[Worker] = []
    try:
        for device in devices:
            workers.append(Worker(device, factory, threads))
        pool = Pool([Member(worker) for worker in workers], source, JOBS_AHEAD * len(workers) if ordered else None)
        yield from pool.in_order() if ordered else pool.results()
    finally:
        end_all(workers)


class JobSource:
    """Jobs that were not begun: those of lost processes first, then new ones."""

    def __init__(self, jobs: Iterator[Any]) -> None:
        self._jobs = enumerate(jobs)
        self._waiting: deque[tuple[int, Any]] = deque()  # at most one, looked at before it was asked for
        self._again: deque[Task] = deque()

    def has_next(self) -> bool:
        """Whether a job is left; looks at the next one."""
        if not self._again and not self._waiting:
            self._waiting.extend([pair] if (pair := next(self._jobs, None)) is not None else [])
        return bool(self._again or self._waiting)

    @property
    def next_index(self) -> int:
        return self._again[0].index if self._again else self._waiting[0][0]

    @property
    def next_losses(self) -> int:
        return self._again[0].losses if self._again else 0

    def take(self) -> "Task | JobResult":
        """The next task, or the result of a job that cannot be sent."""
        if self._again:
            return self._again.popleft()
        index, job = self._waiting.popleft()
        try:
            return Task(index, job, packed_call("do", job))
        except TypeError as error:
            return JobResult(index, job, None, error=f"TypeError: {error}")

    def put_back(self, tasks: Iterable[Task]) -> None:
        """Has tasks that somebody else did not come to done before new ones."""
        self._again = deque(sorted([*self._again, *tasks], key=lambda task: task.index))


class Pool:
    """Workers and the jobs between them.

    Args:
        members: there may be none yet.
        source: of the jobs.
        most_ahead: jobs that are begun before the one whose result is awaited in order is done, at most.
    """

    most_losses = MOST_LOSSES

    def __init__(self, members: list[Member], source: JobSource, most_ahead: int | None) -> None:
        self._members, self._source, self._most_ahead = members, source, most_ahead
        self._yielded = 0  # results that were taken in order
        self._last_loss = ""

    def in_order(self) -> Iterator[JobResult]:
        """The results by the index of their jobs."""
        early: dict[int, JobResult] = {}
        for result in self.results():
            early[result.index] = result
            while self._yielded in early:
                # Before it is yielded: while the caller works on it the devices go on with those that follow.
                self._yielded += 1
                yield early.pop(self._yielded - 1)

    def results(self) -> Iterator[JobResult]:
        """The results as they come."""
        while True:
            yield from self._hand_out()
            busy = [member for member in self._members if member.tasks or not member.is_ready]
            if not any(member.tasks for member in busy) and not self._source.has_next():
                return
            if not busy:
                raise WorkerError(f"jobs are left, and no process to do them: {self._last_loss}")
            for member in self._heard(busy):
                yield from self._hear(member)

    def _heard(self, busy: list[Member]) -> list[Member]:
        """Waits until some of them have answered, or have ended."""
        heard = wait([member.worker.connection for member in busy])
        return [member for member in busy if member.worker.connection in heard]

    def _hand_out(self) -> Iterator[JobResult]:
        """Gives jobs to processes that have room, the idle ones first."""
        for room in range(1, JOBS_AT_ONCE + 1):
            for member in self._members:
                while member.is_ready and len(member.tasks) < room and self._may_begin() and self._may_join(member):
                    task = self._source.take()
                    if isinstance(task, JobResult):
                        yield task
                    else:
                        member.tasks.append(task)
                        member.worker.send_packed(task.call)

    def _may_begin(self) -> bool:
        if not self._source.has_next():
            return False
        return self._most_ahead is None or self._source.next_index < self._yielded + self._most_ahead

    def _may_join(self, member: Member) -> bool:
        """A job that a process died over is done alone: an answer can be lost with who gave it, and be blamed."""
        return not member.tasks or not (member.tasks[-1].losses or self._source.next_losses)

    def _hear(self, member: Member) -> Iterator[JobResult]:
        """Takes one answer of a process, or notices its end."""
        device = member.worker.device
        try:
            done, value = member.worker.reply()
        except WorkerError as error:
            yield from self._lose(member, str(error))
            return
        if not member.is_ready:
            member.is_ready = done
            if not done:
                yield from self._lose(member, f"the one on {device} could not begin: {value.summary}")
            return
        task = member.tasks.popleft()
        if done:
            yield JobResult(task.index, task.job, device, value)
        else:
            yield JobResult(task.index, task.job, device, error=value.summary, failure=value)

    def _lose(self, member: Member, why: str) -> Iterator[JobResult]:
        self._members.remove(member)
        self._last_loss = why
        tasks = list(member.tasks)
        if tasks:
            tasks[0].losses += 1  # the one it was at; the others it had not begun
            if tasks[0].losses == self.most_losses or not self._members:
                task = tasks.pop(0)
                yield JobResult(task.index, task.job, member.worker.device, error=f"the job was lost: {why}")
        self._source.put_back(tasks)
