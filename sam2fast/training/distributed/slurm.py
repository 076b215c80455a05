"""Submits a run as a SLURM job with submitit, one task per process. Tests use only submitit's local executor."""

import os
import random
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sam2fast.utils.errors import FixableError

PORTS = (10000, 65000)
MOST_TIMEOUTS = 1000  # maximum number of times that a job is requeued after a timeout
SECONDS_TO_SAVE = 300  # time from the signal to the timeout of a job


class SubmissionError(FixableError, RuntimeError):
    """Raised if a SLURM job cannot be submitted. The error message gives the reason."""


@dataclass(frozen=True)
class Job:
    """Resources of a SLURM job. ``partition``, ``account`` and ``qos`` are options of ``sbatch``."""

    folder: Path  # folder on a shared file system for logs and submissions
    nodes: int = 1
    processes: int = 1  # number of processes per node
    gpus: bool = True  # if True, each process gets a GPU
    cpus: int = 10  # number of CPUs per process
    hours: float = 24.0
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    cluster: str = "slurm"


@dataclass(frozen=True)
class ClusterRun:
    """Callable for one process of a run. submitit calls this object, and calls the object again after preemption."""

    run: Callable[[Callable[[], bool]], None]  # gets a function that returns True if the run must save and stop
    folder: Path  # working directory
    port: int  # rendezvous port on the first node

    def __call__(self) -> None:
        import submitit

        job = submitit.JobEnvironment()
        os.chdir(self.folder)
        os.environ.update(
            RANK=str(job.global_rank),
            LOCAL_RANK=str(job.local_rank),
            WORLD_SIZE=str(job.num_tasks),
            MASTER_ADDR=job.hostnames[0] if job.num_nodes > 1 else "127.0.0.1",
            MASTER_PORT=str(self.port),
        )
        with Interruption() as interruption:
            self.run(interruption.is_asked)
        # The first process requeues the job after all processes have saved checkpoints.
        interruption.go_on()

    def checkpoint(self) -> Any:
        """Returns a submission that calls this object again. submitit calls this method on preemption or timeout."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Interruption:
    """Delays submitit's handling of preemption and timeout signals until the run has saved a checkpoint.

    On the signal named by ``SUBMITIT_PREEMPT_SIGNAL`` (default USR2), submitit requeues the job. On SIGTERM, SLURM's
    default signal for preemption, the job ends, and SLURM requeues the job if SLURM is configured to.
    """

    def __init__(self) -> None:
        preempted = getattr(signal, "SIG" + os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2"))
        self._numbers = tuple(dict.fromkeys((preempted, signal.SIGTERM)))  # first: the signal that requeues jobs
        self._asked: set[int] = set()
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        self._handlers = {
            number: signal.signal(number, lambda number, frame: self._asked.add(number)) for number in self._numbers
        }
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def is_asked(self) -> bool:
        return bool(self._asked)

    def go_on(self) -> None:
        """Calls submitit's handler for a received signal. Prefers the handler for the signal that requeues the job."""
        for number in self._numbers:
            if number in self._asked:
                if callable(self._handlers[number]):
                    self._handlers[number](number, None)
                return


def submit(job: Job, run: Callable[[Callable[[], bool]], None]) -> Any:
    """Submits a picklable ``run`` (see :class:`ClusterRun`). Returns submitit's job object.

    Raises:
        SubmissionError: If submitit is not installed, or SLURM rejects the job.
    """
    try:
        import submitit
    except ImportError as error:
        raise SubmissionError(f'submitit cannot be loaded; pip install "sam2fast[cluster]" ({error})') from error
    settings = {"partition": job.partition, "account": job.account, "qos": job.qos}
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
            slurm_srun_args=["--kill-on-bad-exit=1"],  # a run cannot continue if one of its processes is lost
            **{f"slurm_{name}": value for name, value in settings.items() if value is not None},
        )
        return executor.submit(ClusterRun(run, Path.cwd(), random.SystemRandom().randint(*PORTS)))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise SubmissionError(f"the run could not be submitted: {' '.join(str(error).split())}") from error
