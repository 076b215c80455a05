"""Atomic writes, and errors of the file system that name their file; a leaf that anybody may import."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

# No room on the disk, or none left of what this user may take of it.
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
MOST_TEXT = 64 << 20  # bytes of prompts, or of names: half a million prompts, and memory that any machine has
# Seconds without a change after which a temporary file counts as left behind, where other machines may be writing too.
SECONDS_TO_WRITE = 600.0
# Where nothing is and nothing can be made, with a reason that can be read in messages.
NOWHERE = Path(os.devnull, "no home directory")


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write, which is flushed to the disk and then moved to ``path``; its folder is made.

    If writing fails, what was at ``path`` stays, and nothing is left behind. A process that is killed leaves a file
    ``.NAME.NUMBER.tmp`` beside ``path``, or beside what a link leads to.

    Raises:
        OSError: it cannot be written; the error names ``path``.
    """
    with errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with moved_to(path, _beside(resolved(path), "tmp")) as temporary, temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def moved_to(path: Path, partial: Path | None = None, in_folder: bool = False) -> Iterator[Path]:
    """A temporary name to write under, which becomes ``path`` at the end; on an error nothing of it is left.

    Args and raises: see :class:`Partial`.
    """
    with errors_named(path):
        writing = Partial(path, partial, in_folder)
        try:
            yield writing.name
            writing.finish()
        finally:
            writing.discard()


class Partial:
    """A file that is being written under a temporary name, for those who cannot use :func:`moved_to`.

    A symlink stays, and what it leads to is replaced, which need not be there. A file that is replaced hands on its
    mode, but not its owner or its hard links.

    Args:
        partial: the temporary name, by default ``.NAME.NUMBER.part`` beside ``path``. A process that is killed leaves
            it.
        in_folder: that name is of a folder, and in it lies the file, for writers that make other files beside theirs.

    Attributes:
        name: to write under.

    Raises:
        OSError: it cannot be written, or ``path`` is a device or a pipe.
        ValueError: no file can have the name ``path``.
    """

    def __init__(self, path: Path, partial: Path | None = None, in_folder: bool = False) -> None:
        self._folder: Path | None = None
        with errors_named(path):
            self._target = resolved(path)
            if path.exists() and not path.is_file() and not path.is_dir():
                raise OSError(errno.EINVAL, "a device or a pipe, and only files are written", str(path))
            self.name = partial or _beside(self._target, "part")
            if in_folder:
                self.name.mkdir()
                self._folder, self.name = self.name, self.name / self._target.name

    def finish(self) -> None:
        """Moves it to ``path``."""
        with errors_named(self._target):
            if self._target.is_file():
                shutil.copymode(self._target, self.name)
            os.replace(self.name, self._target)

    def discard(self) -> None:
        """Leaves nothing behind, unless the file was moved."""
        self.name.unlink(missing_ok=True)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def resolved(path: Path) -> Path:
    """What ``open`` would make or replace: ``path``, or what it leads to if it is a symlink.

    Raises:
        OSError: it leads in a circle.
        ValueError: no file can have that name.
    """
    if "\0" in str(path):
        raise ValueError(f"{str(path)!r} has a null character, and no file can have that name")
    if not os.path.islink(path):
        return path
    target = Path(os.path.realpath(path))
    if os.path.islink(target):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def read_limited(path: Path, most: int = MOST_TEXT) -> bytes:
    """What is in a file of text.

    Raises:
        OSError: it cannot be read, or there are more than ``most`` bytes.
    """
    with errors_named(path), path.open("rb") as file:
        content = file.read(most + 1)
        if len(content) > most:
            raise OSError(errno.EFBIG, f"more than {most >> 20} MiB, which nobody has written", str(path))
    return content


def expanded(path: str | Path) -> Path:
    """A path with ``~`` filled in. Without a home directory, as of an unknown user, nothing is found below it."""
    path = Path(path)
    try:
        return path.expanduser()
    except RuntimeError:
        return NOWHERE.joinpath(*path.parts[1:])


def own_number() -> int:
    """For a name that nobody else has: in containers on several machines processes have the same numbers."""
    return int.from_bytes(os.urandom(6), "big")


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}.{own_number()}.{ending}")


@contextmanager
def errors_named(path: Path) -> Iterator[None]:
    """Gives errors of the file system that do not say which file they are about, such as a full disk, its name."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or os.strerror(error.errno), str(path)) from error
