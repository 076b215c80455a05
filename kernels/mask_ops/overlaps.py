"""Masks without overlaps on the CPU, where an argmax over objects takes several times as long as comparing maps."""

import torch
from torch import Tensor

from sam2fast.kernels.mask_ops.reference import SUPPRESSED


def suppress_overlaps_cpu(logits: Tensor) -> Tensor:
    """Like :func:`suppress_overlaps_reference`, for two objects or more; without gradients."""
    owner, highest = torch.zeros_like(logits[0], dtype=torch.int32), logits[0]
    for number, of_object in enumerate(logits[1:], start=1):
        owner.masked_fill_((of_object > highest) | (of_object.isnan() & ~highest.isnan()), number)
        highest = torch.maximum(highest, of_object)  # a NaN is the largest
    return torch.stack([torch.where(owner == i, x, x.clamp(max=SUPPRESSED)) for i, x in enumerate(logits)])
