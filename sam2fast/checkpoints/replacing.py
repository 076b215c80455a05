"""A checkpoint's file or folder appears whole or not at all, whatever happens to the process that writes it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from sam2fast.checkpoints.folders import CONFIG_FILE
from sam2fast.io.atomic import errors_named, own_number, resolved

WEIGHTS_FILE = "model.safetensors"  # of a folder in the layout of transformers


def check_free(path: Path, force: bool) -> None:
    """Checks that nothing would be lost by writing to ``path``.

    Raises:
        FileExistsError: there is something already; with ``force`` something other than what would be written.
        OSError: ``path`` is a symlink that leads in a circle.
    """
    path = resolved(path)
    if not os.path.lexists(path):
        return
    if not force:
        raise FileExistsError(f"{path} is already there, and only replaced by force")
    if not path.is_file() and not path.is_dir():
        raise FileExistsError(f"{path} is a device or a pipe, and a checkpoint can only be written to a file")
    if path.is_dir() and (others := sorted({file.name for file in path.iterdir()} - {WEIGHTS_FILE, CONFIG_FILE})):
        raise FileExistsError(f"the folder {path} has other things in it, such as {others[0]}, and is not replaced")


@contextmanager
def replacing(path: Path, force: bool) -> Iterator[Path]:
    """A name to write under; afterwards that is ``path``, and on an error there is nothing of it.

    What a killed process has left here is put right by the next one. A symlink stays, and what it leads to is replaced.
    Its mode stays as well.

    Raises:
        FileExistsError: see :func:`check_free`.
        OSError: it cannot be written, or another process is writing it.
    """
    path = resolved(path)
    check_free(path, force)
    number = own_number()
    # In a folder the name stays, since readers go by its suffix.
    folder, before = (path.with_name(f".{number}.{kind}.{path.name}") for kind in ("part", "before"))
    partial = folder / path.name
    with errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _by_one_process(path):
            check_free(path, force)  # what a killed process had put aside is there again
            try:
                folder.mkdir()
                yield partial
                check_free(path, force)
                _move(partial, path, before)
            finally:
                _remove(folder)


def _move(partial: Path, path: Path, before: Path) -> None:
    if partial.is_dir() != path.is_dir() and os.path.lexists(path):
        raise FileExistsError(f"{path} is a {'folder' if path.is_dir() else 'file'}, and is not replaced")
    for new in [*(partial.iterdir() if partial.is_dir() else ()), partial]:
        with suppress(FileNotFoundError):  # there is none before
            shutil.copymode(path / new.relative_to(partial), new)
    if not path.is_dir():
        os.replace(partial, path)
        return
    # A folder that is not empty cannot be replaced in one step.
    os.rename(path, before)
    try:
        os.rename(partial, path)
    except BaseException:
        os.rename(before, path)
        raise
    shutil.rmtree(before)


@contextmanager
def _by_one_process(path: Path) -> Iterator[None]:
    """Inside, nobody else writes the checkpoint; so what is found of others' is of processes that were killed."""
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OSError(f"another process is writing {path}; wait for it") from error
    try:
        _put_right(path)
        yield
    finally:
        try:
            # While it is held: whoever takes it next sees that its file is gone, and makes another one.
            with suppress(OSError):  # Windows removes no file that is open; it stays, and means nothing
                Path(lock.lock_file).unlink()
        finally:
            lock.release()


def _put_right(path: Path) -> None:
    name = escape(path.name)
    for before in path.parent.glob(f".*.before.{name}"):
        if os.path.lexists(path):
            shutil.rmtree(before)
        else:
            os.rename(before, path)
    for partial in path.parent.glob(f".*.part.{name}"):
        _remove(partial)


def _remove(partial: Path) -> None:
    if partial.is_dir():
        shutil.rmtree(partial)
    else:
        partial.unlink(missing_ok=True)
