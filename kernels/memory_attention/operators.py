"""The kernels as torch operators: one node in a graph, with known shapes and a gradient.

The gradient recomputes the reference implementation.
"""

from collections.abc import Callable, Hashable
from typing import Any, Optional, cast

from torch import Tensor

from sam2fast.kernels._operators import reference_backward, register_operator
from sam2fast.kernels.memory_attention.pooling import Pooling
from sam2fast.kernels.memory_attention.reference import memory_attention_reference, rope_attention_reference
from sam2fast.kernels.memory_attention.shapes import AttendedMemory

# Torch reads schemas from annotations, and the oldest supported torch does not read `Tensor | None`.
OptionalTensor = Optional[Tensor]  # noqa: UP045


def _memory_attention_reference(query: Tensor, *rest: Any) -> Tensor:
    return memory_attention_reference(query, AttendedMemory(*rest[:8]), *rest[8:])


def _memory_kind(query: Tensor, pages: Tensor, *rest: Any) -> Hashable:
    return query.shape[-1], pages.shape[-1], rest[-2:]


@register_operator("sam2fast::memory_attention", _memory_attention_reference, _memory_kind)
def memory_attention_operator(
    query: Tensor,
    pages: Tensor,
    page_table: Tensor,
    page_time: Tensor,
    position_encoding: Tensor,
    time_encoding: Tensor,
    pointers: Tensor,
    pointer_encoding: Tensor,
    pointer_valid: Tensor,
    key_weight: Tensor,
    key_bias: OptionalTensor,
    value_weight: Tensor,
    value_bias: OptionalTensor,
    cos: Tensor,
    sin: Tensor,
    fp8: bool = False,
    pooling: str = "",
) -> Tensor:
    """See :func:`~sam2fast.kernels.memory_attention.memory_attention`; the memory's tensors come one by one.

    ``pooling`` is empty for none.
    """
    from sam2fast.kernels.memory_attention.launch import memory_attention_triton

    memory = AttendedMemory(
        pages, page_table, page_time, position_encoding, time_encoding, pointers, pointer_encoding, pointer_valid
    )
    means = cast(Pooling, pooling or None)
    weights = key_weight, key_bias, value_weight, value_bias
    return memory_attention_triton(query, memory, *weights, cos, sin, fp8=fp8, pooling=means)


@memory_attention_operator.register_fake
def _(query: Tensor, pages: Tensor, page_table: Tensor, *rest: Any) -> Tensor:
    value_weight = rest[8]
    return query.new_empty(page_table.shape[0], query.shape[2], value_weight.shape[0])


def _rope_attention_reference(query: Tensor, *rest: Any) -> Tensor:
    out = rope_attention_reference(query, *rest)
    return out.transpose(1, 2).contiguous().transpose(1, 2)  # the kernel's order in memory


def _rope_kind(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> Hashable:
    return query.shape[-1], value.shape[-1]


@register_operator("sam2fast::rope_attention", _rope_attention_reference, _rope_kind)
def rope_attention_operator(
    query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, num_unrotated_keys: int
) -> Tensor:
    """Queries ``(B, H, N, D)`` to ``(B, H, N, D_v)``; see :func:`~sam2fast.kernels.memory_attention.rope_attention`."""
    from sam2fast.kernels.memory_attention.launch import rope_attention_triton

    return rope_attention_triton(query, key, value, cos, sin, num_unrotated_keys)


@rope_attention_operator.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, num_unrotated_keys: int) -> Tensor:
    B, H, N, _ = query.shape
    return value.new_empty(B, N, H, value.shape[-1]).transpose(1, 2)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    tensors = [x for x in inputs if x is None or isinstance(x, Tensor)]
    ctx.save_for_backward(*tensors)
    ctx.numbers = inputs[len(tensors) :]  # they come last


def _backward_of(reference: Callable[..., Tensor]) -> Callable[[Any, Tensor], tuple[Tensor | None, ...]]:
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        found = reference_backward(reference, ctx.saved_tensors, ctx.numbers, ctx.needs_input_grad, grad)
        return *found, *[None] * len(ctx.numbers)

    return backward


memory_attention_operator.register_autograd(_backward_of(_memory_attention_reference), setup_context=_setup)
rope_attention_operator.register_autograd(_backward_of(rope_attention_reference), setup_context=_setup)
