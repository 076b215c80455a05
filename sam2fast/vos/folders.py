"""The folder of one video's pictures: there as a whole or not at all, with a note beside it that says what made it."""

import re
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.part")


def is_done(folder: Path, made_from: str) -> bool:
    """Whether the folder is there and was made from the same."""
    try:
        return folder.is_dir() and _note(folder).read_text() == made_from
    except (OSError, UnicodeDecodeError):
        return False


def is_other(folder: Path, made_from: str) -> bool:
    """Whether there is something in its place that was made from something else, or by something else."""
    if folder.is_dir() and not any(folder.iterdir()):
        return False
    return (folder.exists() or folder.is_symlink()) and not is_done(folder, made_from)


@contextmanager
def whole_folder(folder: Path, made_from: str, replace: bool) -> Iterator[Path]:
    """A folder to be filled, hidden beside ``folder``, which takes its place when the block ends without an exception.

    Until then ``folder`` stays as it is. Whenever the process is killed, :func:`is_done` holds only for whole folders.

    Args:
        made_from: text for the note ``.NAME.json``.
        replace: a folder made from something else may go; one made from the same always may.

    Raises:
        FileExistsError: there is a folder that may not.
        OSError: something cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(folder)
    partial.mkdir()
    try:
        yield partial
        if not replace and is_other(folder, made_from):
            raise FileExistsError(f"{folder} is there already, and was made from something else")
        _put(partial, folder, made_from)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _put(partial: Path, folder: Path, made_from: str) -> None:
    note = _note(folder)
    # In this order there is never a note beside a folder that it is not about.
    note.unlink(missing_ok=True)
    before = _beside(folder)
    if folder.exists():
        folder.rename(before)
    note.write_text(made_from)
    partial.rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def remove_leftovers(out: Path, names: Collection[str]) -> None:
    """Removes the hidden folders of these videos that processes left which were killed.

    None of these videos may be under way.
    """
    if not out.is_dir():
        return
    for path in out.iterdir():
        found = PARTIAL.fullmatch(path.name)
        if found and found["name"] in names and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def _note(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.json")


def _beside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
