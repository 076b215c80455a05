"""Checkpoint files of a training run: written atomically, read back, and the lock of their folder."""

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
from sam2fast.checkpoints.weight_files import first_line
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
NEEDED = {"model", "optimizer", "steps", "steps_in_epoch", "ema"}  # entries; the original's checkpoints lack the last
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of some network file systems


def save(content: dict[str, Any], path: Path) -> None:
    with atomic_write(path) as file:
        save_torch(content, file)


def save_current(content: dict[str, Any], folder: Path) -> None:
    """Writes the folder's current checkpoint atomically, and keeps the one before as the previous checkpoint."""
    current, previous = folder / CURRENT, resolve_symlinks(folder / PREVIOUS)
    if current.exists():
        # A hard link first, so that there is a checkpoint at every moment.
        with temporary_path(previous) as link:
            try:
                os.link(os.path.realpath(current), link)  # not to a symlink, which would lead to the new one
            except OSError:  # a file system without hard links
                with annotate_oserror(link):
                    shutil.copyfile(current, link)
            link.replace(previous)  # does nothing if both names are the same file
    save(content, current)


def checkpoints_in(folder: Path) -> list[Path]:
    """The existing ones of a folder's current and previous checkpoint."""
    return [path for path in (folder / CURRENT, folder / PREVIOUS) if path.exists()]


def load_current(folder: Path) -> dict[str, Any] | None:
    """The folder's current checkpoint, or the previous one if it is damaged; None if there is none.

    A damaged checkpoint is renamed, so that the next save does not replace the good one by it. If all are damaged,
    that is a :class:`CheckpointError`.
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
    """The result of :func:`load_current` in every process of a run; the folder must be on a shared file system.

    Different checkpoints in different processes are a :class:`CheckpointError`.
    """
    if not ranks.is_group:
        return load_current(folder)
    content = None
    # The first process renames damaged checkpoints before the others read.
    for first in (True, False):
        if ranks.is_main == first:
            content = load_current(folder)
        ranks.barrier()
    found = ranks.gather(None if content is None else content["steps"])
    if len(set(found)) > 1:
        raise CheckpointError(
            f"the processes found checkpoints of updates {', '.join(map(str, found))} in {folder}; "
            "the folder must be on a file system that all machines share"
        )
    return content


def load(path: Path) -> dict[str, Any]:
    """Loads a checkpoint of a training run with ``weights_only``; another file is a :class:`CheckpointError`."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise almost anything
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # zip seeks outside a truncated file
            raise
        raise CheckpointError(f"{path} is damaged or no checkpoint: {first_line(error)}") from error
    if not isinstance(content, dict) or not content.keys() >= NEEDED:
        raise CheckpointError(
            f"{path} is no checkpoint of a training run of sam2fast; trainer.checkpoint.initialize_from starts from "
            "weights of any other"
        )
    return content


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Locks the folder for this run inside the context, and removes incomplete files of killed runs.

    On file systems without locks there is a warning, and nothing is removed, since another run may be writing. If
    another run uses the folder, that is a :class:`CheckpointError`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w", encoding="utf-8") as file:
        try:
            import fcntl

            # A lock of this process alone: forked workers of a killed run may live for seconds longer.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            targets = filter(None, map(target_of, folder.iterdir()))
            remove_leftovers([*targets, folder / CURRENT, folder / PREVIOUS])
        except ImportError:  # on Windows
            pass
        except BlockingIOError as error:
            raise CheckpointError(f"another run uses {folder}; wait for it, or choose another folder") from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            _log.warning("%s cannot be locked (%s): make sure that no other run uses it", folder, error)
        yield
