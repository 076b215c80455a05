"""Errors that the user can fix."""

from collections.abc import Iterator
from contextlib import contextmanager


class FixableError(Exception):
    """An error of the input, the files or the machine. Commands print its message without a traceback."""


class MissingLibraryError(FixableError, ImportError):
    """An optional library is not installed. The message names the extra."""


@contextmanager
def requires(message: str) -> Iterator[None]:
    """Raises an ImportError of the block as :class:`MissingLibraryError` with this message."""
    try:
        yield
    except ImportError as error:
        raise MissingLibraryError(message) from error
