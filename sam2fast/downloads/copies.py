"""A checkpoint that this machine has, in another folder too: whole or not at all."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from sam2fast.downloads.errors import DownloadError, LocalError
from sam2fast.downloads.locks import beside, locked, remove
from sam2fast.downloads.part_file import local_errors
from sam2fast.downloads.progress import Progress


def copied(found: Path, target: Path, progress: Progress, fits: Callable[[Path], bool]) -> Path:
    """Copies a file, unless another process does so; what one that was killed has left is replaced.

    Args:
        fits: whether a file that is there is the one that is asked for.

    Raises:
        DownloadError: it cannot be written, or another process has put a file there that does not fit.
    """
    temporary, lock = target.with_name(f".{target.name}.copy"), beside(target)
    try:
        with locked(lock, target.name, progress), local_errors(target.parent):
            if not target.is_file():
                try:
                    _copy(found, temporary)
                    os.replace(temporary, target)
                finally:
                    temporary.unlink(missing_ok=True)
            elif not fits(target):
                raise DownloadError(f"{target} is there by now with another hash; download it again with force")
            remove(lock)
    except LocalError as error:
        raise DownloadError(f"{found} could not be copied: {error}") from error
    return target


def _copy(found: Path, path: Path) -> None:
    with found.open("rb") as source, path.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())
