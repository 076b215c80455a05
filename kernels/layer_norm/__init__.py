"""Layer norm over channels, together with the addition before it, and the GELU or the addition after it."""

import torch
from torch import Tensor

from sam2fast.kernels._dispatch import FLOATS, should_use_kernel, use_triton
from sam2fast.kernels._operators import call_with_gradient
from sam2fast.kernels.layer_norm.operators import (
    add_layer_norm_operator,
    layer_norm_and_position_operator,
    layer_norm_operator,
    shifted_layer_norm_operator,
)
from sam2fast.kernels.layer_norm.reference import (
    add_layer_norm_reference,
    layer_norm_and_position_reference,
    layer_norm_reference,
    shifted_layer_norm_reference,
)

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
    dtype = dtype or torch.promote_types(torch.float32, x.dtype)
    if _has_kernel(dtype, x, delta, weight, bias):
        return call_with_gradient(add_layer_norm_operator, x, delta, weight, bias, eps, dtype)
    return add_layer_norm_reference(x, delta, weight, bias, eps, dtype)


def layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype | None = None, gelu: bool = False
) -> Tensor:
    """Layer norm ``(..., C)`` of ``x``, or the exact GELU of it; arguments and errors as of :func:`add_layer_norm`."""
    _check(x, None, weight, bias)
    dtype = dtype or torch.promote_types(torch.float32, x.dtype)
    if _has_kernel(dtype, x, weight, bias):
        return call_with_gradient(layer_norm_operator, x, weight, bias, eps, dtype, gelu)
    return layer_norm_reference(x, weight, bias, eps, dtype, gelu)


def shifted_layer_norm(
    x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype | None = None
) -> Tensor:
    """Layer norm ``(..., C)`` of ``x + shift``, with ``shift (C)``; the sum is neither rounded nor written.

    Other arguments and errors are those of :func:`add_layer_norm`.
    """
    _check(x, None, weight, bias)
    if shift.shape != weight.shape:
        raise ValueError(f"expected a shift {tuple(weight.shape)}, got {tuple(shift.shape)}")
    dtype = dtype or torch.promote_types(torch.float32, x.dtype)
    if _has_kernel(dtype, x, shift, weight, bias):
        return call_with_gradient(shifted_layer_norm_operator, x, shift, weight, bias, eps, dtype)
    return shifted_layer_norm_reference(x, shift, weight, bias, eps, dtype)


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
    dtype = dtype or torch.promote_types(torch.float32, x.dtype)
    given, dtypes = (x, delta, weight, bias, position), (dtype, placed or dtype)
    if _has_kernel(dtypes[1], *given):
        return call_with_gradient(layer_norm_and_position_operator, *given, eps, *dtypes)
    return layer_norm_and_position_reference(*given, eps, *dtypes)


def _check(x: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor) -> None:
    C = x.shape[-1] if x.ndim else 0
    if weight.shape != (C,) or bias.shape != (C,) or (delta is not None and delta.shape != x.shape):
        added = None if delta is None else tuple(delta.shape)
        raise ValueError(
            f"expected x and delta (..., C), weight and bias (C), "
            f"got {tuple(x.shape)}, {added}, {tuple(weight.shape)} and {tuple(bias.shape)}"
        )


def _has_kernel(dtype: torch.dtype, *given: Tensor) -> bool:
    reason = _unsupported_reason(given, dtype)
    return use_triton("layer_norm", *given, unsupported_reason=reason) and should_use_kernel(*given)


def _unsupported_reason(given: tuple[Tensor, ...], dtype: torch.dtype) -> str | None:
    for found in (*(t.dtype for t in given), dtype):
        if found not in FLOATS:
            return f"does not take {found}"
    channels = given[0].shape[-1]
    return f"takes at most {WIDEST} channels, and got {channels}" if channels > WIDEST else None
