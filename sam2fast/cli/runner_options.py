"""Defines the options that run the work with Ray, on several devices, or in this process."""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import click

from sam2fast.cli.command import RareOption
from sam2fast.cli.user_errors import UserError, as_user_error, print_note
from sam2fast.deploy.parallel.device_list import device_list, names_several
from sam2fast.deploy.parallel.runners import Runner, in_this_process, on_devices

Command = TypeVar("Command", bound=Callable[..., Any])

WORKER_DEVICES = ("auto", "cpu", "cuda")  # devices of Ray workers

_OPTIONS = (
    click.option(
        "--ray",
        cls=RareOption,
        metavar="ADDRESS",
        help="Spread the work with Ray: local starts Ray on this machine, auto finds this machine's cluster, "
        "HOST:PORT is a cluster's head. Paths must be the same on all machines.",
    ),
    click.option(
        "--workers",
        cls=RareOption,
        type=click.IntRange(1),
        help="With --ray, the maximum number of workers, each with its own model.  [default: one for each GPU, or for "
        "each CPU if there is no GPU]",
    ),
    click.option(
        "--worker-cpus",
        cls=RareOption,
        type=click.IntRange(1),
        default=1,
        help="With --ray, number of CPUs and threads of each worker.",
    ),
)


class RayOptions(NamedTuple):
    """The options of Ray. If ``ray`` is None, this machine does the work."""

    ray: str | None = None
    workers: int | None = None
    worker_cpus: int = 1

    def __bool__(self) -> bool:
        return self.ray is not None


class RunnerChoice(NamedTuple):
    """The runner, and the name of the devices or of the Ray cluster."""

    runner: Runner
    name: str  # devices or Ray address
    is_local: bool  # True for this process, on the device ``name``


def runner_options(command: Command) -> Command:
    """Adds ``--ray --workers --worker-cpus``. The command gets the checked values in the argument ``ray_options``."""

    @functools.wraps(command)
    def collected(*args: Any, **kwargs: Any) -> Any:
        ray_options = RayOptions(**{name: kwargs.pop(name) for name in RayOptions._fields})
        device = kwargs["model"].device
        if not ray_options and ray_options != RayOptions():
            raise click.UsageError("--workers and --worker-cpus need --ray")
        if ray_options and device not in WORKER_DEVICES:
            raise click.UsageError(
                f"with --ray, --device is the device of each worker, {', '.join(WORKER_DEVICES)}; got {device}"
            )
        if ray_options and importlib.util.find_spec("ray") is None:
            raise UserError('--ray needs ray, which is not installed: pip install "sam2fast[cluster]"')
        return command(*args, ray_options=ray_options, **kwargs)

    for option in reversed(_OPTIONS):
        collected = option(collected)
    return collected  # type: ignore[return-value]


resume_option = click.option(
    "--resume",
    is_flag=True,
    help="Keep results of the same images, prompts, model and options. Other models or options are refused.",
)


def choose_runner(
    ray_options: RayOptions, device: str, count: int, unit: str, at_once: int = 1, queue: bool = True
) -> RunnerChoice:
    """Returns the runner for ``count`` inputs, with at most ``at_once`` processes on each device of this machine.

    Args:
        queue: See :func:`~sam2fast.deploy.parallel.run_jobs`.
    """
    if ray_options.ray is not None:
        from sam2fast.deploy.ray import on_ray

        workers = ray_options.workers and min(ray_options.workers, max(1, count))
        gpus = {"auto": None, "cpu": 0.0, "cuda": 1.0}[device]
        with as_user_error(ValueError):
            runner = on_ray(ray_options.ray, workers=workers, gpus=gpus, cpus=ray_options.worker_cpus)
        return RunnerChoice(runner, f"ray {ray_options.ray}", False)
    devices = _choose_devices(device, count, unit)
    at_once = min(at_once, max(1, -(-count // len(devices))))
    if len(devices) == 1 and at_once == 1:
        return RunnerChoice(in_this_process(devices[0]), devices[0], True)
    with as_user_error(ValueError, RuntimeError):
        return RunnerChoice(on_devices(devices, at_once=at_once, queue=queue), ",".join(devices), False)


def _choose_devices(device: str, count: int, unit: str) -> list[str]:
    """Returns the devices for ``count`` inputs. A note names idle devices. A single device is not checked."""
    if not names_several(device):
        return [device]
    with as_user_error(ValueError, RuntimeError):
        devices = device_list(device)
    if count < len(devices):
        idle = ", ".join(devices[count:])
        print_note(f"{idle} not used: {count} {unit if count > 1 else unit[:-1]} only")
    return devices[: max(1, count)]


def add_seconds(sums: dict[str, float], seconds: dict[str, float]) -> None:
    """Adds the seconds that a process reports for each stage."""
    for stage, value in seconds.items():
        sums[stage] = sums.get(stage, 0.0) + value
