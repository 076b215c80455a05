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
    """Returns a function that runs jobs on Ray, like :func:`~sam2fast.deploy.parallel.run_jobs` on one machine.

    Each worker builds its predictor once. A job is taken from the iterable when a worker can accept a job, and results
    stay on Ray until the caller requests them. If a worker is lost, its job is retried in another worker, and a new
    worker starts on a node with free resources. The workers end when the iterator of results ends, is closed or is
    interrupted. If Ray was started for these workers, Ray ends with the workers.

    Relative paths in jobs refer to this process's working directory. Files must have the same path on all machines.
    Workers inherit the ``SAM2FAST_*`` variables of this process.

    Args:
        address: ``local`` to start Ray on this machine; ``auto`` to find the cluster of this machine; ``HOST:PORT`` for
            the head of a cluster. If this process is already connected to Ray, ``address`` is ignored.
        workers: number of workers, at most one per job. By default, as many as fit on the nodes, and more when nodes
            join. Workers that do not fit start later.
        gpus: number of GPUs per worker, possibly a fraction; by default 1 if Ray has GPUs, else 0. Workers with GPUs
            use ``cuda:0``, the first GPU that Ray assigns to the worker. Workers without GPUs use ``cpu``.
        cpus: number of CPUs per worker.
        threads: torch's CPU threads per worker; by default ``cpus``.
        store_bytes: bytes of shared memory for jobs and results. Used only with ``local``.
        temp_dir: short path for Ray's logs and sockets; by default ``/tmp/ray``. Used only with ``local``.

    Raises:
        ValueError: If an argument is out of range.
        ClusterError: If Ray is not reachable, has another version, or no worker fits on a node. Raised at the first
            result.
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
