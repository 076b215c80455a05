"""Runners of jobs in this process or on the devices of this machine."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from sam2fast.deploy.parallel.device_list import Devices, device_list
from sam2fast.deploy.parallel.pool import JobResult, run_jobs
from sam2fast.deploy.parallel.worker import failure_of


class Runner(Protocol):
    """Runs jobs and yields their results, like :func:`~sam2fast.deploy.parallel.run_jobs`."""

    def __call__(
        self,
        function: Callable[[Any, Any], Any],
        jobs: Iterable[Any],
        build: Callable[..., Any],
        *,
        ordered: bool = False,
    ) -> Iterator[JobResult]:
        """Calls ``function(predictor, job)`` for each job, with a predictor from ``build(device=...)``.

        If a job raises, its result has an ``error``, and other jobs continue. If ``ordered`` is True, results have the
        order of the jobs.

        Raises:
            Exception: If ``build`` failed and no worker is left.
        """
        ...


def in_this_process(device: str) -> Runner:
    """Returns a function that runs jobs one by one in this process."""

    def run(
        function: Callable[[Any, Any], Any],
        jobs: Iterable[Any],
        build: Callable[..., Any],
        *,
        ordered: bool = False,
    ) -> Iterator[JobResult]:
        predictor = None
        for index, job in enumerate(jobs):
            if predictor is None:
                predictor = build(device=device)
            try:
                value = function(predictor, job)
            except Exception as error:
                failure = failure_of(error)
                yield JobResult(index, job, device, error=failure.summary, failure=failure)
            else:
                yield JobResult(index, job, device, value)

    return run


def on_devices(
    devices: Devices, *, at_once: int = 1, threads: int | None = None, queue: bool = True, retry: bool = True
) -> Runner:
    """Returns a function that runs jobs in ``at_once`` processes per device.

    Args:
        at_once: number of processes per device, each with its own predictor.
        threads, queue, retry: see :func:`~sam2fast.deploy.parallel.run_jobs`.

    Raises:
        ValueError: If ``at_once`` is below 1.
        ValueError, RuntimeError: See :func:`~sam2fast.deploy.parallel.device_list.device_list`.
    """
    if at_once < 1:
        raise ValueError(f"at_once is {at_once}; expected 1 or more processes on each device")
    names = device_list(devices) * at_once
    return lambda function, jobs, build, *, ordered=False: run_jobs(
        function, jobs, names, build, ordered=ordered, threads=threads, queue=queue, retry=retry
    )
