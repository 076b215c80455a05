"""Attention with axial rotary positions: of a frame to itself, and of a frame to the memory bank."""

from typing import NamedTuple

from torch import Tensor

from sam2fast.kernels._cpu import runs_freely
from sam2fast.kernels._dispatch import implementation_of, kernel_pays, use_triton
from sam2fast.kernels._operators import call_with_gradient
from sam2fast.kernels.memory_attention.cpu import memory_attention_cpu, rope_attention_cpu
from sam2fast.kernels.memory_attention.fp8 import Fp8, too_old_for_fp8, why_no_fp8
from sam2fast.kernels.memory_attention.operators import memory_attention_operator, rope_attention_operator
from sam2fast.kernels.memory_attention.reference import (
    KINDS,
    MEANS,
    apply_rope,
    memory_attention_reference,
    rope_attention_reference,
)
from sam2fast.kernels.memory_attention.shapes import memory_obstacle, obstacle

__all__ = [
    "KINDS",
    "MEANS",
    "AttendedMemory",
    "Fp8",
    "apply_rope",
    "memory_attention",
    "memory_attention_cpu",
    "memory_attention_reference",
    "rope_attention",
    "rope_attention_cpu",
    "rope_attention_reference",
    "why_no_fp8",
]

# From so many keys on the CPU path's own blocks beat torch's attention.
LONG = 1024


class AttendedMemory(NamedTuple):
    """What B objects attend to on one frame. Shapes depend on capacities only, not on how much memory there is.

    A page is a whole map of N positions; or all pages have n = N / 4 and are of five kinds: the four quarters of a map,
    which are N / 4 positions one after the other, and a map's means of 2x2 tokens. A mean counts as four tokens.
    """

    pages: Tensor  # (P, n, m) spatial memories of all objects
    page_table: Tensor  # (B, K) int32: the pages of each object; -1 for none
    page_time: Tensor  # (B, K) int32: each page's row of time_encoding, and T more for each kind before its own
    position_encoding: Tensor  # (N, m); with five kinds (5 n, m): of the map's positions, then of the means
    time_encoding: Tensor  # (T, m)
    pointers: Tensor  # (B, L, m) object pointer tokens
    pointer_encoding: Tensor  # (B, L, m)
    pointer_valid: Tensor  # (B, L) bool


def memory_attention(
    query: Tensor,
    memory: AttendedMemory,
    key_weight: Tensor,
    key_bias: Tensor | None,
    value_weight: Tensor,
    value_bias: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    *,
    fp8: Fp8 = False,
) -> Tensor:
    """Attention to the memory bank, by memory tokens as they lie in it.

    Keys are projections of encoded memory tokens, rotated by their position; pointers are not rotated. The weighted
    sums are of the tokens themselves, and it is they that are projected to values: projecting is linear and softmax
    weights sum to one, so that the result is the same and the sums are d_v / m times cheaper.

    Args:
        query: ``(B, heads, N, d)``, not yet rotated; ``(1, heads, N, d)`` if all objects ask the same.
        memory: see :class:`AttendedMemory`.
        key_weight: ``(heads * d, m)``.
        key_bias: ``(heads * d,)``.
        value_weight: ``(heads * d_v, m)``.
        value_bias: ``(heads * d_v,)``.
        cos, sin: ``(N, d / 2)`` fp32 rotation of each pair of neighbouring channels at each position; where pages are
            of five kinds ``(5 n, d / 2)``, with the centres of the means last.
        fp8: round each rotated query and key to float8_e4m3fn with a scale of its own; scores are of these. Where the
            GPU has no products of such numbers, and anywhere by ``"emulated"``, the twin rounds. An implementation that
            is registered for the backend in force is not told.

    Returns:
        ``(B, N, heads * d_v)`` in the dtype of ``query``; for an object without pages and pointers the bias.

    Raises:
        ValueError: shapes that do not fit each other.
        RuntimeError: with ``fp8`` a gradient is wanted, which rounding does not have.

    Source: ``sam2.modeling.sam.transformer.RoPEAttention.forward`` as the memory attention uses it.
    """
    _check(query, memory, key_weight, value_weight, cos, sin)
    weights = key_weight, key_bias, value_weight, value_bias
    if own := implementation_of("memory_attention"):
        return own(query, memory, *weights, cos, sin)
    no_kernel = memory_obstacle(query, memory.pages)
    if fp8 and query.is_cuda:
        no_kernel = no_kernel or too_old_for_fp8(query.device)
    has_kernel = fp8 != "emulated" and use_triton("memory_attention", query, memory.pages, obstacle=no_kernel)
    if has_kernel and kernel_pays(query, *memory, *weights):
        return call_with_gradient(memory_attention_operator, query, *memory, *weights, cos, sin, bool(fp8))
    compute = memory_attention_cpu if runs_freely(query) else memory_attention_reference
    return compute(query, memory, *weights, cos, sin, fp8)


def _check(
    query: Tensor, memory: AttendedMemory, key_weight: Tensor, value_weight: Tensor, cos: Tensor, sin: Tensor
) -> None:
    (batch, heads, positions, d), (B, K) = query.shape, memory.page_table.shape
    _, n, m = memory.pages.shape
    L = memory.pointers.shape[1]
    has_kinds = memory.position_encoding.shape[0] == KINDS * n
    N, rows = (MEANS * n, KINDS * n) if has_kinds else (n, n)
    expected = {
        "page_time": (memory.page_time, (B, K)),
        "position_encoding": (memory.position_encoding, (rows, m)),
        "pointers": (memory.pointers, (B, L, m)),
        "pointer_encoding": (memory.pointer_encoding, (B, L, m)),
        "pointer_valid": (memory.pointer_valid, (B, L)),
        "key_weight": (key_weight, (heads * d, m)),
        "cos": (cos, (rows, d // 2)),
        "sin": (sin, (rows, d // 2)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {shape}")
    if positions != N or batch not in (1, B):
        raise ValueError(f"query has shape {tuple(query.shape)}; expected (1 or {B}, heads, {N}, d)")
    if value_weight.ndim != 2 or value_weight.shape[1] != m or value_weight.shape[0] % heads:
        raise ValueError(f"value_weight has shape {tuple(value_weight.shape)}; expected ({heads} * d_v, {m})")


def rope_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    num_unrotated_keys: int = 0,
    dropout_p: float = 0.0,
) -> Tensor:
    """Attention whose queries and keys are rotated by their position on the feature map.

    Args:
        query: ``(B, heads, N, d)``, one query per position.
        key: ``(B, heads, M, d)``; all but the last ``num_unrotated_keys`` keys are whole maps of N positions.
        value: ``(B, heads, M, d_v)``; ``d_v`` may differ from ``d``.
        cos, sin: ``(N, d / 2)`` fp32 rotation of each pair of neighbouring channels at each position.
        num_unrotated_keys: trailing keys without a position (object pointers).
        dropout_p: dropout of the attention weights.

    Returns:
        ``(B, heads, N, d_v)`` in the dtype of ``value``.

    Raises:
        ValueError: the rotated keys are not a whole number of maps, or the table does not fit the queries.

    Source: ``sam2.modeling.sam.transformer.RoPEAttention.forward``.
    """
    positions, rotated = query.shape[-2], key.shape[-2] - num_unrotated_keys
    if cos.shape != (positions, query.shape[-1] // 2) or sin.shape != cos.shape:
        raise ValueError(
            f"expected cos and sin ({positions}, {query.shape[-1] // 2}) for queries {tuple(query.shape)}, "
            f"got {tuple(cos.shape)} and {tuple(sin.shape)}"
        )
    if rotated < 0 or rotated % positions:
        raise ValueError(f"{rotated} rotated keys are not a whole number of maps of {positions} positions")
    if own := implementation_of("rope_attention"):
        return own(query, key, value, cos, sin, num_unrotated_keys, dropout_p)
    no_kernel = "has no dropout" if dropout_p else obstacle(query, value)
    if use_triton("rope_attention", query, key, value, obstacle=no_kernel) and kernel_pays(query, key, value):
        return call_with_gradient(rope_attention_operator, query, key, value, cos, sin, num_unrotated_keys)
    if runs_freely(query) and dropout_p == 0 and key.shape[-2] >= LONG:
        return rope_attention_cpu(query, key, value, cos, sin, num_unrotated_keys)
    return rope_attention_reference(query, key, value, cos, sin, num_unrotated_keys, dropout_p)
