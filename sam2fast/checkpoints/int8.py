"""Weights stored in eight bits. They are restored when a checkpoint is read; nothing is computed in int8."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sam2fast.checkpoints.weight_files import CheckpointError

# The scales of NAME, one per output channel, are stored as NAME.int8_scale.
SUFFIX = ".int8_scale"
LEAST = 4096  # smaller tensors stay as they are: biases, norms and embeddings are a hundredth of a file


def to_int8(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The stored form of a model's weights.

    Large weights of linear and convolution layers become int8, with the fp32 scale ``max|w| / 127`` of each output
    channel (each index of the first axis); the error of a value is at most half a scale. Other large tensors become
    fp16.

    Args:
        weights: by official names.

    Raises:
        CheckpointError: some weights are not finite, or too large for fp16.
    """
    stored = {}
    for name, weight in weights.items():
        if not weight.is_floating_point() or weight.numel() < LEAST:
            stored[name] = weight
            continue
        if name.endswith(".weight") and weight.ndim > 1:
            rows = weight.float().flatten(1)
            scale = rows.abs().amax(1) / 127
            # A channel of zeros has the scale 0.
            codes = rows / scale.clamp(min=torch.finfo(scale.dtype).tiny)[:, None]
            stored[name] = codes.round().to(torch.int8).view(weight.shape)
            stored[name + SUFFIX] = scale
        else:
            scale = stored[name] = weight.half()
        if not scale.isfinite().all():
            raise CheckpointError(f"{name} has numbers that are not finite, or too large for fp16")
    return stored


def from_int8(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Restores the weights from their form by :func:`to_int8`: int8 becomes fp32, others are unchanged.

    Raises:
        CheckpointError: scales do not fit the weights beside them.
    """
    weights = {name: tensor for name, tensor in stored.items() if not name.endswith(SUFFIX)}
    for name, scale in stored.items():
        if not name.endswith(SUFFIX):
            continue
        weight = weights.get(name.removesuffix(SUFFIX))
        if weight is None or weight.dtype != torch.int8 or weight.ndim < 2 or scale.shape != weight.shape[:1]:
            raise CheckpointError(f"{name} has no weight in int8 with as many output channels beside it")
        shape = (-1, *[1] * (weight.ndim - 1))
        weights[name.removesuffix(SUFFIX)] = weight.float() * scale.float().view(shape)
    return weights
