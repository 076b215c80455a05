"""Prints the output of commands: text or lines of JSON, and progress bars."""

import functools
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import click
from tqdm import tqdm

from sam2fast.cli.terminal import echo, raise_closed_pipe

Command = TypeVar("Command", bound=Callable[..., Any])
META = "sam2fast.reporting"  # the key of the settings in click's context
JSONL = click.option(
    "--jsonl",
    is_flag=True,
    help="Print a line of JSON for each result, instead of text (docs/commands.md).",
)
QUIET = click.option("--quiet", "-q", is_flag=True, help="Print only errors, and JSON if an option asks for it.")
PROGRESS = click.option("--progress", is_flag=True, help="Show a progress bar even if stderr is not a terminal.")


class Reporting(NamedTuple):
    """The output options of a command."""

    jsonl: bool = False
    quiet: bool = False
    progress: bool = False


def reporting() -> Reporting:
    """Returns the settings of the running command, or the defaults in workers and outside of commands."""
    context = click.get_current_context(silent=True)
    settings: Reporting = Reporting() if context is None else context.meta.get(META, Reporting())
    return settings


def output_options(has_bar: bool = False) -> Callable[[Command], Command]:
    """Adds ``--jsonl --quiet``, and ``--progress`` for a command with a bar. :func:`reporting` returns the values."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def collected(*args: Any, jsonl: bool, quiet: bool, progress: bool = False, **kwargs: Any) -> Any:
            if jsonl and kwargs.get("as_json"):
                raise click.UsageError("--json prints one document, --jsonl prints lines; give one of them")
            if quiet and progress:
                raise click.UsageError("--quiet and --progress contradict each other; give one of them")
            click.get_current_context().meta[META] = Reporting(jsonl, quiet, progress)
            return command(*args, **kwargs)

        for option in (*((PROGRESS,) if has_bar else ()), QUIET, JSONL):
            collected = option(collected)
        return collected  # type: ignore[return-value]

    return decorate


def say(line: object = "") -> None:
    """Prints a line of text, except with ``--jsonl`` or ``--quiet``."""
    asked = reporting()
    if not (asked.jsonl or asked.quiet):
        echo(line)


def say_table(rows: Iterable[Sequence[str]], numbers: Collection[int] = ()) -> None:
    """Prints rows of equal length as a table. The columns ``numbers`` are right-aligned."""
    columns = []
    for i, column in enumerate(zip(*rows, strict=True)):
        width = max(map(len, column))
        columns.append([cell.rjust(width) if i in numbers else cell.ljust(width) for cell in column])
    for row in zip(*columns, strict=True):
        say("  ".join(row).rstrip())


def emit(record: Mapping[str, Any]) -> None:
    """Prints a record as a line of JSON if ``--jsonl`` is set."""
    if reporting().jsonl:
        echo(json.dumps(record, allow_nan=False))


class _Bar(tqdm):
    """A progress bar that raises :class:`~sam2fast.cli.terminal.ClosedPipeError` if stderr is a closed pipe."""

    def display(self, *args: Any, **named: Any) -> Any:
        with raise_closed_pipe():
            return super().display(*args, **named)


def progress_bar(what: str, total: int | None, unit: str, initial: int = 0) -> tqdm:
    """Returns a bar with the rate and the time left. If stderr is a terminal, or by ``--progress``, shows the bar."""
    asked = reporting()
    disable = True if asked.quiet else False if asked.progress else None
    return _Bar(total=total, desc=what, unit=f" {unit}", initial=initial, smoothing=0, disable=disable)
