"""Reference implementation of layer norm with an addition before it, and with GELU or an addition after it."""

import torch
import torch.nn.functional as F
from torch import Tensor


def add_layer_norm_reference(
    x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Reference implementation of :func:`add_layer_norm`: one operation after the other; fp64 stays fp64."""
    if delta is not None:
        x = x + delta
    return x, layer_norm_reference(x, weight, bias, eps, dtype)


def layer_norm_reference(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype, gelu: bool = False
) -> Tensor:
    """Reference implementation of :func:`layer_norm`."""
    compute = torch.promote_types(torch.float32, x.dtype)
    normed = F.layer_norm(x.to(compute), x.shape[-1:], weight.to(compute), bias.to(compute), eps)
    return (F.gelu(normed) if gelu else normed).to(dtype)


def layer_norm_and_position_reference(
    x: Tensor,
    delta: Tensor,
    weight: Tensor,
    bias: Tensor,
    position: Tensor,
    eps: float,
    dtype: torch.dtype,
    placed: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Reference implementation of :func:`layer_norm_and_position`; sums are rounded once, at the end."""
    compute = torch.promote_types(torch.float32, x.dtype)
    normed = layer_norm_reference(x.to(compute) + delta, weight, bias, eps, compute)
    return normed.to(dtype), (normed + position).to(placed)
