"""The states of the global random generators of a run's processes, as a checkpoint holds them."""

import logging
import random
from typing import Any

import numpy as np
import torch

from sam2fast.training.distributed.ranks import Ranks
from sam2fast.utils.reproducibility import seed_everything

_log = logging.getLogger(__name__)


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
