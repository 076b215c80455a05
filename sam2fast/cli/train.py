"""``sam2fast train``: trains a model, in this process, in several, or as a job of a cluster."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from sam2fast.cli.options import GroupedCommand, RareOption
from sam2fast.cli.reporting import emit, output_options, say
from sam2fast.cli.train_run import TrainingRun
from sam2fast.utils.reproducibility import is_deterministic


class Launch(NamedTuple):
    """The options that choose where the training runs."""

    num_gpus: int | None = None
    num_nodes: int = 1
    rendezvous: str | None = None
    restarts: int = 0
    use_cluster: str = "0"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    timeout_hours: float = 24.0
    cpus_per_task: int = 10


@click.command(cls=GroupedCommand)
@click.option(
    "-c", "--config", required=True, help="A shipped configuration, such as nano/sam2fast_nano_own_masks, or a file."
)
@click.option(
    "--allow-target",
    "allow_targets",
    multiple=True,
    metavar="PREFIX",
    help="Prefix of your own classes that the configuration may name. Repeatable.",
)
@click.option("--minutes", type=float, help="Save a checkpoint and stop after this time; run again to continue.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Build everything, print the full configuration and the estimated memory, look for the initial weights, and "
    "stop.",
)
@click.option(
    "--num-gpus",
    type=click.IntRange(1),
    help="Train in N processes on each machine, one for each GPU; with trainer.accelerator=cpu they share the CPU.",
)
@click.option(
    "--num-nodes",
    cls=RareOption,
    type=click.IntRange(1),
    default=1,
    help="Machines. Without --use-cluster the same command, with --rendezvous, is run on each of them.",
)
@click.option(
    "--rendezvous",
    cls=RareOption,
    metavar="HOST:PORT",
    help="Without --use-cluster: one of the machines, and a free port of it.",
)
@click.option(
    "--restarts",
    type=click.IntRange(0),
    default=0,
    help="How often to restart all processes from the last checkpoint after a failure.",
)
@click.option(
    "--use-cluster",
    cls=RareOption,
    type=click.Choice(["0", "1", "local"]),
    default="0",
    show_default=False,
    help="1 submits the run to SLURM and returns; it is requeued when it is preempted or times out. local does the "
    "same with processes of this machine.",
)
@click.option("--partition", cls=RareOption, metavar="NAME", help="Of the cluster.")
@click.option("--account", cls=RareOption, metavar="NAME", help="Of the cluster.")
@click.option("--qos", cls=RareOption, metavar="NAME", help="Of the cluster.")
@click.option(
    "--timeout-hours",
    cls=RareOption,
    type=click.FloatRange(0, min_open=True),
    default=24.0,
    help="Time limit of a job on the cluster.",
)
@click.option(
    "--cpus-per-task", cls=RareOption, type=click.IntRange(1), default=10, help="CPUs of each process on the cluster."
)
@output_options()
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def train(
    config: str,
    allow_targets: Sequence[str],
    minutes: float | None,
    threads: int | None,
    dry_run: bool,
    overrides: Sequence[str],
    **launch: Any,
) -> None:
    """Train a model.

    KEY=VALUE changes the configuration, +KEY=VALUE adds to it, ~KEY removes. A stopped or killed run
    continues from its last checkpoint when it is started again. Ctrl-C saves a checkpoint and stops; a second one stops
    immediately.

    Under torchrun this is one process of the run; --num-gpus starts the processes itself.
    """
    where = Launch(**launch)
    check_launch(where)
    run = TrainingRun(config, tuple(allow_targets), minutes, threads, tuple(overrides), is_deterministic())
    if dry_run:
        run.show()
    elif where.use_cluster != "0":
        folder, has_gpus = run.prepare(is_submitted=True)
        on_cluster(where, folder / "cluster", has_gpus, run)
    elif where.restarts or (where.num_gpus or 1) * where.num_nodes > 1:
        run.prepare()
        on_this_machine(where, run.arguments())
    else:
        run()


def check_launch(launch: Launch) -> None:
    """Checks for contradictory options, before any work."""
    on_cluster = launch.use_cluster != "0"
    if "WORLD_SIZE" in os.environ and (on_cluster or launch.num_gpus is not None):
        raise click.UsageError("this is one of several processes already (WORLD_SIZE is set): leave --num-gpus out")
    if not on_cluster:
        if any((launch.partition, launch.account, launch.qos)):
            raise click.UsageError("--partition, --account and --qos need --use-cluster 1")
        _check_machines(launch)
    elif launch.rendezvous is not None:
        raise click.UsageError("--rendezvous is for machines without --use-cluster; leave it out")
    if launch.use_cluster == "local" and launch.num_nodes > 1:
        raise click.UsageError("--use-cluster local is this machine alone; leave --num-nodes out")
    if launch.restarts and (on_cluster or launch.num_gpus is None or launch.num_nodes > 1):
        raise click.UsageError("--restarts needs --num-gpus, without --use-cluster and --num-nodes")


def _check_machines(launch: Launch) -> None:
    """As :func:`check_launch`, for runs without a cluster."""
    if launch.num_nodes == 1:
        if launch.rendezvous is not None:
            raise click.UsageError("--rendezvous needs --num-nodes")
        return
    if launch.num_gpus is None or launch.rendezvous is None:
        raise click.UsageError(
            "--num-nodes needs --use-cluster 1, or --num-gpus N and --rendezvous HOST:PORT in the same command on each "
            "machine"
        )
    host, _, port = launch.rendezvous.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise click.UsageError(f"--rendezvous must be HOST:PORT, got {launch.rendezvous!r}")


def on_this_machine(launch: Launch, arguments: Sequence[str]) -> None:
    """Runs the command with ``arguments`` in several processes of this machine."""
    from sam2fast.training.distributed.launch import launch as start

    assert launch.num_gpus is not None
    where = launch.num_gpus, launch.restarts, launch.num_nodes, launch.rendezvous
    start(["-m", "sam2fast", *arguments], *where)


def on_cluster(launch: Launch, folder: Path, has_gpus: bool, run: Callable[[Callable[[], bool]], None]) -> None:
    """Submits ``run`` to the cluster and prints where its logs are."""
    from sam2fast.training.distributed.slurm import Job, submit

    job = Job(
        folder=folder.absolute(),
        nodes=launch.num_nodes,
        processes=launch.num_gpus or 1,
        gpus=has_gpus,
        cpus=launch.cpus_per_task,
        hours=launch.timeout_hours,
        partition=launch.partition,
        account=launch.account,
        qos=launch.qos,
        cluster="slurm" if launch.use_cluster == "1" else "local",
    )
    submitted = submit(job, run)
    emit({"job": submitted.job_id, "stdout": str(submitted.paths.stdout), "stderr": str(submitted.paths.stderr)})
    say(f"job {submitted.job_id}; its logs are {submitted.paths.stdout} and {submitted.paths.stderr}")
