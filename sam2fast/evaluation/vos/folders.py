"""The folder of one video's pictures: there as a whole or not at all, with a note beside it that says what made it."""

import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sam2fast.io.atomic import SECONDS_TO_WRITE, errors_named

# In hidden folders: the text that will lie beside the folder, and the folder that was there before.
NOTE, FOLDER = ".note.json", "before"
PARTIAL = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{8}\.part")


def is_done(folder: Path, made_from: str) -> bool:
    """Whether the folder is there and was made from the same."""
    try:
        return folder.is_dir() and _note(folder).read_text(encoding="utf-8") == made_from
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

    Until then ``folder`` stays as it is, and it also does where that fails. Whenever the process is killed,
    :func:`is_done` holds only for whole folders.

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
    note, new_note, before = _note(folder), partial / NOTE, _beside(folder)
    # Before anything is moved: there may be no room for it.
    with errors_named(new_note):
        new_note.write_text(made_from, encoding="utf-8")
    before.mkdir()
    try:
        # In this order there is never a note beside a folder that it is not about, and from here on all is renaming.
        if note.exists():
            note.rename(before / NOTE)
        if folder.exists():
            folder.rename(before / FOLDER)
        new_note.rename(note)
        partial.rename(folder)
    except BaseException:
        if partial.exists():
            _put_back(before, folder, note)  # where that fails, what was there is still in the hidden folder
        shutil.rmtree(before, ignore_errors=True)
        raise
    shutil.rmtree(before, ignore_errors=True)


def _put_back(before: Path, folder: Path, note: Path) -> None:
    if (before / FOLDER).exists():
        note.unlink(missing_ok=True)
        (before / FOLDER).rename(folder)
    if (before / NOTE).exists():
        (before / NOTE).rename(note)


def remove_leftovers(out: Path, names: Collection[str], is_spread: bool = False) -> None:
    """Removes the hidden folders of these videos that processes left which were killed.

    What cannot be removed stays.

    Args:
        is_spread: processes elsewhere may be at these videos, so what is young stays. Otherwise none may be under way.
    """
    if not out.is_dir():
        return
    latest = time.time() - SECONDS_TO_WRITE if is_spread else math.inf
    for path in list(out.iterdir()):
        found = PARTIAL.fullmatch(path.name)
        if found and found["name"] in names and path.is_dir() and not path.is_symlink() and _changed(path) <= latest:
            # Under another name first: whoever is still at it finds nothing to put in its place, rather than a part.
            gone = _beside(out / found["name"])
            with suppress(OSError):  # whoever was at it has put it in its place, or holds it
                path.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)


def _changed(folder: Path) -> float:
    """When a file was last added to a folder or one within, in seconds since 1970."""
    times = [0.0]
    for path, _, _ in os.walk(folder):
        with suppress(FileNotFoundError):
            times.append(os.stat(path).st_mtime)
    return max(times)


def _note(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.json")


def _beside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")


def told(error: Exception) -> str:
    """An exception as one line, with the file first if it is about one."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
