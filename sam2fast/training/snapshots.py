"""Checkpoints of a training run: written whole or not at all, the last good one kept."""

import errno
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from sam2fast.checkpoints import CheckpointError
from sam2fast.checkpoints.errors import first_line
from sam2fast.checkpoints.saving import save_torch
from sam2fast.io.atomic import errors_named, own_number, resolved, written_whole
from sam2fast.training.distributed.ranks import Ranks

_log = logging.getLogger(__name__)

CURRENT, PREVIOUS = "checkpoint.pt", "checkpoint_previous.pt"


def save(content: dict[str, Any], path: Path) -> None:
    """Writes ``content``, whole or not at all."""
    with written_whole(path) as file:
        save_torch(content, file)


def save_current(content: dict[str, Any], folder: Path) -> None:
    """Makes ``content`` the folder's checkpoint; what was it until now stays as the previous one."""
    current, previous = folder / CURRENT, resolved(folder / PREVIOUS)
    if current.exists():
        # A second name first, so that at no moment there is no checkpoint.
        link = previous.with_name(f".{previous.name}.{own_number()}.tmp")
        try:
            try:
                os.link(os.path.realpath(current), link)  # not a symlink, which would lead to the new one
            except OSError:  # a file system without hard links
                with errors_named(link):
                    shutil.copyfile(current, link)
            link.replace(previous)
        finally:
            # Where both names are one file already, replacing does nothing; a full disk may have cut a copy short.
            link.unlink(missing_ok=True)
    save(content, current)


def load_current(folder: Path) -> dict[str, Any] | None:
    """The folder's checkpoint, or the previous one if that is damaged; None if there is none at all.

    A damaged one is moved aside, so that the next save does not put it in the place of the good one.

    Raises:
        CheckpointError: there are checkpoints, and none can be read.
    """
    present = [path for path in (folder / CURRENT, folder / PREVIOUS) if path.exists()]
    damaged = []
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
        raise CheckpointError(f"no checkpoint in {folder} can be read; remove them to start anew")
    return None


def load_by_all(folder: Path, ranks: Ranks) -> dict[str, Any] | None:
    """What :func:`load_current` gives, in every process of a run, which all see the folder.

    Raises:
        CheckpointError: also where the processes do not find the same.
    """
    if not ranks.is_group:
        return load_current(folder)
    content = None
    # The first one alone moves what is damaged aside.
    for turn in (True, False):
        if ranks.is_main == turn:
            content = load_current(folder)
        ranks.wait()
    found = ranks.gather(None if content is None else content["steps"])
    if len(set(found)) > 1:
        raise CheckpointError(
            f"the processes found checkpoints of updates {', '.join(map(str, found))} in {folder}; "
            "the folder must be on a file system that all machines share"
        )
    return content


def load(path: Path) -> dict[str, Any]:
    """A checkpoint of a training run; only tensors and plain values are read, no code.

    Raises:
        CheckpointError: it cannot be read, or is something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise almost anything
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # which is going to where there is no file
            raise
        raise CheckpointError(f"{path} is damaged or no checkpoint: {first_line(error)}") from error
    if not isinstance(content, dict) or not {"model", "optimizer", "steps"} <= set(content):
        raise CheckpointError(f"{path} is no checkpoint of a training run: it has no model, optimizer and steps")
    return content
