"""Fuses layer norm over channels with a preceding addition or a following GELU."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.kernels._op import Op, op, why_unsupported

__all__ = [
    "add_layer_norm",
    "add_layer_norm_reference",
    "layer_norm",
    "layer_norm_reference",
    "shifted_layer_norm",
    "shifted_layer_norm_reference",
]

WIDEST = 4096  # maximum number of channels C that the kernel supports
_OPTIONS: dict[str, Any] = {
    "unsupported": partial(why_unsupported, widest=WIDEST),
    "compile_key": lambda x, *_: x.shape[-1],
    "launches": "layer_norm",
}


def computed(x: Tensor) -> torch.dtype:
    """Returns the dtype that norms are computed in: fp32, or fp64 for fp64 input."""
    return torch.promote_types(torch.float32, x.dtype)


def sum_dtype(x: Tensor, delta: Tensor) -> torch.dtype:
    """Returns the dtype of ``x + delta``: torch's promoted dtype, or the dtype of ``x`` if ``delta`` is a vector."""
    return torch.promote_types(x.dtype, delta.dtype) if delta.shape == x.shape else x.dtype


@op(shapes="x (..., C), weight and bias (C)", **_OPTIONS)
def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype | None = None, gelu: bool = False
) -> Tensor:
    """Computes the layer norm ``(..., C)`` of ``x``, followed by the exact GELU if ``gelu`` is True.

    For the other arguments, see :func:`add_layer_norm`.
    """
    compute = computed(x)
    normed = F.layer_norm(x.to(compute), x.shape[-1:], weight.to(compute), bias.to(compute), eps)
    return (F.gelu(normed) if gelu else normed).to(dtype or compute)


layer_norm_reference = layer_norm.reference


@op(
    shapes="x (..., C), weight and bias (C) and a shift of the shape of x or weight",
    fits=lambda x, shift, weight, *_: shift.shape in (x.shape, weight.shape),
    **_OPTIONS,
)
def shifted_layer_norm(
    x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype | None = None
) -> Tensor:
    """Computes the layer norm ``(..., C)`` of ``x + shift``, with ``shift (..., C)`` or ``(C)``.

    The sum ``x + shift`` is neither rounded nor returned. For other arguments, see :func:`add_layer_norm`.
    """
    return layer_norm_reference(x.to(computed(x)) + shift, weight, bias, eps, dtype)


shifted_layer_norm_reference = shifted_layer_norm.reference


def add_layer_norm(
    x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Computes a residual sum and its layer norm.

    Args:
        x: Residual ``(..., C)``.
        delta: Tensor ``(..., C)`` or vector ``(C)`` to add, or None.
        weight, bias: Weight and bias ``(C)`` of the norm.
        eps: Value added to the variance.
        dtype: Dtype of the returned norm. None means fp32, or fp64 for fp64 input.

    Returns:
        The sum ``x + delta`` and the norm of the sum, both ``(..., C)``. The sum has torch's promoted dtype, or the
        dtype of ``x`` if ``delta`` is a vector. If ``delta`` is None, the sum is ``x`` itself.

    Raises:
        ValueError: If the shapes do not match.
    """
    if delta is None:  # a torch operator may not return its input x
        return x, layer_norm(x, weight, bias, eps, dtype)
    return _add_layer_norm(x, delta, weight, bias, eps, dtype)


def add_layer_norm_reference(
    x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Reference implementation of :func:`add_layer_norm`."""
    compute, x = computed(x), (x + delta).to(sum_dtype(x, delta))
    return x, layer_norm_reference(x, weight, bias, eps, dtype or compute)


_add_layer_norm = Op(
    "add_layer_norm",
    add_layer_norm_reference,
    "layer_norm_triton.add_layer_norm_triton",
    shapes="x (..., C), weight and bias (C) and a delta of the shape of x or weight",
    fits=lambda x, delta, weight, *_: delta.shape in (x.shape, weight.shape),
    **_OPTIONS,
)
