"""What goes wrong because of the user's input becomes one line on stderr and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import click


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
        raise UserError(" ".join(str(error).split()) or type(error).__name__) from error
