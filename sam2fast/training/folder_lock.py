"""The lock of a folder that a run uses."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sam2fast.checkpoints import CheckpointError
from sam2fast.io.atomic import resolved
from sam2fast.training.snapshots import CURRENT, PREVIOUS

_log = logging.getLogger(__name__)

_open: set[IO[str]] = set()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside, no other run can use the folder. What killed runs left half-written is removed.

    Where files cannot be locked, a warning says so, and nothing is removed, since another run may be writing it.

    Raises:
        CheckpointError: another run uses it.
        OSError: it cannot be made or read, or a checkpoint is a link that leads in a circle.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with lock_file(folder / ".lock") as file:
        if _lock(file, folder):
            for left in _left_behind(folder):
                left.unlink(missing_ok=True)
        yield


def _left_behind(folder: Path) -> Iterator[Path]:
    """Also beside what the checkpoints' links lead to, where files of other runs may lie: there by the whole name."""
    yield from folder.glob(".*.tmp")
    for checkpoint in (folder / CURRENT, folder / PREVIOUS):
        target = resolved(checkpoint)
        name = re.compile(rf"\.{re.escape(target.name)}\.\d+\.tmp")
        yield from (path for path in target.parent.glob(".*.tmp") if name.fullmatch(path.name))


def _lock(file: IO[str], folder: Path) -> bool:
    """Whether no other run can use the folder from now on; not known where files cannot be locked."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # not on Windows
        return False
    except BlockingIOError as error:
        raise CheckpointError(f"another run uses {folder}; wait for it, or choose another folder") from error
    except OSError as error:  # some network file systems have no locks
        _log.warning("%s cannot be locked (%s): see to it that no other run uses it", folder, error)
        return False
    return True


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
