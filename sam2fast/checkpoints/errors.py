"""What goes wrong with checkpoints, and how their names are listed."""

from collections.abc import Sequence

SHOWN = 8  # names listed in an error before "and N more"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read, or does not belong to the model."""


class NoConfigError(CheckpointError):
    """No configuration can be told from a checkpoint; one has to be named."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type where there is none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def listed(names: Sequence[str]) -> str:
    """Some of the names, and how many more there are."""
    rest = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")
