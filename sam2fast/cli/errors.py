"""What goes wrong because of the user's input becomes one line on stderr and an exit code."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click

from sam2fast.io.atomic import FULL


class UserError(click.ClickException):
    """A failure that needs no traceback."""

    exit_code = 1

    def show(self, file: IO[Any] | None = None) -> None:
        """Prints the message to stderr as one line."""
        click.echo(f"sam2fast: {self.format_message()}", file=file, err=file is None)


class MissingCheckpointError(UserError):
    """The weights of the model are not on this machine."""

    exit_code = 3


@contextmanager
def one_line(*kinds: type[Exception]) -> Iterator[None]:
    """Turns exceptions of these kinds into :class:`UserError`; put it only around what fails by the user's input."""
    try:
        yield
    except kinds as error:
        raise UserError(told(error)) from error


def told(error: Exception) -> str:
    """An exception as one line; a full disk is told in words, and with the file if the error has it."""
    if getattr(error, "errno", None) in FULL:
        file = getattr(error, "filename", None)
        return "the disk is full" + (f": {os.fsdecode(file)} could not be written" if file else "")
    return " ".join(str(error).split()) or type(error).__name__
