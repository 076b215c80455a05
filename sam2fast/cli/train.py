"""``sam2fast train``: trains a model as a configuration says."""

from collections.abc import Sequence
from typing import Any

import click

from sam2fast.cli.train_launch import Launch, check, launch_options, on_cluster, on_this_machine
from sam2fast.cli.train_run import TrainingRun
from sam2fast.utils.reproducibility import is_deterministic


@click.command()
@click.option(
    "-c", "--config", required=True, help="A shipped configuration, such as nano/sam2fast_nano_train, or a file."
)
@click.option(
    "--allow-target",
    "allow_targets",
    multiple=True,
    metavar="PREFIX",
    help="Classes of yours that it may name. Repeatable.",
)
@click.option("--minutes", type=float, help="Save a checkpoint and stop after so long; run again to go on.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch.")
@click.option(
    "--dry-run", is_flag=True, help="Build everything, print the whole configuration and the memory it takes, and stop."
)
@launch_options
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

    KEY=VALUE changes the configuration, +KEY=VALUE adds to it, ~KEY removes. A run that was stopped, or killed, goes on
    from its last checkpoint when it is started again. Ctrl-C saves a checkpoint and stops; twice stops at once.

    Under torchrun this is one of the processes of a run; --num-gpus starts them itself.
    """
    where = Launch(**launch)
    check(where)
    run = TrainingRun(config, tuple(allow_targets), minutes, threads, tuple(overrides), is_deterministic())
    if dry_run:
        run.show()
    elif where.use_cluster != "0":
        folder, has_gpus = run.look(is_submitted=True)
        on_cluster(where, folder / "cluster", has_gpus, run)
    elif where.restarts or (where.num_gpus or 1) * where.num_nodes > 1:
        run.look()
        on_this_machine(where, run.arguments())
    else:
        run()
