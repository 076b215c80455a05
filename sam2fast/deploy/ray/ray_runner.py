"""Runs jobs on Ray actors, each with its own predictor."""

from collections.abc import Callable, Iterable, Iterator, Sized
from functools import partial
from pathlib import Path
from typing import Any

from sam2fast.deploy.parallel.pool import JobResult, JobSource
from sam2fast.deploy.parallel.runners import Runner
from sam2fast.deploy.parallel.worker import setup_of
from sam2fast.deploy.ray.ray_session import LOCAL, STORE_BYTES, ClusterError, RayPlan, connected, room
from sam2fast.deploy.ray.ray_workers import RayPool, RayWorker, actor_setup


def on_ray(
    address: str = LOCAL,
    *,
    workers: int | None = None,
    gpus: float | None = None,
    cpus: int = 1,
    threads: int | None = None,
    store_bytes: int = STORE_BYTES,
    temp_dir: Path | None = None,
) -> Runner:
    """Returns a runner of jobs on Ray, like :func:`~sam2fast.deploy.parallel.run_jobs` on one machine.

    Each worker builds its predictor once. Jobs are taken from the iterable when a worker has room for them, and results
    stay on Ray until they are requested. The job of a lost worker is retried in another worker, and a new worker starts
    where there is room. The workers end when the results end, are closed or are interrupted. Ray also ends if it was
    started for them.

    Relative paths in jobs refer to this process's working directory. Files must have the same path on all machines.
    Workers inherit the ``SAM2FAST_*`` variables of this process.

    Args:
        address: ``local`` to start Ray on this machine; ``auto`` to find the cluster of this machine; ``HOST:PORT`` for
            the head of a cluster. An existing connection of this process is used instead.
        workers: number of workers, at most one per job. By default, as many as the nodes have room for, and more when
            nodes join. Workers without room start later.
        gpus: number of GPUs per worker, possibly a fraction; by default 1 if Ray has any, else 0. The device is
            ``cuda:0``, the first GPU that Ray assigns to the worker, or ``cpu``.
        cpus: number of CPUs per worker.
        threads: torch's CPU threads per worker; by default ``cpus``.
        store_bytes: shared memory for jobs and results, if Ray is started here.
        temp_dir: short path for Ray's logs and sockets, if Ray is started here; by default ``/tmp/ray``.

    Raises:
        ValueError: If an argument is out of range.
        ClusterError: At the first result, if Ray is not reachable, has another version, or has no node with room.
        WorkerError: If jobs are left, but no worker could start.
    """
    numbers = {"workers": workers, "cpus": cpus, "threads": threads}
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; expected 1 or more")
    if gpus is not None and gpus < 0:
        raise ValueError(f"gpus is {gpus}; expected 0 or more of each worker")
    if "://" in address:
        raise ValueError(f"{address!r} is an address of Ray's client; expected local, auto or HOST:PORT")
    plan = RayPlan(address, workers, gpus, cpus, threads or cpus, store_bytes, temp_dir)
    return partial(_spread, plan)


def _spread(
    plan: RayPlan,
    function: Callable[[Any, Any], Any],
    jobs: Iterable[Any],
    build: Callable[..., Any],
    *,
    ordered: bool = False,
) -> Iterator[JobResult]:
    count = len(jobs) if isinstance(jobs, Sized) else None
    source = JobSource(iter(jobs))
    if not source.has_next():
        return
    setup = setup_of(build, function, "", plan.threads)
    with connected(plan) as ray:
        gpus = plan.gpus if plan.gpus is not None else float(ray.cluster_resources().get("GPU", 0) >= 1)
        setup = setup._replace(device="cuda:0" if gpus else "cpu")  # the first GPU that Ray assigns to the worker

        def wanted() -> int:
            most = plan.workers if plan.workers is not None else room(ray.nodes(), plan.cpus, gpus)
            return most if count is None else min(most, count)

        if not wanted():
            raise ClusterError(
                f"no node of the Ray at {plan.address} has {plan.cpus} CPUs and {gpus:g} GPUs for a worker; ask for "
                "less, or give the number of workers, which then wait for such nodes"
            )
        needs = {"num_cpus": plan.cpus, "num_gpus": gpus, "scheduling_strategy": "SPREAD"}
        hire = partial(RayWorker, ray, ray.put(actor_setup(setup)), f"Ray's {setup.device}", needs)
        pool = RayPool(ray, hire, wanted, source, ordered)
        try:
            yield from pool.in_order() if ordered else pool.results()
        finally:
            pool.end()
