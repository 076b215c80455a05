"""The kernel as a torch operator; its gradient recomputes the reference implementation."""

from typing import Any

import torch
from torch import Tensor

from sam2fast.kernels._cpu import linear
from sam2fast.kernels._operators import reference_backward, register_operator
from sam2fast.kernels.linear_gelu.reference import linear_gelu_reference


@register_operator("sam2fast::linear_gelu", linear_gelu_reference, kind=lambda x, *_: x.shape[-1])
def linear_gelu_operator(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``(..., K)`` by ``weight`` ``(M, K)``, ``bias`` ``(M)`` and GELU to ``(..., M)``, in the dtype of ``x``."""
    from sam2fast.kernels.linear_gelu.kernel import linear_gelu_triton

    return linear_gelu_triton(x, weight, bias)


@linear_gelu_operator.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return reference_backward(linear_gelu_reference, ctx.saved_tensors, (), ctx.needs_input_grad, grad)


linear_gelu_operator.register_autograd(_backward, setup_context=_setup)


# Input elements of a chunk, 1 MiB in fp32: its hidden layer, four times as wide, fits the cache.
CHUNK = 2**18


@torch.library.custom_op("sam2fast::gelu_mlp_eager", mutates_args=())
def gelu_mlp_eager(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """Both layers in chunks of rows, as one node of a graph for the CPU."""
    rows = x.reshape(-1, x.shape[-1])
    out = rows.new_empty(len(rows), len(weight2))
    chunk = max(16, CHUNK // x.shape[-1] // 16 * 16)
    for part, target in zip(rows.split(chunk), out.split(chunk), strict=True):
        target.copy_(linear(linear_gelu_reference(part, weight1, bias1), weight2, bias2))
    return out.view(*x.shape[:-1], -1)


@gelu_mlp_eager.register_fake
def _(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight2.shape[0])
