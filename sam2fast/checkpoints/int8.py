"""Stores weights as int8. Reading a checkpoint converts int8 weights to fp32. No layer computes in int8."""

from collections.abc import Mapping

import torch
from torch import Tensor

from sam2fast.checkpoints.weight_files import CheckpointError

# Suffix of names of scales. NAME.int8_scale stores one scale per output channel of the weight NAME.
SUFFIX = ".int8_scale"
LEAST = 4096  # minimum elements of a large tensor; smaller tensors (biases, norms) are about 1% of a file


def to_int8(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Quantizes a model's weights.

    Large weights of linear and convolution layers become int8, with an fp32 scale ``max|w| / 127`` for each output
    channel (each index of the first axis). The error of a value is at most half a scale. Other large tensors become
    fp16.

    Args:
        weights: Weights by official name.

    Raises:
        CheckpointError: If weights are not finite, or too large for fp16.
    """
    stored = {}
    for name, weight in weights.items():
        if not weight.is_floating_point() or weight.numel() < LEAST:
            stored[name] = weight
            continue
        if name.endswith(".weight") and weight.ndim > 1:
            rows = weight.float().flatten(1)
            scale = rows.abs().amax(1) / 127
            # If all weights of a channel are 0, the channel's scale is 0.
            codes = rows / scale.clamp(min=torch.finfo(scale.dtype).tiny)[:, None]
            stored[name] = codes.round().to(torch.int8).view(weight.shape)
            stored[name + SUFFIX] = scale
        else:
            scale = stored[name] = weight.half()
        if not scale.isfinite().all():
            raise CheckpointError(f"{name} has numbers that are not finite, or too large for fp16")
    return stored


def from_int8(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Dequantizes the result of :func:`to_int8`. Int8 weights become fp32. Other weights are unchanged.

    Raises:
        CheckpointError: If scales do not fit the weights.
    """
    weights = {name: tensor for name, tensor in stored.items() if not name.endswith(SUFFIX)}
    for name, scale in stored.items():
        if not name.endswith(SUFFIX):
            continue
        weight = weights.get(name.removesuffix(SUFFIX))
        if weight is None or weight.dtype != torch.int8 or weight.ndim < 2 or scale.shape != weight.shape[:1]:
            raise CheckpointError(f"{name} has no int8 weight with the same number of output channels")
        shape = (-1, *[1] * (weight.ndim - 1))
        weights[name.removesuffix(SUFFIX)] = weight.float() * scale.float().view(shape)
    return weights
