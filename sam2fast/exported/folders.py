"""The folder of an artefact: where it may be written, and how it appears whole or not at all."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sam2fast.whole_files import behind_links

# In a folder that is there already; a fixed name, so that only one process at a time can make it.
PART = ".part"


def check_folder(folder: str | Path) -> Path:
    """The folder's path, links followed, if an artefact can be written there.

    Raises:
        FileExistsError: there is something in it, or a file in its place or in that of a folder above.
        OSError: it is a symlink that leads in a circle, or this user may not write there.
        ValueError: no folder can have that name.
    """
    target = Path(os.path.realpath(behind_links(Path(folder))))
    if target.is_dir():
        if (found := next(target.iterdir(), None)) is not None:
            what = f"the folder {str(folder)!r} is not empty, {found.name!r} is in it"
            raise FileExistsError(f"{what}; an artefact takes a folder of its own")
    elif target.exists():
        raise FileExistsError(f"there is a file {str(folder)!r} where the artefact's folder should be")
    there = next((path for path in (target, *target.parents) if path.exists()), Path(target.anchor))
    if not there.is_dir():
        raise FileExistsError(f"there is a file {str(there)!r} where a folder of the artefact should be")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "an artefact cannot be written there", str(there))
    return target


@contextmanager
def whole_folder(target: Path, partial: Path, last: str) -> Iterator[Path]:
    """A folder to write into; afterwards its files are in ``target``, and on an error there is nothing of them.

    A folder that is there already may be one that nothing can be moved onto, such as where a disk is mounted. So it
    stays, and the files are moved into it one by one.

    Args:
        target: what :func:`check_folder` gave.
        partial: beside it, to write under where it is not there.
        last: the file that is moved last, without which the others are nothing.

    Raises:
        FileExistsError: somebody else is writing there, or has put something there.
        OSError: it cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    into = target.is_dir()
    partial = target / PART if into else partial
    partial.mkdir()  # outside of what deletes it again: if it is there, it is somebody else's
    moved: list[Path] = []
    try:
        yield partial
        if not into:
            os.replace(partial, target)  # also onto a folder that somebody has made, if it is empty
            return
        if others := sorted(set(os.listdir(target)) - {PART}):
            raise FileExistsError(f"somebody else has put {others[0]!r} into the folder {str(target)!r}")
        for name in sorted(os.listdir(partial), key=lambda name: name == last):
            moved.append(target / name)  # before it is: there may be an interrupt in between
            os.replace(partial / name, moved[-1])
    except BaseException:
        for path in reversed(moved):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
