"""Attention as torch operators: one node in a graph, with known shapes and a gradient."""

from collections.abc import Hashable
from typing import Any, cast

from torch import Tensor

from sam2fast.kernels._op import Op
from sam2fast.kernels.memory_attention.fp8 import too_old_for_fp8
from sam2fast.kernels.memory_attention.pooling import Pooling
from sam2fast.kernels.memory_attention.reference import memory_attention_reference, rope_attention_reference
from sam2fast.kernels.memory_attention.shapes import AttendedMemory, memory_unsupported_reason, unsupported_reason


def _memory_attention_reference(
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
    key_bias: Tensor | None,
    value_weight: Tensor,
    value_bias: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    fp8: bool,
    pooling: str,
) -> Tensor:
    memory = AttendedMemory(
        pages, page_table, page_time, position_encoding, time_encoding, pointers, pointer_encoding, pointer_valid
    )
    weights = key_weight, key_bias, value_weight, value_bias
    return memory_attention_reference(query, memory, *weights, cos, sin, fp8, cast(Pooling, pooling or None))


def _memory_unsupported(query: Tensor, pages: Tensor, *rest: Any) -> str | None:
    reason = memory_unsupported_reason(query, pages)
    fp8 = rest[-2]
    return reason or (too_old_for_fp8(query.device) if fp8 and query.is_cuda else None)


def _memory_kind(query: Tensor, pages: Tensor, *rest: Any) -> Hashable:
    return query.shape[-1], pages.shape[-1], rest[-2:]


def _fake_memory(query: Tensor, pages: Tensor, page_table: Tensor, *rest: Any) -> Tensor:
    value_weight = rest[8]
    return query.new_empty(page_table.shape[0], query.shape[2], value_weight.shape[0])


# The memory's tensors come one by one; ``pooling`` is empty for none.
memory_attention_op = Op(
    "memory_attention",
    _memory_attention_reference,
    "memory_attention.launch.memory_attention_of_tensors",
    unsupported=_memory_unsupported,
    kind=_memory_kind,
    fake=_fake_memory,
)


def _rope_attention_reference(
    query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, num_unrotated_keys: int
) -> Tensor:
    return rope_attention_reference(query, key, value, cos, sin, num_unrotated_keys)


def _fake_rope(query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, num_unrotated_keys: int) -> Tensor:
    B, H, N, _ = query.shape
    return value.new_empty(B, N, H, value.shape[-1]).transpose(1, 2)


rope_attention_op = Op(
    "rope_attention",
    _rope_attention_reference,
    "memory_attention.launch.rope_attention_triton",
    unsupported=lambda query, key, value, *_: unsupported_reason(query, value),
    kind=lambda query, key, value, *_: (query.shape[-1], value.shape[-1]),
    layout=lambda out: out.transpose(1, 2).contiguous().transpose(1, 2),
    fake=_fake_rope,
)
