"""What is shown while bytes arrive: a bar on a terminal, a line now and then in a log, or nothing."""

import sys
import time
from typing import Any, TextIO

SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Shows nothing; the other two show the same calls."""

    def start(self, name: str, done: int, total: int | None) -> None:
        """A transfer of ``total`` bytes goes on after the first ``done``; called again when it is taken up again."""

    def advance(self, count: int) -> None:
        """More bytes have arrived."""

    def note(self, text: str) -> None:
        """Something else that the user should know."""

    def close(self) -> None:
        """The transfer is over, whether it is complete or not."""


class BarProgress(Progress):
    """A bar on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: Any = None

    def start(self, name: str, done: int, total: int | None) -> None:
        """Draws the bar, or sets it to where the transfer now is."""
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(
                total=total, initial=done, desc=name, unit="B", unit_scale=True, unit_divisor=1024, file=self._stream
            )
        self._bar.total = total
        self._bar.n = done
        self._bar.refresh()

    def advance(self, count: int) -> None:
        """Moves the bar."""
        self._bar.update(count)

    def note(self, text: str) -> None:
        """Writes a line above the bar."""
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Leaves the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class LineProgress(Progress):
    """Lines in a log: one at the start, one at the end and, at most every five seconds, one between."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._name, self._done, self._total = "", 0, None  # type: tuple[str, int, int | None]
        self._printed = 0.0

    def start(self, name: str, done: int, total: int | None) -> None:
        """Writes where the transfer begins, unless it is the same one taken up soon."""
        is_new = name != self._name
        self._name, self._done, self._total = name, done, total
        self._print(now=is_new)

    def advance(self, count: int) -> None:
        """Writes a line if the last one is long enough ago, or everything is there."""
        self._done += count
        self._print(now=self._done == self._total)

    def note(self, text: str) -> None:
        """Writes a line."""
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Forgets the transfer."""
        self._name = ""

    def _print(self, now: bool) -> None:
        if now or time.monotonic() - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = time.monotonic()
            share = f" of {self._total / 1e6:.1f} MB, {self._done / self._total:.0%}" if self._total else " MB"
            print(f"{self._name}: {self._done / 1e6:.1f}{share}", file=self._stream, flush=True)


def default_progress(quiet: bool = False) -> Progress:
    """A bar where stderr is a terminal, else lines; nothing if ``quiet``, or where there is no stderr."""
    if quiet or sys.stderr is None:  # which a program without a console lacks
        return Progress()
    return BarProgress(sys.stderr) if sys.stderr.isatty() else LineProgress(sys.stderr)
