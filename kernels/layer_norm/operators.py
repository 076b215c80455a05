"""The kernel as torch operators; their gradients recompute the reference implementation.

There are several, since an operator may not return its own input.
"""

from typing import Any, Tuple  # noqa: UP035  (what the oldest supported torch reads in a schema)

import torch
from torch import Tensor

from sam2fast.kernels._operators import reference_backward, register_operator
from sam2fast.kernels.layer_norm.reference import (
    add_layer_norm_reference,
    layer_norm_and_position_reference,
    layer_norm_reference,
    shifted_layer_norm_reference,
    sum_dtype,
)


def _channels(x: Tensor, *_: Any) -> int:
    return x.shape[-1]


@register_operator("sam2fast::add_layer_norm", add_layer_norm_reference, kind=_channels)
def add_layer_norm_operator(
    x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    """``x + delta`` and its norm over the last axis, both of the shape of ``x``; the norm is in ``dtype``."""
    from sam2fast.kernels.layer_norm.kernel import add_layer_norm_triton

    return add_layer_norm_triton(x, delta, weight, bias, eps, dtype)


@add_layer_norm_operator.register_fake
def _(x: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=sum_dtype(x, delta)), x.new_empty(x.shape, dtype=dtype)


@register_operator("sam2fast::layer_norm", layer_norm_reference, kind=_channels)
def layer_norm_operator(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype, gelu: bool = False
) -> Tensor:
    """The norm of ``x`` over its last axis, of the same shape, in ``dtype``; or GELU of it."""
    from sam2fast.kernels.layer_norm.kernel import add_layer_norm_triton

    return add_layer_norm_triton(x, None, weight, bias, eps, dtype, gelu)[1]


@layer_norm_operator.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype, gelu: bool = False) -> Tensor:
    return x.new_empty(x.shape, dtype=dtype)


@register_operator("sam2fast::shifted_layer_norm", shifted_layer_norm_reference, kind=_channels)
def shifted_layer_norm_operator(
    x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> Tensor:
    """The norm of ``x + shift`` over the last axis, of the shape of ``x``, in ``dtype``."""
    from sam2fast.kernels.layer_norm.kernel import shifted_layer_norm_triton

    return shifted_layer_norm_triton(x, shift, weight, bias, eps, dtype)


@shifted_layer_norm_operator.register_fake
def _(x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    return x.new_empty(x.shape, dtype=dtype)


@register_operator("sam2fast::layer_norm_and_position", layer_norm_and_position_reference, kind=_channels)
def layer_norm_and_position_operator(
    x: Tensor,
    delta: Tensor,
    weight: Tensor,
    bias: Tensor,
    position: Tensor,
    eps: float,
    dtype: torch.dtype,
    placed: torch.dtype,
) -> Tuple[Tensor, Tensor]:  # noqa: UP006
    """The norm of ``x + delta`` in ``dtype``, and it with ``position`` in ``placed``, both of the shape of ``x``."""
    from sam2fast.kernels.layer_norm.kernel import layer_norm_and_position_triton

    return layer_norm_and_position_triton(x, delta, weight, bias, position, eps, dtype, placed)


@layer_norm_and_position_operator.register_fake
def _(
    x: Tensor,
    delta: Tensor,
    weight: Tensor,
    bias: Tensor,
    position: Tensor,
    eps: float,
    dtype: torch.dtype,
    placed: torch.dtype,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=dtype), x.new_empty(x.shape, dtype=placed)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    tensors = [x for x in inputs if isinstance(x, Tensor)]
    ctx.save_for_backward(*tensors)
    ctx.rest = inputs[len(tensors) :]


def _add_backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    needs_grad = ctx.needs_input_grad[:4]
    return *reference_backward(add_layer_norm_reference, ctx.saved_tensors, ctx.rest, needs_grad, grads), None, None


def _norm_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs_grad = ctx.needs_input_grad[:3]
    return *reference_backward(layer_norm_reference, ctx.saved_tensors, ctx.rest, needs_grad, grad), None, None, None


def _shifted_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs_grad = ctx.needs_input_grad[:4]
    return *reference_backward(shifted_layer_norm_reference, ctx.saved_tensors, ctx.rest, needs_grad, grad), None, None


def _position_backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    needs_grad = ctx.needs_input_grad[:5]
    reference = layer_norm_and_position_reference
    return *reference_backward(reference, ctx.saved_tensors, ctx.rest, needs_grad, grads), None, None, None


add_layer_norm_operator.register_autograd(_add_backward, setup_context=_setup)
layer_norm_operator.register_autograd(_norm_backward, setup_context=_setup)
shifted_layer_norm_operator.register_autograd(_shifted_backward, setup_context=_setup)
layer_norm_and_position_operator.register_autograd(_position_backward, setup_context=_setup)
