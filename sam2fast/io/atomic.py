"""Atomic writes, the leftovers of killed processes, and file-system errors that name their file."""

import errno
import math
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

# The disk or the user's quota is full.
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
# Seconds without a change after which a temporary file counts as abandoned; another machine may still be writing it.
STALE_AFTER_SECONDS = 600.0
# A path that does not exist and cannot be created. Messages show it, so it names the reason.
NOWHERE = Path(os.devnull, "no home directory")
PARTIAL = re.compile(r"\.(?P<name>.+)\.[0-9a-f]+\.part")  # a name of :func:`beside`


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """A binary file to write. At the end it is flushed to the disk and moved to ``path``; its folder is created.

    If writing fails, ``path`` keeps its content, and no temporary file is left. A killed process leaves a file
    ``.NAME.NUMBER.tmp`` beside ``path``, or beside the target of a symlink.

    Raises:
        OSError: it cannot be written; the error names ``path``.
    """
    with annotate_oserror(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path, beside(resolve_symlinks(path), "tmp")) as temporary, temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def atomic_path(path: Path, partial: Path | None = None, in_folder: bool = False) -> Iterator[Path]:
    """A temporary path to write to, which is renamed to ``path`` at the end; on an error it is removed.

    Args and raises: see :class:`AtomicFile`.
    """
    with annotate_oserror(path):
        writing = AtomicFile(path, partial, in_folder)
        try:
            yield writing.name
            writing.finish()
        finally:
            writing.discard()


class AtomicFile:
    """A file that is written under a temporary name; :func:`atomic_path` is its context manager.

    A symlink stays, and its target is replaced or created. A replaced file keeps its mode, but not its owner or its
    hard links.

    Args:
        partial: the temporary path; ``.NAME.NUMBER.part`` beside ``path`` by default. A killed process leaves it.
        in_folder: make ``partial`` a folder and write the file in it, for writers that create other files beside
            theirs.

    Attributes:
        name: the path to write to.

    Raises:
        OSError: it cannot be written, or ``path`` is a device or a pipe.
        ValueError: ``path`` is no valid file name.
    """

    def __init__(self, path: Path, partial: Path | None = None, in_folder: bool = False) -> None:
        self._folder: Path | None = None
        with annotate_oserror(path):
            self._target = resolve_symlinks(path)
            if path.exists() and not path.is_file() and not path.is_dir():
                raise OSError(errno.EINVAL, "a device or a pipe, and only files are written", str(path))
            self.name = partial or beside(self._target)
            if in_folder:
                self.name.mkdir()
                self._folder, self.name = self.name, self.name / self._target.name

    def finish(self) -> None:
        """Moves it to ``path``."""
        with annotate_oserror(self._target):
            if self._target.is_file():
                shutil.copymode(self._target, self.name)
            os.replace(self.name, self._target)

    def discard(self) -> None:
        """Removes the temporary file; does nothing after :meth:`finish`."""
        self.name.unlink(missing_ok=True)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def resolve_symlinks(path: Path) -> Path:
    """The file that ``open`` would create or replace: ``path``, or the target of a symlink, which need not exist.

    Raises:
        OSError: the symlinks form a loop.
        ValueError: ``path`` is no valid file name.
    """
    if "\0" in str(path):
        raise ValueError(f"{str(path)!r} has a null character, and no file can have that name")
    if not os.path.islink(path):
        return path
    target = Path(os.path.realpath(path))
    if os.path.islink(target):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def expanded(path: str | Path) -> Path:
    """A path with ``~`` expanded. Without a home directory it is below :data:`NOWHERE`, which does not exist."""
    path = Path(path)
    try:
        return path.expanduser()
    except RuntimeError:
        return NOWHERE.joinpath(*path.parts[1:])


def unique_number() -> int:
    """A random number for a unique name; process ids are not unique across containers."""
    return int.from_bytes(os.urandom(6), "big")


def beside(path: Path, ending: str = "part") -> Path:
    """Returns the temporary path ``.NAME.NUMBER.part`` for a path."""
    return path.with_name(f".{path.name}.{unique_number()}.{ending}")


def remove(path: Path) -> None:
    """Removes a file or a whole folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(paths: Iterable[Path], is_spread: bool = False) -> None:
    """Removes partial files and folders that killed processes left for these paths. Folders that stay are no error.

    Args:
        is_spread: True if other processes may write the paths. Then recently changed files and folders stay.
    """
    names: dict[Path, set[str]] = {}
    latest = time.time() - STALE_AFTER_SECONDS if is_spread else math.inf
    for path in map(resolve_symlinks, paths):
        names.setdefault(path.parent, set()).add(path.name)
    for folder in filter(Path.is_dir, names):
        for path in list(folder.iterdir()):
            found = PARTIAL.fullmatch(path.name)
            with suppress(FileNotFoundError):  # another process removed it first
                if found and found["name"] in names[folder] and _changed(path) <= latest:
                    if path.is_dir():
                        # A process that still writes it cannot move an incomplete folder to its place.
                        with suppress(OSError):
                            path = path.rename(beside(folder / found["name"]))
                            shutil.rmtree(path, ignore_errors=True)
                    else:
                        path.unlink()


def _changed(path: Path) -> float:
    """Returns the time of the last change of a file, or of a folder and its subfolders."""
    return max(os.lstat(at).st_mtime for at in [str(path), *(folder for folder, _, _ in os.walk(path))])


@contextmanager
def annotate_oserror(path: Path) -> Iterator[None]:
    """Adds ``path`` to an ``OSError`` that names no file, such as a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or os.strerror(error.errno), str(path)) from error
