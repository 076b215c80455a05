"""What ``--device`` means where several devices may be given."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from sam2fast.cli.errors import one_line
from sam2fast.deploy.parallel.devices import device_list, names_several

if TYPE_CHECKING:
    from sam2fast.deploy.parallel.runners import Runner


def chosen_devices(device: str, count: int, things: str) -> list[str]:
    """The devices to be used for so many things, by name; with a note if there are more devices than things.

    A single device is given back as it is, for who builds the model to judge.

    Args:
        things: what each device gets one of at least, such as ``images``.

    Raises:
        UserError: one of them is no device of this machine.
    """
    if not names_several(device):
        return [device]
    with one_line(ValueError, RuntimeError):
        devices = device_list(device)
    if count < len(devices):
        idle = ", ".join(devices[count:])
        click.echo(f"sam2fast: note: {idle} not used: {count} {things if count > 1 else things[:-1]} only", err=True)
    return devices[: max(1, count)]


def done_by(
    runner: "Runner", function: Callable[[Any, Any], Any], jobs: Sequence[Any], build: Callable[..., Any]
) -> Iterator[tuple[Any, Any]]:
    """Jobs and what a function of a predictor and a job gives, in the order of the jobs.

    Raises:
        UserError: of the function, or of ``build`` everywhere; or all workers are lost, or a job with its workers.
        Exception: what else the function raises.
    """
    from sam2fast.deploy.parallel.process import WorkerError

    with one_line(WorkerError):
        for result in runner(function, jobs, build, ordered=True):
            yield result.job, result.unwrap()


def add_seconds(sums: dict[str, float], seconds: dict[str, float]) -> None:
    """Adds what a process took for each stage since it was last asked."""
    for stage, value in seconds.items():
        sums[stage] = sums.get(stage, 0.0) + value
