"""``sam2fast train``: trains a model as a configuration says."""

import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from sam2fast.cli.errors import one_line
from sam2fast.cli.files import write_atomically


@click.command(context_settings={"ignore_unknown_options": False})
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
@click.option("--dry-run", is_flag=True, help="Print the whole configuration, build everything, and stop.")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def train(
    config: str,
    allow_targets: Sequence[str],
    minutes: float | None,
    threads: int | None,
    dry_run: bool,
    overrides: Sequence[str],
) -> None:
    """Train a model.

    KEY=VALUE changes the configuration, +KEY=VALUE adds to it, ~KEY removes. A run that was stopped, or killed, goes on
    from its last checkpoint when it is started again. Ctrl-C saves a checkpoint and stops; twice stops at once.
    """
    from omegaconf import OmegaConf

    from sam2fast.checkpoints import CheckpointError
    from sam2fast.config import ConfigError
    from sam2fast.training.config import build_trainer, load_training_config
    from sam2fast.training.data.errors import DataError
    from sam2fast.training.trainer import NonFiniteError

    failures = (ConfigError, CheckpointError, DataError, NonFiniteError, OSError, ValueError, ImportError)
    with one_line(*failures):
        loaded = load_training_config(config, overrides)
        text = OmegaConf.to_yaml(loaded)
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        trainer = build_trainer(loaded, allow_targets)
    if dry_run:
        click.echo(text)
        return
    with one_line(*failures):
        folder = Path(trainer.logging.log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "config_resolved.yaml", text.encode())
        measures = trainer.run(_stop_after(minutes))
    for name, value in measures.items():
        click.echo(f"{name:8} {value:.2f}")
    click.echo(f"checkpoints in {trainer.checkpoint.save_dir}")


def _stop_after(minutes: float | None) -> Callable[[], bool]:
    """Whether the time is over or Ctrl-C was pressed; a second Ctrl-C interrupts as usual."""
    end = None if minutes is None else time.monotonic() + 60 * minutes
    asked = False

    def on_signal(number: int, frame: Any) -> None:
        nonlocal asked
        asked = True
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        click.echo("stopping after this update", err=True)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return lambda: asked or (end is not None and time.monotonic() >= end)
