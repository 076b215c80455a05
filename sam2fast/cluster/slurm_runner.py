"""Jobs for an array of SLURM tasks, by submitit."""

import shutil
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from sam2fast.cluster.chunk import Chunk, deal
from sam2fast.cluster.errors import ClusterError
from sam2fast.cluster.slot import device_of, setup_of
from sam2fast.cluster.slurm_array import Share, TaskArray
from sam2fast.parallel.pool import JobResult, JobSource, Task
from sam2fast.parallel.runners import Runner

CLUSTERS = ("slurm", "local", "debug")
# A task whose time is up goes on in a new one so many times, if the cluster requeues.
MOST_TIMEOUTS = 3


class SlurmPlan(NamedTuple):
    """Where tasks run, and what each has; see :func:`on_slurm`."""

    folder: Path
    cluster: str
    tasks: int
    gpus: int
    cpus: int
    hours: float
    slurm: dict[str, Any]  # what only SLURM has: partition, account, qos
    weigh: Callable[[Any], float]


def on_slurm(
    folder: str | Path,
    *,
    partition: str | None = None,
    account: str | None = None,
    qos: str | None = None,
    tasks: int = 16,
    gpus: int = 1,
    cpus: int = 4,
    hours: float = 24.0,
    cluster: str = "slurm",
    weigh: Callable[[Any], float] | None = None,
) -> Runner:
    """Does jobs as an array of SLURM tasks, each with a predictor of its own.

    All jobs are taken from the iterable first and divided between the tasks; a task does its share in turn, and results
    are given as they come in. What jobs read and write, ``folder`` and this package must be under the same paths on all
    machines. A task that is preempted, or whose time is up, is queued again and goes on behind its last job, if the
    cluster lets it. The jobs of a task that is gone for good are results with an ``error``; to do them, do the same
    again with outputs that are there skipped. When the results are closed or interrupted, the tasks are cancelled.

    Tried with submitit's local executor, not on a SLURM cluster yet.

    Args:
        folder: for submissions, answers and logs, on a file system that all machines share; what a run leaves there is
            removed unless something went wrong.
        partition, account, qos: as for ``sbatch``.
        tasks: at most.
        gpus: of each task; the device is ``cuda:0``, or ``cpu`` if there are none.
        cpus: of each task, and threads of torch.
        hours: until a task's time is up.
        cluster: ``slurm``; ``local``, processes of this machine; ``debug``, this process, whose environment changes.
        weigh: how long a job takes, in any unit, for equal shares; by default all take the same.

    Raises:
        ValueError: an argument is out of range.
        ClusterError: when results are asked for: submitit is not installed, or SLURM does not take the tasks.
    """
    for name, value in {"tasks": tasks, "cpus": cpus}.items():
        if value < 1:
            raise ValueError(f"{name} is {value}; expected 1 or more")
    if gpus < 0 or hours <= 0:
        raise ValueError(f"gpus is {gpus} and hours {hours:g}; expected 0 or more, and more than 0")
    if cluster not in CLUSTERS:
        raise ValueError(f"no cluster {cluster!r}; expected any of {', '.join(CLUSTERS)}")
    slurm = {"partition": partition, "account": account, "qos": qos}
    given = {name: value for name, value in slurm.items() if value is not None}
    plan = SlurmPlan(Path(folder).absolute(), cluster, tasks, gpus, cpus, hours, given, weigh or _all_the_same)
    return partial(_spread, plan)


def _all_the_same(job: Any) -> float:
    return 1.0


def _spread(
    plan: SlurmPlan,
    function: Callable[[Any, Any], Any],
    jobs: Iterable[Any],
    build: Callable[..., Any],
    *,
    ordered: bool = False,
) -> Iterator[JobResult]:
    results = _results(plan, function, jobs, build)
    if not ordered:
        yield from results
        return
    early: dict[int, JobResult] = {}
    count = 0
    for result in results:
        early[result.index] = result
        while count in early:
            count += 1
            yield early.pop(count - 1)


def _results(
    plan: SlurmPlan, function: Callable[[Any, Any], Any], jobs: Iterable[Any], build: Callable[..., Any]
) -> Iterator[JobResult]:
    source, tasks = JobSource(iter(jobs)), list[Task]()
    while source.has_next():
        taken = source.take()
        if isinstance(taken, JobResult):
            yield taken
        else:
            tasks.append(taken)
    if not tasks:
        return
    setup = setup_of(build, function, device_of(plan.gpus), plan.cpus)
    folder = plan.folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    folder.mkdir(parents=True)
    shares = deal(tasks, plan.tasks, plan.weigh)
    chunks = [
        Chunk(setup, [(task.index, task.call) for task in share], folder / f"answers-{i}")
        for i, share in enumerate(shares)
    ]
    try:
        handles = _submit(plan, folder, chunks)
    except BaseException:
        _remove(folder)
        raise
    array = TaskArray(plan.cluster, [Share(*each) for each in zip(shares, chunks, handles, strict=True)])
    try:
        yield from array.results()
    finally:
        array.end()
        if array.is_clean:
            _remove(folder)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # other runs have theirs there
        folder.parent.rmdir()


def _submit(plan: SlurmPlan, folder: Path, chunks: Sequence[Chunk]) -> list[Any]:
    """submitit's handle of each chunk's task."""
    try:
        import submitit
    except ImportError as error:
        raise ClusterError(f'submitit cannot be loaded; pip install "sam2fast[cluster]" ({error})') from error
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=plan.cluster, slurm_max_num_timeout=MOST_TIMEOUTS)
        executor.update_parameters(
            name="sam2fast",
            timeout_min=max(1, round(60 * plan.hours)),
            cpus_per_task=plan.cpus,
            gpus_per_node=plan.gpus or None,
            slurm_array_parallelism=len(chunks),
            **{f"slurm_{name}": value for name, value in plan.slurm.items()},
        )
        with _interruptible(), executor.batch():
            return [executor.submit(chunk) for chunk in chunks]
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        reason = " ".join(str(error).split())
        raise ClusterError(f"the tasks could not be submitted to {plan.cluster}: {reason}") from error


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C is not ignored by processes started in this block.

    submitit's local tasks are cancelled by it, and would inherit that this process ignores it, as one in the background
    of a script does.
    """
    is_ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if not is_ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
