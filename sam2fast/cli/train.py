"""``sam2fast train``: trains a model as a configuration says."""

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from sam2fast.cli.errors import one_line
from sam2fast.cli.files import write_atomically


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
    folder = Path(trainer.logging.log_dir)

    def started() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        record = folder / "config_resolved.yaml"
        if record.exists() and record.read_text(encoding="utf-8") != text:
            click.echo("sam2fast: note: the configuration is not that of the run so far", err=True)
            record.replace(folder / f"config_resolved_until_{trainer.steps}.yaml")
        write_atomically(record, text.encode())

    with one_line(*failures), _traceback_in(folder / "error.txt"), _stopping(minutes) as stop:
        measures = trainer.run(stop, started)
    for name, value in measures.items():
        click.echo(f"{name:8} {value:.2f}")
    click.echo(f"checkpoints in {trainer.checkpoint.save_dir}")


@contextmanager
def _stopping(minutes: float | None) -> Iterator[Callable[[], bool]]:
    """Whether the time is over or Ctrl-C was pressed; a second Ctrl-C interrupts as usual."""
    end = None if minutes is None else time.monotonic() + 60 * minutes
    asked, owner = False, os.getpid()

    def on_signal(number: int, frame: Any) -> None:
        nonlocal asked
        if os.getpid() != owner:  # a worker that was forked: the run ends it when it stops
            return
        asked = True
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        click.echo("stopping after this update", err=True)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked or (end is not None and time.monotonic() >= end)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _traceback_in(path: Path) -> Iterator[None]:
    """Keeps the traceback of what goes wrong inside in a file, where there is a folder for it."""
    try:
        yield
    except Exception:
        if path.parent.is_dir():
            path.write_text(traceback.format_exc(), encoding="utf-8")
        raise
