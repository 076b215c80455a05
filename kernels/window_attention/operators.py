"""The kernel as a torch operator; its gradient recomputes the reference implementation."""

from collections.abc import Hashable, Sequence
from typing import Any, List, Optional  # noqa: UP035  (what the oldest supported torch reads in a schema)

import torch
from torch import Tensor

from sam2fast.kernels._operators import reference_backward, register_operator
from sam2fast.kernels.window_attention.reference import window_attention_reference


def _by_reference(qkv: Tensor, bias: Tensor, num_heads: int, window_size: int, q_stride: list[int] | None) -> Tensor:
    return window_attention_reference(qkv, bias, num_heads, window_size, _pair(q_stride)).contiguous()


def _kind(qkv: Tensor, bias: Tensor, num_heads: int, window_size: int, q_stride: list[int] | None) -> Hashable:
    return qkv.shape[-1], num_heads, window_size, q_stride is None


@register_operator("sam2fast::window_attention", _by_reference, _kind)
def window_attention_operator(
    qkv: Tensor,
    bias: Tensor,
    num_heads: int,
    window_size: int,
    q_stride: Optional[List[int]],  # noqa: UP006, UP045
) -> Tensor:
    """``(B, H, W, 3C)`` to ``(B, H', W', C)``, where ``q_stride`` divides H and W; see the public function."""
    from sam2fast.kernels.window_attention.kernel import window_attention_triton

    return window_attention_triton(qkv, bias, num_heads, window_size, _pair(q_stride))


@window_attention_operator.register_fake
def _(qkv: Tensor, bias: Tensor, num_heads: int, window_size: int, q_stride: Sequence[int] | None) -> Tensor:
    return _output_of(qkv, q_stride)


def _output_of(qkv: Tensor, q_stride: Sequence[int] | None) -> Tensor:
    B, H, W, channels = qkv.shape
    down, across = q_stride or (1, 1)
    return qkv.new_empty(B, H // down, W // across, channels // 3)


def _pair(q_stride: Sequence[int] | None) -> tuple[int, int] | None:
    return (q_stride[0], q_stride[1]) if q_stride else None


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.rest = inputs[2], inputs[3], _pair(inputs[4])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *reference_backward(window_attention_reference, ctx.saved_tensors, ctx.rest, ctx.needs_input_grad, grad), *[
        None
    ] * 3


window_attention_operator.register_autograd(_backward, setup_context=_setup)


@torch.library.custom_op("sam2fast::window_attention_eager", mutates_args=())
def window_attention_eager(
    qkv: Tensor,
    bias: Tensor,
    num_heads: int,
    window_size: int,
    q_stride: Optional[List[int]],  # noqa: UP006, UP045
) -> Tensor:
    """The reference implementation as one node of a graph: its blocks fit the CPU's cache, a compiler's do not."""
    return window_attention_reference(qkv, bias, num_heads, window_size, _pair(q_stride)).contiguous()


@window_attention_eager.register_fake
def _(qkv: Tensor, bias: Tensor, num_heads: int, window_size: int, q_stride: Sequence[int] | None) -> Tensor:
    return _output_of(qkv, q_stride)
