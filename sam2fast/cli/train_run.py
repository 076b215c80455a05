"""One run of ``sam2fast train``: what is trained, how it is told to stop, and what is said of it."""

import os
import signal
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam2fast.cli.errors import UserError, one_line
from sam2fast.cli.files import remove_leftovers, write_atomically
from sam2fast.cli.signals import ENDING, tell
from sam2fast.utils.reproducibility import deterministic, is_deterministic

if TYPE_CHECKING:
    from sam2fast.training.trainer import Trainer

_STOPPING = (signal.SIGINT, *ENDING)


@dataclass(frozen=True)
class TrainingRun:
    """What the command is told of the training itself, for this process or others."""

    config: str
    allow_targets: tuple[str, ...]
    minutes: float | None
    threads: int | None
    overrides: tuple[str, ...]
    deterministic: bool = False

    def look(self, is_submitted: bool = False) -> tuple[Path, bool]:
        """The folder for logs, and whether the run is to have GPUs; errors of the configuration come now.

        Args:
            is_submitted: nobody may be there when the run starts. So what becomes of a configuration of the original's
                is printed, and the data sets are built to see whether they are there.
        """
        from omegaconf import OmegaConf

        from sam2fast.config import ConfigError
        from sam2fast.training.config import check_training_config

        with one_line(*_failures()):
            loaded = self._load(told=is_submitted)
            folder = OmegaConf.select(loaded, "trainer.logging.log_dir")
            if folder is None:
                raise ConfigError(f"{self.config} has no trainer.logging.log_dir")
            if is_submitted:
                check_training_config(loaded, self.allow_targets)
            return Path(folder), loaded.trainer.get("accelerator", "auto") != "cpu"

    def arguments(self) -> list[str]:
        """The command line of each of several processes."""
        options = [f"--allow-target={prefix}" for prefix in self.allow_targets]
        options += [] if self.minutes is None else [f"--minutes={self.minutes}"]
        options += [] if self.threads is None else [f"--threads={self.threads}"]
        before = ["--deterministic"] if self.deterministic else []
        return [*before, "train", f"--config={self.config}", *options, "--", *self.overrides]

    def build(self) -> "tuple[Trainer, str]":
        """The trainer, and its whole configuration as text."""
        from omegaconf import OmegaConf

        from sam2fast.training.config import build_trainer

        with _left_to_the_launcher(), one_line(*_failures()):
            loaded = self._load(told=os.environ.get("RANK", "0") == "0")
            if self.threads is not None:
                import torch

                torch.set_num_threads(self.threads)
            return build_trainer(loaded, self.allow_targets), OmegaConf.to_yaml(loaded)

    def show(self) -> None:
        """Prints the configuration, and what memory the training will take; the whole is YAML."""
        from sam2fast.training.memory_estimate import described

        trainer, text = self.build()
        click.echo(text)
        with one_line(*_failures()):
            for line in described(trainer):
                click.echo(f"# {line}")

    def __call__(self, interrupted: Callable[[], bool] | None = None) -> None:
        """Trains, in this process.

        Args:
            interrupted: asked after every update; once true, the run saves and returns. Signals are left to the caller
                then.
        """
        with deterministic() if self.deterministic and not is_deterministic() else nullcontext():
            self._train(interrupted)

    def _train(self, interrupted: Callable[[], bool] | None) -> None:
        from sam2fast.training.distributed.launch import ended, is_launched

        trainer, text = self.build()
        folder, is_main = Path(trainer.logging.log_dir), trainer.ranks.is_main

        def started() -> None:
            if is_main:
                _keep_record(folder, text, trainer.steps)

        error_file = folder / ("error.txt" if is_main else f"error_{trainer.ranks.rank}.txt")
        stopping = _stopping(self.minutes, interrupted, {signal.SIGINT} if is_launched() else _STOPPING, is_main)
        with _left_to_the_launcher(), one_line(*_failures()), _traceback_in(error_file), stopping as stop:
            measures = trainer.run(stop, started)
            trainer.ranks.leave()
        ended()
        if is_main:
            for name, value in measures.items():
                click.echo(f"{name:8} {value:.2f}")
            click.echo(f"checkpoints in {trainer.checkpoint.save_dir}")

    def _load(self, told: bool) -> Any:
        from sam2fast.training.config import load_training_config

        def report(line: str) -> None:
            if told:
                click.echo(line, err=True)

        return load_training_config(self.config, self.overrides, report)


def _failures() -> tuple[type[Exception], ...]:
    from sam2fast.checkpoints import CheckpointError
    from sam2fast.config import ConfigError
    from sam2fast.training.data.errors import DataError
    from sam2fast.training.data.workers import LostWorkerError
    from sam2fast.training.distributed.ranks import LostRankError
    from sam2fast.training.finite import NonFiniteError

    lost = LostRankError, LostWorkerError
    return ConfigError, CheckpointError, DataError, NonFiniteError, *lost, OSError, ValueError, ImportError


@contextmanager
def _left_to_the_launcher() -> Iterator[None]:
    """Of several processes that this command has started, the one that started them says what went wrong."""
    from sam2fast.training.distributed.launch import is_launched, record
    from sam2fast.training.distributed.ranks import LostRankError

    try:
        yield
    except UserError as error:
        if not is_launched():
            raise
        record(str(error), any(isinstance(cause, LostRankError) for cause in _causes(error)))
        raise SystemExit(error.exit_code) from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What led to an error, itself first, each once: after ``raise error from error`` one leads to itself."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__


def _keep_record(folder: Path, text: str, steps: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "config_resolved.yaml"
    remove_leftovers([record])
    if record.exists() and record.read_text(encoding="utf-8", errors="surrogateescape") != text:
        click.echo("sam2fast: note: the configuration is not that of the run so far", err=True)
        record.replace(folder / f"config_resolved_until_{steps}.yaml")
    write_atomically(record, text.encode(errors="surrogateescape"))


@contextmanager
def _stopping(
    minutes: float | None,
    interrupted: Callable[[], bool] | None = None,
    told: Collection[int] = _STOPPING,
    is_main: bool = True,
) -> Iterator[Callable[[], bool]]:
    """Whether the time is over, or ``interrupted`` says so, or what has started this process was killed.

    Without that, whether Ctrl-C was pressed, SIGTERM came or the terminal was closed, unless that is ignored, as under
    ``nohup``; a second one interrupts as usual. The first process says so where the signal is among those ``told``:
    what starts several ends them by SIGTERM where one has failed.
    """
    from sam2fast.training.distributed.launch import is_abandoned

    end = None if minutes is None else time.monotonic() + 60 * minutes
    asked, owner = False, os.getpid()

    def on_signal(number: int, frame: Any) -> None:
        nonlocal asked
        if os.getpid() != owner:  # a worker that was forked: the run ends it when it stops
            return
        asked = True
        signal.signal(number, before[number])
        if is_main and number in told:
            with suppress(RuntimeError):  # where it interrupts a line that is being written, such as the bar
                tell("stopping after this update")

    def stop() -> bool:
        is_over = end is not None and time.monotonic() >= end
        return is_over or is_abandoned() or (asked if interrupted is None else interrupted())

    numbers = _STOPPING if interrupted is None else ()
    handlers = {number: signal.getsignal(number) for number in numbers}
    before = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    try:
        for number in before:
            signal.signal(number, on_signal)
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def _traceback_in(path: Path) -> Iterator[None]:
    """Keeps the traceback of what goes wrong inside in a file, where there is a folder for it."""
    try:
        yield
    except Exception:
        # Where it cannot be written, such as on a full disk, what went wrong before is still to be told.
        with suppress(OSError):
            if path.parent.is_dir():
                path.write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
        raise
