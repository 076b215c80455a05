"""A run as a job of SLURM with a task for each process, by submitit. Tried with submitit's local executor alone."""

import os
import random
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PORTS = (10000, 65000)
MOST_TIMEOUTS = 1000  # a run goes on in a new job as often as its time is up
SECONDS_TO_SAVE = 300  # before a job's time is up


class SubmissionError(RuntimeError):
    """The job could not be submitted; the message says why."""


@dataclass(frozen=True)
class Job:
    """What is asked for; partition, account and qos as for ``sbatch``."""

    folder: Path  # for logs and submissions, shared by all machines
    nodes: int = 1
    processes: int = 1  # on each node, each with a GPU
    gpus: bool = True
    cpus: int = 10  # of each process
    hours: float = 24.0
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    cluster: str = "slurm"


@dataclass(frozen=True)
class ClusterRun:
    """One process of a run, which submitit calls without arguments, and calls again after it was preempted.

    Attributes:
        run: does the run, asking the function it gets after every update whether it is to save and return.
        folder: where relative paths begin.
        port: of the first node, where processes meet.
    """

    run: Callable[[Callable[[], bool]], None]
    folder: Path
    port: int

    def __call__(self) -> None:
        import submitit

        place = submitit.JobEnvironment()
        os.chdir(self.folder)
        os.environ.update(
            RANK=str(place.global_rank),
            LOCAL_RANK=str(place.local_rank),
            WORLD_SIZE=str(place.num_tasks),
            MASTER_ADDR=place.hostnames[0] if place.num_nodes > 1 else "127.0.0.1",
            MASTER_PORT=str(self.port),
        )
        with _Interruption() as interruption:
            self.run(interruption.is_asked)
        # The first process has the job queued again, once all have saved.
        interruption.go_on()

    def checkpoint(self) -> Any:
        """What submitit calls after a preemption or at the time limit, and queues again: the same call."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class _Interruption:
    """Puts off what submitit does when the job is to make room, until the run has saved.

    SLURM says so by the signal that submitit has asked for, upon which submitit queues the job again; or, as clusters
    do by default on preemption, by SIGTERM, upon which the job ends and SLURM queues it again where it is set up to.
    """

    def __init__(self) -> None:
        preempted = getattr(signal, "SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2"))
        self._numbers = tuple(dict.fromkeys((preempted, signal.SIGTERM)))  # what queues again comes first
        self._asked: set[int] = set()
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "_Interruption":
        self._handlers = {number: signal.signal(number, self._note) for number in self._numbers}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self._asked.add(number)

    def is_asked(self) -> bool:
        return bool(self._asked)

    def go_on(self) -> None:
        """Does what submitit would have done at once; of two signals for the first alone."""
        for number in self._numbers:
            if number in self._asked:
                if callable(self._handlers[number]):
                    self._handlers[number](number, None)
                return


def submit(job: Job, run: Callable[[Callable[[], bool]], None]) -> Any:
    """Submits a run; returns submitit's job, whose ``job_id`` and ``paths`` say where it is.

    Args:
        run: picklable; see :class:`ClusterRun`.

    Raises:
        SubmissionError: submitit is not installed, or SLURM does not take the job.
    """
    try:
        import submitit
    except ImportError as error:
        raise SubmissionError(f'submitit cannot be loaded; pip install "sam2fast[cluster]" ({error})') from error
    asked = {"partition": job.partition, "account": job.account, "qos": job.qos}
    try:
        executor = submitit.AutoExecutor(folder=job.folder, cluster=job.cluster, slurm_max_num_timeout=MOST_TIMEOUTS)
        executor.update_parameters(
            name="sam2fast-train",
            nodes=job.nodes,
            tasks_per_node=job.processes,
            gpus_per_node=job.processes if job.gpus else None,
            cpus_per_task=job.cpus,
            timeout_min=max(1, round(60 * job.hours)),
            slurm_signal_delay_s=min(SECONDS_TO_SAVE, round(1800 * job.hours)),
            slurm_srun_args=["--kill-on-bad-exit=1"],  # without one of its processes a run cannot go on
            **{f"slurm_{name}": value for name, value in asked.items() if value is not None},
        )
        return executor.submit(ClusterRun(run, Path.cwd(), random.SystemRandom().randint(*PORTS)))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise SubmissionError(f"the run could not be submitted: {' '.join(str(error).split())}") from error
