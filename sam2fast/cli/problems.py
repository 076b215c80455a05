"""Files of a data set that could not be done: told as they come, and all of them again at the end."""

import re
import sys
from pathlib import Path

import click
from tqdm import tqdm

from sam2fast.cli.errors import UserError

SHOWN = 50  # in the report; all were told before


class Problems:
    """What went wrong, by what it concerns.

    Args:
        things: what is counted, such as ``videos``.
    """

    def __init__(self, things: str) -> None:
        self._things = things
        self.found: list[tuple[str, str]] = []

    def add(self, subject: str | Path, why: str) -> None:
        """Notes one, and prints it to stderr, around a bar if there is one."""
        line = " ".join(why.split())
        self.found.append((str(subject), line))
        with tqdm.external_write_mode(file=sys.stderr):
            click.echo(f"sam2fast: {_told(str(subject), line)}", err=True)

    def raise_if_any(self, count: int) -> None:
        """Prints the report, if there is anything to report.

        Args:
            count: of all the things, done or not.

        Raises:
            UserError: there is; the command's exit code is 1 then.
        """
        if not self.found:
            return
        click.echo(f"sam2fast: not done, or not whole, {len(self.found)} of {count} {self._things}:", err=True)
        for subject, line in self.found[:SHOWN]:
            click.echo(f"  {_told(subject, line)}", err=True)
        if len(self.found) > SHOWN:
            click.echo(f"  and {len(self.found) - SHOWN} more, told above", err=True)
        raise UserError(f"{len(self.found)} of {count} {self._things} had problems; all else was done")


def _told(subject: str, line: str) -> str:
    # As words of its own: a video may be called "a".
    is_named = re.search(rf"(?<!\w){re.escape(subject)}(?!\w)", line)
    return line if is_named else f"{subject}: {line}"
