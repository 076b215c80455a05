"""Options of verbs whose work may be done elsewhere: on Ray, on SLURM, on several devices, or right here."""

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click

from sam2fast.cli.devices import chosen_devices
from sam2fast.cli.errors import UserError, one_line
from sam2fast.parallel.devices import names_several
from sam2fast.parallel.runners import Runner, in_this_process, on_devices

Command = TypeVar("Command", bound=Callable[..., Any])

LOCAL = "local"
SLURM_FOLDER = ".slurm"  # in the output folder, which the machines share
DEFAULT_TASKS = 16
HERE = ("auto", "cpu", "cuda")  # what a worker elsewhere may be told to compute on

_OPTIONS = (
    click.option(
        "--ray",
        metavar="ADDRESS",
        help="Spread the work with Ray: local starts one on this machine, auto finds the one this machine belongs to, "
        "HOST:PORT is a cluster's head. Paths must be the same on all machines.",
    ),
    click.option(
        "--slurm",
        metavar="PARTITION",
        help="Spread the work as an array of SLURM tasks on this partition; local is processes of this machine.",
    ),
    click.option("--slurm-account", metavar="NAME", help="Of the tasks."),
    click.option("--slurm-qos", metavar="NAME", help="Of the tasks."),
    click.option(
        "--slurm-hours",
        type=click.FloatRange(0, min_open=True),
        default=24.0,
        show_default=True,
        help="Until a task's time is up.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1),
        metavar="N",
        help="With --ray and --slurm, at most so many, each with a model of its own.  [default: with --ray one for "
        f"each GPU, without GPUs for each CPU; with --slurm {DEFAULT_TASKS}]",
    ),
    click.option(
        "--worker-cpus",
        type=click.IntRange(1),
        metavar="N",
        default=1,
        show_default=True,
        help="With --ray and --slurm, CPUs and threads of each worker.",
    ),
)


class Cluster(NamedTuple):
    """What the options say; neither ``ray`` nor ``slurm`` is this machine without them."""

    ray: str | None = None
    slurm: str | None = None
    slurm_account: str | None = None
    slurm_qos: str | None = None
    slurm_hours: float = 24.0
    workers: int | None = None
    worker_cpus: int = 1

    def __bool__(self) -> bool:
        return self.ray is not None or self.slurm is not None


class Place(NamedTuple):
    """Where work is done."""

    runner: Runner
    name: str  # of the device or devices, or of the cluster
    is_here: bool  # in this process, on the device ``name``


def runner_options(command: Command) -> Command:
    """Adds ``--ray --slurm --workers`` and so on; the command gets them as one argument, ``cluster``.

    Where they contradict each other or ``--device`` it is a usage error before the command begins.
    """

    @functools.wraps(command)
    def collected(*args: Any, **kwargs: Any) -> Any:
        cluster = Cluster(**{name: kwargs.pop(name) for name in Cluster._fields})
        _check(cluster, kwargs["device"])
        return command(*args, cluster=cluster, **kwargs)

    for option in reversed(_OPTIONS):
        collected = option(collected)
    return collected  # type: ignore[return-value]


resume_option = click.option(
    "--resume",
    is_flag=True,
    help="Skip images whose results are there already, by the same model and options.",
)


def chosen_place(
    cluster: Cluster,
    device: str,
    count: int,
    things: str,
    out: Path,
    weigh: Callable[[Any], float] | None = None,
) -> Place:
    """Where the work is to be done, for so many things.

    Args:
        device: of this machine, or several; of each worker where it is a cluster.
        things: such as ``images``.
        out: the folder for the results.
        weigh: how long a job takes, in any unit, if that is known.

    Raises:
        UserError: a device is none of this machine's, or an address is none of Ray's.
    """
    if cluster.ray is not None:
        return Place(_on_ray(cluster, device, count), f"ray {cluster.ray}", False)
    if cluster.slurm is not None:
        return Place(_on_slurm(cluster, device, count, out, weigh), f"slurm {cluster.slurm}", False)
    devices = chosen_devices(device, count, things)
    if len(devices) > 1:
        return Place(on_devices(devices), ",".join(devices), False)
    return Place(in_this_process(devices[0]), devices[0], True)


def _check(cluster: Cluster, device: str) -> None:
    if cluster.slurm is None and cluster._replace(ray=None, workers=None, worker_cpus=1) != Cluster():
        raise click.UsageError("--slurm-account, --slurm-qos and --slurm-hours need --slurm")
    if not cluster:
        if cluster != Cluster():
            raise click.UsageError("--workers and --worker-cpus need --ray or --slurm")
        return
    option, module = ("--ray", "ray") if cluster.ray is not None else ("--slurm", "submitit")
    if cluster.ray is not None and cluster.slurm is not None:
        raise click.UsageError("--ray or --slurm, not both")
    if names_several(device) or device not in HERE:
        raise click.UsageError(
            f"with {option}, --device is what each worker computes on, {', '.join(HERE)}; got {device}"
        )
    if importlib.util.find_spec(module) is None:
        raise UserError(f'{option} needs {module}, which is not installed: pip install "sam2fast[cluster]"')


def _on_ray(cluster: Cluster, device: str, count: int) -> Runner:
    from sam2fast.cluster import on_ray

    assert cluster.ray is not None
    workers = cluster.workers and min(cluster.workers, max(1, count))
    gpus = {"auto": None, "cpu": 0.0, "cuda": 1.0}[device]
    with one_line(ValueError):
        return on_ray(cluster.ray, workers=workers, gpus=gpus, cpus=cluster.worker_cpus)


def _on_slurm(cluster: Cluster, device: str, count: int, out: Path, weigh: Callable[[Any], float] | None) -> Runner:
    from sam2fast.cluster import on_slurm

    is_local = cluster.slurm == LOCAL
    return on_slurm(
        out / SLURM_FOLDER,
        partition=None if is_local else cluster.slurm,
        account=cluster.slurm_account,
        qos=cluster.slurm_qos,
        tasks=min(cluster.workers or DEFAULT_TASKS, max(1, count)),
        # What a cluster's nodes have is not known here; GPUs are what one asks a cluster for.
        gpus=0 if device == "cpu" or (is_local and device == "auto") else 1,
        cpus=cluster.worker_cpus,
        hours=cluster.slurm_hours,
        cluster="local" if is_local else "slurm",
        weigh=weigh,
    )


def may_be_written_elsewhere(cluster: Cluster, out: Path) -> bool:
    """Whether processes elsewhere may write to the output folder: those of this run, or of one that they have outlived.

    Where a run on SLURM did not come to its end, or not well, its folder in ``out`` is still there.
    """
    return bool(cluster) or (out / SLURM_FOLDER).exists()


def bytes_of(path: Path) -> float:
    """The size of a file, for :func:`chosen_place` to weigh pictures by."""
    return float(path.stat().st_size)
