"""Reference implementation of layer norm with an addition before it, and with GELU or an addition after it."""

import torch
import torch.nn.functional as F
from torch import Tensor


def sum_dtype(x: Tensor, delta: Tensor) -> torch.dtype:
    """Of a sum: torch's promoted dtype, or that of ``x`` for a ``delta`` that all its rows have in common."""
    return torch.promote_types(x.dtype, delta.dtype) if delta.shape == x.shape else x.dtype


def add_layer_norm_reference(
    x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Reference implementation of :func:`add_layer_norm`: one operation after the other; fp64 stays fp64."""
    if delta is not None:
        x = (x + delta).to(sum_dtype(x, delta))
    return x, layer_norm_reference(x, weight, bias, eps, dtype)


def layer_norm_reference(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype, gelu: bool = False
) -> Tensor:
    """Reference implementation of :func:`layer_norm`."""
    compute = torch.promote_types(torch.float32, x.dtype)
    normed = F.layer_norm(x.to(compute), x.shape[-1:], weight.to(compute), bias.to(compute), eps)
    return (F.gelu(normed) if gelu else normed).to(dtype)


def shifted_layer_norm_reference(
    x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> Tensor:
    """Reference implementation of :func:`shifted_layer_norm`."""
    compute = torch.promote_types(torch.float32, x.dtype)
    return layer_norm_reference(x.to(compute) + shift, weight, bias, eps, dtype)


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
