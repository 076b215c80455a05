"""Exceptions for errors that users can fix."""

from collections.abc import Iterator
from contextlib import contextmanager


class FixableError(Exception):
    """Error in the input, the files or the machine. Commands print the message without a traceback."""


class MissingLibraryError(FixableError, ImportError):
    """Error for an optional library that is not installed. The message names the extra."""


@contextmanager
def requires(message: str) -> Iterator[None]:
    """Context manager that converts an ImportError to :class:`MissingLibraryError` with this message."""
    try:
        yield
    except ImportError as error:
        raise MissingLibraryError(message) from error
