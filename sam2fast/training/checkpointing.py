"""Checkpoint files of a training run: atomic writes, loading, and a lock on the folder of checkpoints."""

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sam2fast.checkpoints import CheckpointError
from sam2fast.checkpoints.weight_files import unreadable
from sam2fast.checkpoints.writing import save_torch
from sam2fast.io.atomic import (
    annotate_oserror,
    atomic_write,
    remove_leftovers,
    resolve_symlinks,
    target_of,
    temporary_path,
)
from sam2fast.training.distributed.ranks import Ranks

_log = logging.getLogger(__name__)

CURRENT, PREVIOUS = "checkpoint.pt", "checkpoint_previous.pt"
NEEDED = {"model", "optimizer", "steps", "steps_in_epoch", "ema"}  # official training checkpoints have no entry "ema"
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # error numbers of file systems without locks


def save(content: dict[str, Any], path: Path) -> None:
    with atomic_write(path) as file:
        save_torch(content, file)


def save_current(content: dict[str, Any], folder: Path) -> None:
    """Writes a folder's current checkpoint atomically. An existing current checkpoint becomes the previous one."""
    current, previous = folder / CURRENT, resolve_symlinks(folder / PREVIOUS)
    if current.exists():
        # Links the existing checkpoint before writing, so that the folder has a complete checkpoint at all times.
        with temporary_path(previous) as link:
            try:
                os.link(os.path.realpath(current), link)  # links the file itself, even if ``current`` is a symlink
            except OSError:  # os.link fails if the file system has no hard links
                with annotate_oserror(link):
                    shutil.copyfile(current, link)
            link.replace(previous)  # renaming does nothing if ``link`` and ``previous`` are the same file
    save(content, current)


def checkpoints_in(folder: Path) -> list[Path]:
    """Returns the paths of a folder's current and previous checkpoints that exist."""
    return [path for path in (folder / CURRENT, folder / PREVIOUS) if path.exists()]


def load_current(folder: Path) -> dict[str, Any] | None:
    """Loads a folder's current checkpoint, or the previous checkpoint if the current checkpoint is damaged.

    Returns None if the folder has no checkpoints. Renames damaged checkpoints, so that the next save does not overwrite
    a good checkpoint with a damaged checkpoint. Raises :class:`CheckpointError` if all checkpoints are damaged.
    """
    present, damaged = checkpoints_in(folder), []
    for path in present:
        try:
            content = load(path)
        except CheckpointError as error:
            _log.warning("%s", error)
            damaged.append(path)
            continue
        for other in damaged:
            other.replace(other.with_name(f"{other.stem}_damaged.pt"))
        return content
    if present:
        raise CheckpointError(f"no checkpoint in {folder} can be read; use another folder, or remove them")
    return None


def load_on_all_ranks(folder: Path, ranks: Ranks) -> dict[str, Any] | None:
    """Calls :func:`load_current` on every rank; the folder must be on a shared file system.

    Raises :class:`CheckpointError` if ranks load different checkpoints.
    """
    if not ranks.is_group:
        return load_current(folder)
    content = None
    # The main rank renames damaged checkpoints before the other ranks read.
    for first in (True, False):
        if ranks.is_main == first:
            content = load_current(folder)
        ranks.barrier()
    steps = ranks.gather(None if content is None else content["steps"])
    if len(set(steps)) > 1:
        raise CheckpointError(
            f"ranks loaded checkpoints from different steps ({', '.join(map(str, steps))}) in {folder}; "
            "the folder must be on a file system that all machines share"
        )
    return content


def load(path: Path) -> dict[str, Any]:
    """Loads a training checkpoint with ``weights_only``. Other files raise :class:`CheckpointError`."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch.load raises exceptions of almost any type for damaged files
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: from a truncated zip file
            raise
        raise unreadable(path, error) from error
    if not isinstance(content, dict) or not content.keys() >= NEEDED:
        raise CheckpointError(
            f"{path} is not a sam2fast training checkpoint; trainer.checkpoint.initialize_from starts from the "
            "weights of other checkpoints"
        )
    return content


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Context manager that locks a folder for this run and removes incomplete files of killed runs.

    If the file system has no locks, a warning is logged and no file is removed, because another run may be writing.
    Raises :class:`CheckpointError` if another run has locked the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w", encoding="utf-8") as file:
        try:
            import fcntl

            # A lock of ``lockf`` belongs to one process. Forked workers that outlive a killed run do not hold the lock.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            targets = filter(None, map(target_of, folder.iterdir()))
            remove_leftovers([*targets, folder / CURRENT, folder / PREVIOUS])
        except ImportError:  # Windows has no fcntl
            pass
        except BlockingIOError as error:
            raise CheckpointError(f"another run uses {folder}; wait for it, or choose another folder") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            _log.warning("%s cannot be locked (%s): make sure that no other run uses it", folder, error)
        yield
