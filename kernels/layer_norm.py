"""Layer norm over channels, together with the addition before it, and the GELU or the addition after it."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels._op import Op

__all__ = [
    "add_layer_norm",
    "add_layer_norm_reference",
    "layer_norm",
    "layer_norm_and_position",
    "layer_norm_and_position_reference",
    "layer_norm_reference",
    "shifted_layer_norm",
    "shifted_layer_norm_reference",
]

WIDEST = 4096  # channels


def add_layer_norm(
    x: Tensor,
    delta: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype | None = None,
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
    _check(x, None if delta is None or delta.shape == weight.shape else delta, weight, bias)
    if delta is None:
        return x, layer_norm(x, weight, bias, eps, dtype)
    return _add_layer_norm(x, delta, weight, bias, eps, dtype or _computed(x))


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype | None = None, gelu: bool = False
) -> Tensor:
    """Layer norm ``(..., C)`` of ``x``, or the exact GELU of it; arguments and errors as of :func:`add_layer_norm`."""
    _check(x, None, weight, bias)
    return _layer_norm(x, weight, bias, eps, dtype or _computed(x), gelu)


def shifted_layer_norm(
    x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype | None = None
) -> Tensor:
    """Layer norm ``(..., C)`` of ``x + shift``, with ``shift (C)``; the sum is neither rounded nor written.

    Other arguments and errors are those of :func:`add_layer_norm`.
    """
    _check(x, None, weight, bias)
    if shift.shape != weight.shape:
        raise ValueError(f"expected a shift {tuple(weight.shape)}, got {tuple(shift.shape)}")
    return _shifted_layer_norm(x, shift, weight, bias, eps, dtype or _computed(x))


def layer_norm_and_position(
    x: Tensor,
    delta: Tensor,
    weight: Tensor,
    bias: Tensor,
    position: Tensor,
    eps: float,
    dtype: torch.dtype | None = None,
    placed: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Layer norm of ``x + delta``, and the same plus a position: values for attention, and its keys or queries.

    Args:
        position: of the last axes of ``x``, such as ``(P, C)`` for ``x (B, P, C)``.
        x, delta, weight, bias, eps, dtype: as of :func:`add_layer_norm`.
        placed: dtype of the second result; None for that of the first.

    Returns:
        Both ``(..., C)``.

    Raises:
        ValueError: the shapes do not fit together.
    """
    _check(x, delta, weight, bias)
    if position.ndim > x.ndim or x.shape[x.ndim - position.ndim :] != position.shape:
        raise ValueError(f"expected a position of the last axes of {tuple(x.shape)}, got {tuple(position.shape)}")
    dtype = dtype or _computed(x)
    return _layer_norm_and_position(x, delta, weight, bias, position, eps, dtype, placed or dtype)


def _check(x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor) -> None:
    C = x.shape[-1] if x.ndim else 0
    if weight.shape != (C,) or bias.shape != (C,) or (delta is not None and delta.shape != x.shape):
        added = None if delta is None else tuple(delta.shape)
        raise ValueError(
            f"expected x and delta (..., C), weight and bias (C), "
            f"got {tuple(x.shape)}, {added}, {tuple(weight.shape)} and {tuple(bias.shape)}"
        )


def _computed(x: Tensor) -> torch.dtype:
    return torch.promote_types(torch.float32, x.dtype)


# ---- reference implementations ----


def sum_dtype(x: Tensor, delta: Tensor) -> torch.dtype:
    """The dtype of a sum: torch's promoted dtype, or that of ``x`` for a ``delta (C)``."""
    return torch.promote_types(x.dtype, delta.dtype) if delta.shape == x.shape else x.dtype


def add_layer_norm_reference(
    x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Reference implementation of :func:`add_layer_norm`: one operation after the other; fp64 stays fp64."""
    x = (x + delta).to(sum_dtype(x, delta))
    return x, layer_norm_reference(x, weight, bias, eps, dtype)


def layer_norm_reference(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype, gelu: bool = False
) -> Tensor:
    """Reference implementation of :func:`layer_norm`."""
    compute = _computed(x)
    normed = F.layer_norm(x.to(compute), x.shape[-1:], weight.to(compute), bias.to(compute), eps)
    return (F.gelu(normed) if gelu else normed).to(dtype)


def shifted_layer_norm_reference(
    x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> Tensor:
    """Reference implementation of :func:`shifted_layer_norm`."""
    compute = _computed(x)
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
    compute = _computed(x)
    normed = layer_norm_reference(x.to(compute) + delta, weight, bias, eps, compute)
    return normed.to(dtype), (normed + position).to(placed)


# ---- operators: several, since one may not return its own input ----


def _unsupported(x: Tensor, *rest: object) -> str | None:
    for each in (x, *rest):
        found = each.dtype if isinstance(each, Tensor) else each
        if isinstance(found, torch.dtype) and found not in FLOATS:
            return f"does not take {found}"
    channels = x.shape[-1]
    return f"takes at most {WIDEST} channels, and got {channels}" if channels > WIDEST else None


def _operator(name: str, reference: Callable[..., Any]) -> Op:
    kernel = f"layer_norm_triton.{name}_triton"
    return Op(name, reference, kernel, unsupported=_unsupported, kind=lambda x, *_: x.shape[-1], launches="layer_norm")


_add_layer_norm = _operator("add_layer_norm", add_layer_norm_reference)
_layer_norm = _operator("layer_norm", layer_norm_reference)
_shifted_layer_norm = _operator("shifted_layer_norm", shifted_layer_norm_reference)
_layer_norm_and_position = _operator("layer_norm_and_position", layer_norm_and_position_reference)
