"""Writes and locks files and folders, removes temporary files, and adds paths to file-system errors."""

import errno
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

# Error codes for a full disk or an exhausted quota.
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
# Seconds without changes after which a temporary file counts as abandoned, if other machines may write the file.
STALE_AFTER_SECONDS = 600.0
# Path that cannot exist. In messages, the name explains the reason.
NOWHERE = Path(os.devnull, "no home directory")


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Context manager that yields a binary file, and moves it to ``path`` at the end; see :func:`atomic_path`."""
    with annotate_oserror(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial, partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def atomic_path(path: Path, workspace: Path | None = None, in_folder: bool = False) -> Iterator[Path]:
    """Context manager that yields a temporary path. At the end, the file or folder there replaces ``path``.

    After an error, the temporary file is removed. If ``path`` is a symlink, the target of the symlink is replaced or
    created. The new file gets the mode of the replaced file, but not the owner or hard links.

    Args:
        workspace: Folder for the temporary path, on the same file system; see :func:`temporary_path`.
        in_folder: If True, yields a path with the name of ``path`` in a temporary folder, for writers that need the
            suffix or create other files in the folder.

    Raises:
        OSError: If the path cannot be written, or is a device or a pipe.
        ValueError: If ``path`` is not a valid file name.
    """
    with annotate_oserror(path):
        target = resolve_symlinks(path)
        if path.exists() and not path.is_file() and not path.is_dir():
            raise OSError(errno.EINVAL, "expected a file, not a device or a pipe", str(path))
        with temporary_path(target, workspace) as partial:
            if in_folder:
                partial.mkdir()
                partial = partial / target.name
            yield partial
            for new in [partial, *(partial.iterdir() if partial.is_dir() else ())]:
                with suppress(FileNotFoundError):  # the target may be a new file
                    shutil.copymode(target / new.relative_to(partial), new)
            if partial.is_dir() and target.is_dir():
                replace_all([(partial, target)])
            else:
                os.replace(partial, target)


@contextmanager
def filled(target: Path, last: str) -> Iterator[Path]:
    """Context manager that yields a temporary folder. Moves the folder to ``target`` at the end. Removes it on errors.

    An existing ``target`` may be a mount point, which cannot be replaced. If ``target`` exists, files are moved into
    ``target`` one by one, and the file named ``last`` is moved last.

    Raises:
        FileExistsError: If another process has written files into ``target``.
    """
    exists = target.is_dir()
    target.parent.mkdir(parents=True, exist_ok=True)
    with temporary_path(target, target if exists else None) as partial:
        partial.mkdir()
        yield partial
        if not exists:
            os.replace(partial, target)
            return
        if others := sorted(set(os.listdir(target)) - {partial.name}):
            raise FileExistsError(f"another process has written {others[0]!r} into the folder {str(target)!r}")
        for name in sorted(os.listdir(partial), key=lambda name: name == last):
            os.replace(partial / name, target / name)


@contextmanager
def temporary_path(path: Path, workspace: Path | None = None) -> Iterator[Path]:
    """Context manager that yields a path ``.NAME.NUMBER.part`` in ``workspace``, or beside ``path``, and removes it."""
    partial = beside(path if workspace is None else workspace / path.name)
    try:
        yield partial
    finally:
        with suppress(OSError):
            remove(partial)


def replace_all(moves: Sequence[tuple[Path, Path]]) -> None:
    """Moves new files and folders to their targets, in this order. After an error, restores the previous targets.

    If the process is killed, previous targets stay in a folder :func:`beside` the last target. See :func:`restore`.
    """
    before = beside(moves[-1][1])
    before.mkdir()
    previous = [before / f"{target.name}.{number}" for number, (_, target) in enumerate(moves)]
    try:
        for (_, target), backup in zip(moves, previous, strict=True):
            if os.path.lexists(target):
                target.rename(backup)
        for new, target in moves:
            new.rename(target)
    except BaseException:
        if moves[-1][0].exists():
            for (new, target), backup in reversed([*zip(moves, previous, strict=True)]):
                if not new.exists():
                    remove(target)
                if os.path.lexists(backup):
                    backup.rename(target)
        shutil.rmtree(before, ignore_errors=True)
        raise
    shutil.rmtree(before, ignore_errors=True)


def restore(path: Path) -> None:
    """Restores a folder that a killed process moved away in :func:`replace_all`, and removes temporary files."""
    for partial in list(path.parent.iterdir()):
        previous = partial / f"{path.name}.0"
        if target_of(partial) == path and previous.exists() and not os.path.lexists(path):
            previous.rename(path)
    remove_leftovers([path])


@contextmanager
def locked(path: Path, on_wait: Callable[[], object] | None = None) -> Iterator[None]:
    """Context manager that holds a lock on ``path``, so that only one process writes ``path``.

    Args:
        on_wait: Function called before waiting for another process. If None, raises an error instead of waiting.

    Raises:
        OSError: If another process is writing ``path``.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        if on_wait is None:
            raise OSError(f"another process is writing {path}; wait for it") from error
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        try:
            # The lock file is removed while the lock is held. The next process notices the removal, and creates a new
            # file.
            with suppress(OSError):  # on Windows, open files cannot be removed; the file may stay
                Path(lock.lock_file).unlink()
        finally:
            lock.release()


def resolve_symlinks(path: Path) -> Path:
    """Returns the file that ``open`` would create or replace: ``path``, or for a symlink its target.

    Raises:
        OSError: If symlinks form a loop.
        ValueError: If ``path`` is not a valid file name.
    """
    if "\0" in str(path):
        raise ValueError(f"{str(path)!r} has a null character, which file names cannot contain")
    if not os.path.islink(path):
        return path
    target = Path(os.path.realpath(path))
    if os.path.islink(target):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def expanded(path: str | Path) -> Path:
    """Expands ``~`` in a path. If there is no home directory, returns a path below :data:`NOWHERE`."""
    path = Path(path)
    try:
        return path.expanduser()
    except RuntimeError:
        return NOWHERE.joinpath(*path.parts[1:])


def beside(path: Path) -> Path:
    """Returns a temporary path ``.NAME.NUMBER.part`` beside ``path``. See :func:`target_of`."""
    return path.with_name(f".{path.name}.{int.from_bytes(os.urandom(6), 'big')}.part")


def target_of(partial: Path) -> Path | None:
    """Returns the target of a temporary path, or None if the path is not temporary."""
    match = re.fullmatch(r"\.(.+)\.[0-9a-f]+\.part", partial.name)
    return partial.with_name(match[1]) if match else None


def remove(path: Path) -> None:
    """Removes a file, or a folder with all content. Missing paths are ignored."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(paths: Iterable[Path], is_spread: bool = False) -> None:
    """Removes temporary files and folders of killed processes, for these paths. Ignores errors of folders.

    Args:
        is_spread: If True, other processes may be writing the paths, so recently changed files and folders stay.
    """
    targets = set(map(resolve_symlinks, paths))
    latest = time.time() - STALE_AFTER_SECONDS if is_spread else math.inf
    for folder in filter(Path.is_dir, {path.parent for path in targets}):
        for path in list(folder.iterdir()):
            target = target_of(path)
            with suppress(FileNotFoundError):  # another process may have removed the path
                if target in targets and _changed(path) <= latest:
                    if path.is_dir():
                        # Renames the path first, so that a process that still writes to the path cannot move it to the
                        # target.
                        with suppress(OSError):
                            path = path.rename(beside(target))
                            shutil.rmtree(path, ignore_errors=True)
                    else:
                        path.unlink()


def _changed(path: Path) -> float:
    """Returns the time of the last change of a file, or of a folder and its subfolders."""
    return max(os.lstat(at).st_mtime for at in [str(path), *(folder for folder, _, _ in os.walk(path))])


@contextmanager
def annotate_oserror(path: Path) -> Iterator[None]:
    """Context manager that adds ``path`` to an ``OSError`` without a file name, such as an error of a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror or os.strerror(error.errno), str(path)) from error
