"""Checkpoints of a training run: written whole or not at all, the last good one kept, every random state in them."""

import contextlib
import errno
import logging
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from sam2fast.checkpoints import CheckpointError
from sam2fast.checkpoints.errors import first_line
from sam2fast.checkpoints.saving import save_torch
from sam2fast.reproducibility import seed_everything
from sam2fast.training.distributed.ranks import Ranks
from sam2fast.training.folder_lock import lock_file
from sam2fast.whole_files import errors_named, written_whole

_log = logging.getLogger(__name__)

CURRENT, PREVIOUS = "checkpoint.pt", "checkpoint_previous.pt"


def save(content: dict[str, Any], path: Path) -> None:
    """Writes ``content``, whole or not at all."""
    with written_whole(path) as file:
        save_torch(content, file)


def save_current(content: dict[str, Any], folder: Path) -> None:
    """Makes ``content`` the folder's checkpoint; what was it until now stays as the previous one."""
    current, previous = folder / CURRENT, folder / PREVIOUS
    if current.exists():
        # A second name first, so that at no moment there is no checkpoint.
        link = folder / f".{PREVIOUS}.{os.getpid()}.tmp"
        link.unlink(missing_ok=True)
        try:
            try:
                os.link(current, link)
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


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Inside, no other run can use the folder. What killed runs left half-written is removed.

    Where files cannot be locked, a warning says so, and nothing is removed, since another run may be writing it.

    Raises:
        CheckpointError: another run uses it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with lock_file(folder / ".lock") as file:
        if _lock(file, folder):
            for left in folder.glob(".*.tmp"):
                left.unlink(missing_ok=True)
        yield


def _lock(file: IO[str], folder: Path) -> bool:
    """Whether no other run can use the folder from now on; not known where files cannot be locked."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # not on Windows
        return False
    except BlockingIOError as error:
        raise CheckpointError(f"another run uses {folder}; wait for it, or choose another folder") from error
    except OSError as error:  # some network file systems have no locks
        _log.warning("%s cannot be locked (%s): see to it that no other run uses it", folder, error)
        return False
    return True


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


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of every global generator that a run on ``device`` uses, as tensors and plain values."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    version, numbers, next_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if device.type == "cuda" else [],
        "mps": torch.mps.get_rng_state() if device.type == "mps" else None,
        "numpy": [str(kind), torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss],
        "python": [version, list(numbers), next_gauss],
    }


def random_states(ranks: Ranks) -> dict[str, Any]:
    """The entries of a checkpoint with the random states of all processes, which all ask for them."""
    first, *others = ranks.gather(random_state(ranks.device))
    return {"random_state": first, **({"random_states_of_others": others} if others else {})}


def restore_random_states(content: dict[str, Any], ranks: Ranks, seed: int) -> None:
    """Takes this process's random state from a checkpoint; one that it did not have gets a new seed."""
    states = [content["random_state"], *content.get("random_states_of_others", ())]
    if ranks.rank < len(states):
        restore_random_state(states[ranks.rank], ranks.device)
    else:
        seed_everything(seed + ranks.rank)


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Puts every global generator back, as far as the state was taken on devices like these."""
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    elif device.type == "mps" and state["mps"] is not None:
        torch.mps.set_rng_state(state["mps"])
    elif device.type != "cpu":
        _log.warning("the checkpoint has no random state for %s: dropout goes on differently", device)
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, numbers, next_gauss = state["python"]
    random.setstate((version, tuple(numbers), next_gauss))
