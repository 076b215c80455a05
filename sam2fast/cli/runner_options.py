"""Options of commands whose work may be done elsewhere: on Ray, on several devices, or in this process."""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import click

from sam2fast.cli.devices import chosen_devices
from sam2fast.cli.errors import UserError, one_line
from sam2fast.cli.options import removed_option
from sam2fast.deploy.parallel.runners import Runner, in_this_process, on_devices

Command = TypeVar("Command", bound=Callable[..., Any])

HERE = ("auto", "cpu", "cuda")  # the devices that a worker elsewhere may compute on
INSTEAD_OF_SLURM = "use --ray auto inside a SLURM job, or an array of commands; see docs/scale_out.md"

_OPTIONS = (
    click.option(
        "--ray",
        metavar="ADDRESS",
        help="Spread the work with Ray: local starts one on this machine, auto finds the one this machine belongs to, "
        "HOST:PORT is a cluster's head. Paths must be the same on all machines.",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1),
        metavar="N",
        help="With --ray, at most so many, each with a model of its own.  [default: one for each GPU, without GPUs "
        "for each CPU]",
    ),
    click.option(
        "--worker-cpus",
        type=click.IntRange(1),
        metavar="N",
        default=1,
        show_default=True,
        help="With --ray, CPUs and threads of each worker.",
    ),
    *(
        removed_option(flag, INSTEAD_OF_SLURM)
        for flag in ("--slurm", "--slurm-account", "--slurm-qos", "--slurm-hours")
    ),
)


class Cluster(NamedTuple):
    """What the options say; without ``ray`` it is this machine."""

    ray: str | None = None
    workers: int | None = None
    worker_cpus: int = 1

    def __bool__(self) -> bool:
        return self.ray is not None


class Place(NamedTuple):
    """Where work is done."""

    runner: Runner
    name: str  # of the device or devices, or of the cluster
    is_here: bool  # in this process, on the device ``name``


def runner_options(command: Command) -> Command:
    """Adds ``--ray --workers --worker-cpus``; the command gets them as one argument, ``cluster``.

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


def chosen_place(cluster: Cluster, device: str, count: int, things: str) -> Place:
    """Where the work is to be done, for ``count`` inputs.

    Args:
        device: of this machine, or several; of each worker where it is a cluster.
        things: what the inputs are, such as ``images``.

    Raises:
        UserError: a device is none of this machine's, or an address is none of Ray's.
    """
    if cluster.ray is not None:
        return Place(_on_ray(cluster, device, count), f"ray {cluster.ray}", False)
    devices = chosen_devices(device, count, things)
    if len(devices) > 1:
        return Place(on_devices(devices), ",".join(devices), False)
    return Place(in_this_process(devices[0]), devices[0], True)


def _check(cluster: Cluster, device: str) -> None:
    if not cluster:
        if cluster != Cluster():
            raise click.UsageError("--workers and --worker-cpus need --ray")
        return
    if device not in HERE:
        raise click.UsageError(f"with --ray, --device is what each worker computes on, {', '.join(HERE)}; got {device}")
    if importlib.util.find_spec("ray") is None:
        raise UserError('--ray needs ray, which is not installed: pip install "sam2fast[cluster]"')


def _on_ray(cluster: Cluster, device: str, count: int) -> Runner:
    from sam2fast.deploy.ray import on_ray

    assert cluster.ray is not None
    workers = cluster.workers and min(cluster.workers, max(1, count))
    gpus = {"auto": None, "cpu": 0.0, "cuda": 1.0}[device]
    with one_line(ValueError):
        return on_ray(cluster.ray, workers=workers, gpus=gpus, cpus=cluster.worker_cpus)
