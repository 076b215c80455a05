"""``sam2fast train``: trains a model in this process, in several processes, or as a job of a cluster."""

import os
from collections.abc import Sequence
from pathlib import Path

import click

from sam2fast.cli.command import RareOption, command, option
from sam2fast.cli.reporting import emit, output_options, say
from sam2fast.cli.train_run import TrainingRun


class TrainCommand(TrainingRun):
    """Train a model.

    KEY=VALUE changes the configuration, +KEY=VALUE adds a key, ~KEY removes a key. The same command continues a stopped
    or killed run from the last checkpoint. Ctrl-C saves a checkpoint and stops. A second Ctrl-C stops immediately.

    Under torchrun, the command is one process of the run. Without torchrun, --num-gpus starts all processes.
    """

    dry_run: bool = option(
        help="Build everything, print the full configuration and the estimated memory, look for the initial weights, "
        "and stop."
    )
    num_gpus: int | None = option(
        type=click.IntRange(1),
        help="Train in N processes on each machine, one for each GPU; with trainer.accelerator=cpu all share the CPU.",
    )
    num_nodes: int = option(
        cls=RareOption,
        type=click.IntRange(1),
        default=1,
        help="Number of machines. Without --use-cluster, run the same command with --rendezvous on each machine.",
    )
    rendezvous: str | None = option(
        cls=RareOption, metavar="HOST:PORT", help="Without --use-cluster: one of the machines, and a free port on it."
    )
    restarts: int = option(
        type=click.IntRange(0),
        default=0,
        help="Maximum number of restarts of all processes from the last checkpoint after failures.",
    )
    use_cluster: str = option(
        cls=RareOption,
        type=click.Choice(["0", "1", "local"]),
        default="0",
        show_default=False,
        help="1 submits the run to SLURM and returns; a preempted or timed-out job is requeued. local "
        "does the same with processes of this machine.",
    )
    partition: str | None = option(cls=RareOption, metavar="NAME", help="Partition of the cluster.")
    account: str | None = option(cls=RareOption, metavar="NAME", help="Account on the cluster.")
    qos: str | None = option(cls=RareOption, metavar="NAME", help="Quality of service of the job.")
    timeout_hours: float = option(
        cls=RareOption,
        type=click.FloatRange(0, min_open=True),
        default=24.0,
        help="Time limit of a job on the cluster.",
    )
    cpus_per_task: int = option(
        cls=RareOption, type=click.IntRange(1), default=10, help="CPUs of each process on the cluster."
    )

    def run(self) -> None:
        self._check()
        if self.dry_run:
            self.show()
        elif self.use_cluster != "0":
            folder, has_gpus = self.prepare(is_submitted=True)
            self._submit(folder / "cluster", has_gpus)
        elif self.restarts or (self.num_gpus or 1) * self.num_nodes > 1:
            self.prepare()
            on_this_machine(self, self.arguments())
        else:
            self()

    def _check(self) -> None:
        """Checks for contradictory options, before any work."""
        on_cluster = self.use_cluster != "0"
        if "WORLD_SIZE" in os.environ and (on_cluster or self.num_gpus is not None):
            raise click.UsageError("this is one of several processes already (WORLD_SIZE is set): leave --num-gpus out")
        if not on_cluster and any((self.partition, self.account, self.qos)):
            raise click.UsageError("--partition, --account and --qos need --use-cluster 1")
        if on_cluster and self.rendezvous is not None:
            raise click.UsageError("--rendezvous is for machines without --use-cluster; leave it out")
        if self.rendezvous is not None and self.num_nodes == 1:
            raise click.UsageError("--rendezvous needs --num-nodes")
        if not on_cluster and self.num_nodes > 1:
            if self.num_gpus is None or self.rendezvous is None:
                raise click.UsageError(
                    "--num-nodes needs --use-cluster 1, or --num-gpus N and --rendezvous HOST:PORT in the same command "
                    "on each machine"
                )
            host, _, port = self.rendezvous.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
                raise click.UsageError(f"--rendezvous must be HOST:PORT, got {self.rendezvous!r}")
        if self.use_cluster == "local" and self.num_nodes > 1:
            raise click.UsageError("--use-cluster local uses only this machine; leave --num-nodes out")
        if self.restarts and (on_cluster or self.num_gpus is None or self.num_nodes > 1):
            raise click.UsageError("--restarts needs --num-gpus, without --use-cluster and --num-nodes")

    def _submit(self, folder: Path, has_gpus: bool) -> None:
        """Submits the training to the cluster, and prints the paths of its logs."""
        from sam2fast.training.distributed.slurm import Job, submit

        job = Job(
            folder=folder.absolute(),
            nodes=self.num_nodes,
            processes=self.num_gpus or 1,
            gpus=has_gpus,
            cpus=self.cpus_per_task,
            hours=self.timeout_hours,
            partition=self.partition,
            account=self.account,
            qos=self.qos,
            cluster="slurm" if self.use_cluster == "1" else "local",
        )
        submitted = submit(job, self)
        emit({"job": submitted.job_id, "stdout": str(submitted.paths.stdout), "stderr": str(submitted.paths.stderr)})
        say(f"job {submitted.job_id}; its logs are {submitted.paths.stdout} and {submitted.paths.stderr}")


train = command(TrainCommand, output_options())


def on_this_machine(where: TrainCommand, arguments: Sequence[str]) -> None:
    """Runs the command with ``arguments`` in several processes of this machine."""
    from sam2fast.training.distributed.launch import launch

    assert where.num_gpus is not None
    launch(["-m", "sam2fast", *arguments], where.num_gpus, where.restarts, where.num_nodes, where.rendezvous)
