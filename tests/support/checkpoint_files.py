"""Weights to be written into checkpoints."""

import torch
from torch import Tensor

from sam2fast.config import build_from_config, load_config

OFFICIAL = [f"{g}/{g}_hiera_{size}" for g in ("sam2", "sam2.1") for size in ("t", "s", "b+", "l")]


def numbered_weights(config: str) -> dict[str, Tensor]:
    """A tensor of the right name and shape for each weight of a model, each of one number and hardly any memory."""
    with torch.device("meta"):
        state = build_from_config(load_config(config).model).state_dict()
    return {name: torch.tensor(float(i)).expand(tensor.shape) for i, (name, tensor) in enumerate(state.items())}
