"""Reference implementation of an addition with the layer norm after it."""

import torch
import torch.nn.functional as F
from torch import Tensor


def add_layer_norm_reference(
    x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Reference implementation of :func:`add_layer_norm`: one operation after the other; fp64 stays fp64."""
    if delta is not None:
        x = x + delta
    compute = torch.promote_types(torch.float32, x.dtype)
    normed = F.layer_norm(x.to(compute), x.shape[-1:], weight.to(compute), bias.to(compute), eps)
    return x, normed.to(dtype)
