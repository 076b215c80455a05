"""Reports errors of the user's input: one line on stderr and an exit code, or a list of failed inputs."""

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click
from tqdm import tqdm

from sam2fast.cli.reporting import emit, reporting
from sam2fast.cli.terminal import echo
from sam2fast.io.atomic import FULL
from sam2fast.utils.errors import FixableError


class UserError(FixableError, click.ClickException):
    """An error of the user's input, shown without a traceback."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Prints the message to stderr as one line."""
        click.echo(f"sam2fast: {self.format_message()}", file=file, err=file is None)


class MissingCheckpointError(UserError):
    """Raised if the weights of the model are not on this machine."""

    exit_code = 3


class ModelError(UserError):
    """Raised if the model cannot be loaded, so that no input can be processed."""


class WriteError(UserError):
    """Raised if results cannot be written. WriteError ends the run."""


USER_ERRORS = FixableError, OSError  # errors with messages that need no traceback
NOTE = "sam2fast: note: "  # beginning of the line of a note


@contextmanager
def as_user_error(*exc_types: type[Exception]) -> Iterator[None]:
    """Raises exceptions of ``exc_types`` as UserError, for types that do not derive from FixableError."""
    try:
        yield
    except exc_types as error:
        raise UserError(format_error(error)) from error


@contextmanager
def as_model_error() -> Iterator[None]:
    """Raises the errors of loading a model as :class:`ModelError`."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise ModelError(format_error(error)) from error


def format_error(error: Exception) -> str:
    """Returns the message of an exception as one line. If a disk is full, the message names the file, if known."""
    if getattr(error, "errno", None) in FULL:
        file = getattr(error, "filename", None)
        return "the disk is full" + (f": {os.fsdecode(file)} could not be written" if file else "")
    return " ".join(str(error).split()) or type(error).__name__


def print_note(text: str) -> None:
    """Prints a note to stderr. Prints nothing with ``--quiet``."""
    if not reporting().quiet:
        with tqdm.external_write_mode(file=sys.stderr):  # prints above any progress bar
            echo(f"{NOTE}{text}", err=True)


class _NoteHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print_note(record.getMessage())


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Prints the package's log and all warnings as notes: each text of a warning once, without the line of code."""
    printed: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in printed:
            printed.add(str(message))
            print_note(str(message))

    logger, handler = logging.getLogger("sam2fast"), _NoteHandler(logging.WARNING)
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            warnings.filterwarnings("ignore", module=r"PIL\.")  # hides warnings on damaged metadata
            yield
    finally:
        logger.removeHandler(handler)


MAX_REPORTED = 50  # maximum number of lines in the final report


class ErrorReport:
    """Reports failed inputs at once, and again at the end. With a single input, the input's error ends the command."""

    def __init__(self, unit: str, is_single: bool = False) -> None:
        self._unit, self._is_single = unit, is_single
        self.found: list[tuple[str, str]] = []

    def add(self, subject: object, why: str) -> None:
        """Adds a failure, and prints it to stderr above any progress bar."""
        line = " ".join(why.split())
        self.found.append((str(subject), line))
        emit({"input": str(subject), "error": line})
        if self._is_single:
            return
        with tqdm.external_write_mode(file=sys.stderr):
            echo(f"sam2fast: {_format_subject(str(subject), line)}", err=True)

    def raise_if_any(self, count: int) -> None:
        """Prints the report and raises UserError if any of ``count`` inputs failed."""
        if not self.found:
            return
        if self._is_single:
            raise UserError(_format_subject(*self.found[0]))
        if len(self.found) > 1:  # a single failure is already printed
            click.echo(f"sam2fast: failed or incomplete: {len(self.found)} of {count} {self._unit}:", err=True)
            for subject, line in self.found[:MAX_REPORTED]:
                click.echo(f"  {_format_subject(subject, line)}", err=True)
            if len(self.found) > MAX_REPORTED:
                click.echo(f"  and {len(self.found) - MAX_REPORTED} more, listed above", err=True)
        raise UserError(f"{len(self.found)} of {count} {self._unit} had problems; all else was done")


def _format_subject(subject: str, line: str) -> str:
    # The subject must be a whole word, since a video may be called "a".
    is_named = re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", line)
    return line if is_named else f"{subject}: {line}"
