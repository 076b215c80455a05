"""The torch twin of layer norm with the addition before it."""

import torch
import torch.nn.functional as F
from torch import Tensor


def add_layer_norm_reference(
    x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """The twin of :func:`add_layer_norm`: one operation after the other; fp64 stays fp64."""
    if delta is not None:
        x = x + delta
    compute = torch.promote_types(torch.float32, x.dtype)  # fp64 stays what it is
    normed = F.layer_norm(x.to(compute), x.shape[-1:], weight.to(compute), bias.to(compute), eps)
    return x, normed.to(dtype)
