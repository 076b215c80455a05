"""One process at a time downloads a file; the others wait and find it."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sam2fast.downloads.part_file import local_errors
from sam2fast.downloads.progress import Progress
from sam2fast.whole_files import has_no_locks


@contextmanager
def locked(path: Path, what: str, progress: Progress) -> Iterator[None]:
    """Holds the lock that the file ``path`` stands for.

    The operating system frees it when the process ends, however it ends; the file may stay and means nothing then.

    Raises:
        LocalError: the file cannot be written.
    """
    from filelock import FileLock, Timeout

    with local_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.note(f"another process is downloading {what}; waiting for it")
            lock.acquire()
        except (OSError, NotImplementedError) as error:
            if not has_no_locks(error):
                raise
            progress.note(f"{path.parent} cannot be locked ({error}): let nobody else download {what} now")
    try:
        yield
    finally:
        lock.release()


def beside(target: Path) -> Path:
    """The lock of a file that belongs to no shared cache."""
    return target.with_name(f".{target.name}.lock")


def remove(path: Path) -> None:
    """Removes a lock file whose purpose is fulfilled, which whoever waits for it will see before doing anything."""
    with contextlib.suppress(OSError):
        path.unlink()
