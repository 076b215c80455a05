"""Runs ``sam2fast train``: builds the trainer, trains until a stop condition, and prints the results."""

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam2fast.cli.command import NO_OPTION, argument, option
from sam2fast.cli.command_files import write_atomically
from sam2fast.cli.reporting import emit, reporting, say
from sam2fast.cli.terminal import STOPPING, note_signals, print_message
from sam2fast.cli.user_errors import UserError, as_user_error, format_error, print_note
from sam2fast.io.atomic import remove_leftovers
from sam2fast.utils.errors import FixableError
from sam2fast.utils.reproducibility import deterministic, is_deterministic

if TYPE_CHECKING:
    from sam2fast.training.trainer import Trainer


RECORD = "config_resolved.yaml"


@dataclass(frozen=True)
class TrainingRun:
    """The training options that apply to every process of a run."""

    config: str = option(
        "-c",
        "--config",
        required=True,
        help="A shipped configuration, such as nano/sam2fast_nano_own_masks, or a file.",
    )
    allow_targets: Sequence[str] = option(
        "--allow-target",
        multiple=True,
        metavar="PREFIX",
        help="Prefix of your own classes that the configuration may name. Repeatable.",
    )
    minutes: float | None = option(help="Save a checkpoint and stop after this time; run again to continue.")
    threads: int | None = option(type=click.IntRange(min=1), help="Number of threads of torch.")
    overrides: Sequence[str] = argument(nargs=-1, metavar="[KEY=VALUE]...")
    deterministic: bool = field(default_factory=is_deterministic, kw_only=True, metadata=NO_OPTION)

    def prepare(self, is_submitted: bool = False) -> tuple[Path, bool]:
        """Checks the configuration. Returns the folder for logs, and True if the run may use GPUs.

        Args:
            is_submitted: True if the run starts later, without a user. If True, prints the notes on a converted
                official configuration, and builds the data sets as a check that the files exist.
        """
        from omegaconf import OmegaConf

        from sam2fast.config import ConfigError
        from sam2fast.training.config import check_training_config

        with as_user_error(OSError, ValueError, ImportError):
            loaded = self._load(verbose=is_submitted)
            folder = OmegaConf.select(loaded, "trainer.logging.log_dir")
            if folder is None:
                raise ConfigError(f"{self.config} has no trainer.logging.log_dir")
            if is_submitted:
                check_training_config(loaded, self.allow_targets)
            return Path(folder), loaded.trainer.get("accelerator", "auto") != "cpu"

    def arguments(self) -> list[str]:
        """Returns the command line for each process of the run."""
        options = [f"--allow-target={prefix}" for prefix in self.allow_targets]
        options += [] if self.minutes is None else [f"--minutes={self.minutes}"]
        options += [] if self.threads is None else [f"--threads={self.threads}"]
        before = ["--deterministic"] if self.deterministic else []
        asked = reporting()
        options += [f"--{name}" for name in ("jsonl", "quiet") if getattr(asked, name)]
        return [*before, "train", f"--config={self.config}", *options, "--", *self.overrides]

    def build(self) -> "tuple[Trainer, str]":
        """Returns the trainer and the full configuration as YAML."""
        from omegaconf import OmegaConf

        from sam2fast.training.config import build_trainer

        with _report_to_launcher(), as_user_error(OSError, ValueError, ImportError):
            loaded = self._load(verbose=os.environ.get("RANK", "0") == "0")
            if self.threads is not None:
                import torch

                torch.set_num_threads(self.threads)
            return build_trainer(loaded, self.allow_targets), OmegaConf.to_yaml(loaded)

    def show(self) -> None:
        """Prints the configuration and the estimated memory, together as YAML, and looks for the initial weights."""
        from sam2fast.training.memory_estimate import describe_memory

        trainer, text = self.build()
        say(text)
        with as_user_error(OSError, ValueError, ImportError):
            memory = list(describe_memory(trainer))
        for line in memory:
            say(f"# {line}")
        emit({"configuration": text, "memory": memory})
        with as_user_error(OSError, ValueError, ImportError):
            trainer.check_initial_weights()

    def __call__(self, interrupted: Callable[[], bool] | None = None) -> None:
        """Trains in this process. If ``interrupted()`` returns True after an update, saves and returns."""
        with deterministic() if self.deterministic and not is_deterministic() else nullcontext():
            self._train(interrupted)

    def _train(self, interrupted: Callable[[], bool] | None) -> None:
        from sam2fast.training.distributed.launch import ended, is_launched

        trainer, text = self.build()
        if reporting().quiet:
            trainer.logging.progress = False
        folder, is_main = Path(trainer.logging.log_dir), trainer.ranks.is_main

        def started() -> None:
            record = folder / RECORD
            if trainer.mode != "val" and trainer.is_complete:
                if _recorded(record) not in (None, text):
                    raise UserError(
                        f"the run in {folder} is complete, with another configuration: use another folder, or continue "
                        "it with more trainer.max_epochs"
                    )
                if is_main:
                    print_note(f"the run in {folder} is complete, after {trainer.steps} updates: nothing is trained")
            elif is_main:
                folder.mkdir(parents=True, exist_ok=True)
                remove_leftovers([record])
                if _recorded(record) not in (None, text):
                    print_note("the configuration differs from the configuration of the run so far")
                    record.replace(folder / f"config_resolved_until_{trainer.steps}.yaml")
                write_atomically(record, text.encode(errors="surrogateescape"))

        error_file = folder / ("error.txt" if is_main else f"error_{trainer.ranks.rank}.txt")
        stopping = stop_condition(self.minutes, interrupted, {signal.SIGINT} if is_launched() else STOPPING, is_main)
        # When another process fails, the launcher sends SIGTERM. This process first reports its own error.
        errors = as_user_error(OSError, ValueError, ImportError)
        with (
            without_tensorboards_traceback(),
            stopping as stop,
            _report_to_launcher(),
            errors,
            save_traceback(error_file),
        ):
            measures = trainer.run(stop, started)
            trainer.ranks.leave()
        ended()
        if is_main:
            bad = sum(loader.bad_samples for loader in trainer.data.values())
            is_complete = trainer.mode == "val" or trainer.is_complete
            progress = {"updates": trainer.steps, "complete": is_complete}
            checkpoints = str(trainer.checkpoint.save_dir)
            emit({"measures": dict(measures), **progress, "bad_samples": bad, "checkpoints": checkpoints})
            if bad:
                print_note(f"{bad} bad samples were replaced by others of their data sets: see the warnings")
            for name, value in measures.items():
                say(f"{name:8} {value:.2f}")
            if not is_complete:
                epoch = f"epoch {trainer.epoch + 1} of {trainer.max_epochs}"
                say(f"stopped after {trainer.steps} updates, in {epoch}; the same command continues")
            say(f"checkpoints in {checkpoints}")

    def _load(self, verbose: bool) -> Any:
        from sam2fast.training.config import load_training_config

        def report(line: str) -> None:
            if verbose and not reporting().quiet:
                click.echo(line, err=True)

        return load_training_config(self.config, self.overrides, report)


@contextmanager
def _report_to_launcher() -> Iterator[None]:
    """If a launcher started this process, reports errors to the launcher, and the launcher prints the errors."""
    from sam2fast.training.distributed.launch import is_launched, record
    from sam2fast.training.distributed.ranks import LostRankError

    try:
        yield
    except FixableError as error:
        if not is_launched():
            raise
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, LostRankError):
            cause = cause.__cause__
        record(format_error(error), is_lost=cause is not None)
        raise SystemExit(UserError.exit_code) from error


def _recorded(record: Path) -> str | None:
    """Returns the recorded configuration of the run, or None."""
    return record.read_text(encoding="utf-8", errors="surrogateescape") if record.exists() else None


@contextmanager
def stop_condition(
    minutes: float | None,
    interrupted: Callable[[], bool] | None = None,
    announced: Collection[int] = STOPPING,
    is_main: bool = True,
) -> Iterator[Callable[[], bool]]:
    """Yields a function that returns True if time is over, ``interrupted()`` is True, or the launcher was killed.

    If ``interrupted`` is None, the function returns True after Ctrl-C, SIGTERM or SIGHUP, except ignored signals, as
    under ``nohup``. A second such signal interrupts immediately. For signals in ``announced``, the main process prints
    a line. Under a launcher, leave SIGTERM out of ``announced``: a launcher sends SIGTERM after a failure.
    """
    from sam2fast.training.distributed.launch import is_abandoned

    end = None if minutes is None else time.monotonic() + 60 * minutes

    def announce(number: int) -> None:
        if is_main and number in announced:
            with suppress(RuntimeError):  # the signal interrupted a write, such as a write of the progress bar
                print_message("stopping after this update")

    with note_signals(announce, once=False) if interrupted is None else nullcontext() as received:

        def stop() -> bool:
            is_over = end is not None and time.monotonic() >= end
            return is_over or is_abandoned() or (bool(received) if interrupted is None else interrupted())

        yield stop


@contextmanager
def without_tensorboards_traceback() -> Iterator[None]:
    """Suppresses the traceback of an OSError in TensorBoard's thread, since the next flush raises the error again."""
    before = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        is_tensorboards = type(failure.thread).__module__.partition(".")[0] == "tensorboard"
        if not (is_tensorboards and isinstance(failure.exc_value, OSError)):
            before(failure)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


@contextmanager
def save_traceback(path: Path) -> Iterator[None]:
    """Writes the traceback of an exception in the block to a file, if the file's folder exists."""
    try:
        yield
    except Exception:
        # If writing the traceback fails, such as on a full disk, the original error is raised.
        with suppress(OSError):
            if path.parent.is_dir():
                path.write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
        raise
