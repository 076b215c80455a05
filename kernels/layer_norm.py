"""Layer norm over channels, together with the addition before it, and the GELU or the addition after it."""

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

WIDEST = 4096  # channels
_OPTIONS: dict[str, Any] = {
    "unsupported": lambda x, *rest: why_unsupported(x, *rest, channels=x.shape[-1], widest=WIDEST),
    "kind": lambda x, *_: x.shape[-1],
    "launches": "layer_norm",
}


def computed(x: Tensor) -> torch.dtype:
    """The dtype that norms are computed in."""
    return torch.promote_types(torch.float32, x.dtype)


def sum_dtype(x: Tensor, delta: Tensor) -> torch.dtype:
    """The dtype of a sum: torch's promoted dtype, or that of ``x`` for a ``delta (C)``."""
    return torch.promote_types(x.dtype, delta.dtype) if delta.shape == x.shape else x.dtype


@op(shapes="x (..., C), weight and bias (C)", **_OPTIONS)
def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype | None = None, gelu: bool = False
) -> Tensor:
    """Layer norm ``(..., C)`` of ``x``, or the exact GELU of it; arguments and errors as of :func:`add_layer_norm`."""
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

    The sum is neither rounded nor written. Other arguments and errors are those of :func:`add_layer_norm`.
    """
    return layer_norm_reference(x.to(computed(x)) + shift, weight, bias, eps, dtype)


shifted_layer_norm_reference = shifted_layer_norm.reference


def add_layer_norm(
    x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """A residual sum and its layer norm.

    Args:
        x: ``(..., C)``.
        delta: ``(..., C)`` to be added, or ``(C)`` for all rows, or None.
        weight, bias: ``(C)``.
        eps: added to the variance.
        dtype: of the norm, which is computed in fp32 (fp64 for fp64 input); None for the dtype of the computation.

    Returns:
        ``x + delta`` and its norm, both ``(..., C)``. The sum has torch's promoted dtype, or with a ``delta (C)`` that
        of ``x``; without ``delta`` it is ``x`` itself.

    Raises:
        ValueError: the shapes do not fit together.
    """
    if delta is None:  # an operator may not return its own input
        return x, layer_norm(x, weight, bias, eps, dtype)
    return _add_layer_norm(x, delta, weight, bias, eps, dtype)


def add_layer_norm_reference(
    x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Reference implementation of :func:`add_layer_norm`: one operation after the other; fp64 stays fp64."""
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
