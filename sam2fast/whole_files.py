"""Files that appear whole or not at all, and what goes wrong with them; a leaf that anybody may import."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

# No room on the disk, or none left of what this user may take of it.
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def has_no_locks(error: OSError | NotImplementedError) -> bool:
    """Whether filelock failed since the file system locks nothing, as some on networks; older versions of it say so."""
    return isinstance(error, NotImplementedError) or error.errno in WITHOUT_LOCKS


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which is moved to ``path`` once it is on the disk; its folder is made.

    Where writing fails, what was at ``path`` stays, and nothing is left behind. A process that is killed leaves a file
    ``.*.tmp`` beside it.

    Raises:
        OSError: it cannot be written; the error names ``path``.
    """
    with errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with moved_to(path, temporary), temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def moved_to(path: Path, partial: Path | None = None) -> Iterator[Path]:
    """A name beside ``path`` to write under; afterwards that is ``path``, and on an error there is nothing of it.

    Args:
        partial: the name, by default ``.NAME.PID.part``. A process that is killed leaves it.

    Raises:
        OSError: it cannot be written; the error has a name.
    """
    partial = partial or path.with_name(f".{path.name}.{os.getpid()}.part")
    with errors_named(path):
        try:
            yield partial
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Gives errors of the file system that do not say which file they are about, such as a full disk, its name."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
