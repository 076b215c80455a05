"""The file whose lock says that a run uses a folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

_open: set[IO[str]] = set()


@contextmanager
def lock_file(path: Path) -> Iterator[IO[str]]:
    """A file to lock, open for this process alone.

    A lock is held until every process has closed the file that it got from the one which locked it. So those that are
    forked, such as workers that make batches, close it at once: they may outlive a run that is killed, by seconds in
    which it could not be started again.
    """
    with path.open("w", encoding="utf-8") as file:
        _open.add(file)
        try:
            yield file
        finally:
            _open.discard(file)


def _close_in_child() -> None:
    while _open:
        _open.pop().close()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_close_in_child)
