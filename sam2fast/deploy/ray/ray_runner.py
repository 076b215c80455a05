"""Jobs for Ray: actors on one machine or many, each with a predictor of its own."""

from collections.abc import Callable, Iterable, Iterator, Sized
from functools import partial
from pathlib import Path
from typing import Any

from sam2fast.deploy.parallel.pool import MOST_LOSSES, JobResult, JobSource
from sam2fast.deploy.parallel.runners import Runner
from sam2fast.deploy.ray.errors import ClusterError
from sam2fast.deploy.ray.ray_session import LOCAL, STORE_BYTES, RayPlan, connected, room
from sam2fast.deploy.ray.ray_workers import RayPool, RayWorker
from sam2fast.deploy.ray.slot import device_of, setup_of


def on_ray(
    address: str = LOCAL,
    *,
    workers: int | None = None,
    gpus: float | None = None,
    cpus: int = 1,
    threads: int | None = None,
    most_losses: int = MOST_LOSSES,
    store_bytes: int = STORE_BYTES,
    temp_dir: Path | None = None,
) -> Runner:
    """Does jobs on Ray as :func:`~sam2fast.deploy.parallel.run_jobs` does them in processes of this machine.

    Each worker builds its predictor once. Jobs are taken from the iterable when a worker has room for them, and results
    wait on Ray until they are asked for. The job of a worker that is lost is done by another one, and another worker is
    started, wherever there is room. When the results end, are closed or are interrupted, the workers end; Ray itself
    ends if it was started for them.

    Relative paths in jobs begin at this process's working directory; what jobs read and write must be under the same
    path on all machines. ``SAM2FAST_*`` variables of this process are those of the workers.

    Args:
        address: ``local`` starts a Ray on this machine; ``auto`` finds the one that this machine belongs to;
            ``HOST:PORT`` is the head of a cluster. In a process that is connected to Ray already, that one is used.
        workers: as many as there are jobs, at most; by default as many as the nodes have room for, and more when nodes
            join. If there is no room for all of them, the others begin when there is.
        gpus: of each worker, or a share of one; by default 1 if Ray has any, else 0. The device is ``cuda:0``, which
            is the first one that Ray lets the worker see, or ``cpu``.
        cpus: of each worker.
        threads: of torch in each worker; by default as many as ``cpus``.
        most_losses: a job that so many workers were lost over is a result with an ``error``.
        store_bytes: shared memory for jobs and results of a Ray that is started here.
        temp_dir: where a Ray that is started here keeps its logs and sockets; a short path. By default Ray's own,
            ``/tmp/ray``.

    Raises:
        ValueError: an argument is out of range.
        ClusterError: when results are asked for: Ray is not there, is another version, or has no node with room.
        WorkerError: jobs are left, and no worker could begin.
    """
    given = {"workers": workers, "cpus": cpus, "threads": threads, "most_losses": most_losses}
    for name, value in given.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; expected 1 or more")
    if gpus is not None and gpus < 0:
        raise ValueError(f"gpus is {gpus}; expected 0 or more of each worker")
    if "://" in address:
        raise ValueError(f"{address!r} is an address of Ray's client; expected local, auto or HOST:PORT")
    plan = RayPlan(address, workers, gpus, cpus, threads or cpus, most_losses, store_bytes, temp_dir)
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
        setup = setup._replace(device=device_of(gpus))

        def wanted() -> int:
            most = plan.workers if plan.workers is not None else room(ray.nodes(), plan.cpus, gpus)
            return most if count is None else min(most, count)

        if not wanted():
            raise ClusterError(
                f"no node of the Ray at {plan.address} has {plan.cpus} CPUs and {gpus:g} GPUs for a worker; ask for "
                "less, or say how many workers there shall be and they wait for such nodes"
            )
        needs = {"num_cpus": plan.cpus, "num_gpus": gpus, "scheduling_strategy": "SPREAD"}
        hire = partial(RayWorker, ray, ray.put(setup), f"Ray's {setup.device}", needs)
        pool = RayPool(ray, hire, wanted, source, ordered, plan.most_losses)
        try:
            yield from pool.in_order() if ordered else pool.results()
        finally:
            pool.end()
