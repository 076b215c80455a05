"""Attention with axial rotary positions: of a frame to itself, and of a frame to the memory bank."""

import math
from typing import Any

from torch import Tensor

from sam2fast.kernels._cpu import is_cpu_inference
from sam2fast.kernels._dispatch import FLOATS, implementation_of, use_triton
from sam2fast.kernels.layer_norm import add_layer_norm
from sam2fast.kernels.memory_attention.approximations import (
    Fp8,
    Pooling,
    offset_of_means,
    pool,
    pooled_keys,
    why_no_fp8,
)
from sam2fast.kernels.memory_attention.cpu import memory_attention_cpu, rope_attention_cpu
from sam2fast.kernels.memory_attention.reference import (
    WIDEST,
    AttendedMemory,
    apply_rope,
    memory_attention_op,
    memory_attention_reference,
    rope_attention_op,
    rope_attention_reference,
)

__all__ = [
    "AttendedMemory",
    "Fp8",
    "Pooling",
    "apply_rope",
    "memory_attention",
    "memory_attention_cpu",
    "memory_attention_reference",
    "offset_of_means",
    "pool",
    "pooled_keys",
    "rope_attention",
    "rope_attention_cpu",
    "rope_attention_reference",
    "why_no_fp8",
]

# Number of keys from which the blocked CPU implementation is faster than torch's attention.
LONG = 1024


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
    pooling: Pooling = None,
) -> Tensor:
    """Attention to the tokens of the memory bank.

    Keys are projections of encoded memory tokens, rotated by their position; pointers are not rotated. Weighted sums
    are taken of the tokens, and the sums are projected to values. Since the projection is linear and softmax weights
    sum to one, the result is the same, and the sums are d_v / m times cheaper.

    Args:
        query: ``(B, heads, N, d)``, not yet rotated; ``(1, heads, N, d)`` if all objects share it.
        memory: see :class:`AttendedMemory`.
        key_weight: ``(heads * d, m)``.
        key_bias: ``(heads * d,)``.
        value_weight: ``(heads * d_v, m)``.
        value_bias: ``(heads * d_v,)``.
        cos, sin: ``(N, d / 2)`` fp32 rotation of each pair of neighbouring channels at each position. Where pages have
            other positions than the queries, ``(N + n, d / 2)``: those of the queries, then those of a page; for a
            token without a position the cosine is 1 and the sine 0.
        fp8: round each rotated query and key to float8_e4m3fn with a scale each, and compute scores from these. On GPUs
            without fp8 matrix multiplications, and with ``"emulated"`` everywhere, the reference implementation does
            that. An implementation that is registered for the active backend does not get this argument.
        pooling: an object with several memories attends to means of 2x2 tokens: means of rotated keys, and of values. A
            mean counts as four tokens with ``"counted"``; with ``"raised"`` log 4 is added to each component of its
            key. Pages are whole square maps of even sides. An implementation that is registered for the active backend
            is not used with it.

    Factors of keys, and means with ``fp8``, are computed by the reference implementation or, on the CPU, in blocks.

    Returns:
        ``(B, N, heads * d_v)`` in the dtype of ``query``; for an object without pages and pointers the bias.

    Raises:
        ValueError: shapes that do not match.
        RuntimeError: with ``fp8`` a gradient is needed; rounding has none.

    Source: ``sam2.modeling.sam.transformer.RoPEAttention.forward`` as the memory attention uses it.
    """
    rest = key_weight, key_bias, value_weight, value_bias, cos, sin
    _check(query, memory, rest, pooling)
    has_factors = memory.key_factors is not None  # which the kernel has not
    if not has_factors and not pooling and (custom := implementation_of("memory_attention")):
        return custom(query, memory, *rest)
    if found := _by_kernel(query, memory, rest, (None, None, None, 0.0), fp8, pooling):
        return found[0]
    compute = memory_attention_cpu if is_cpu_inference(query) else memory_attention_reference
    return compute(query, memory, *rest, fp8, pooling)


def add_memory_attention(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    query: Tensor,
    memory: AttendedMemory,
    *rest: Any,
    fp8: Fp8 = False,
    pooling: Pooling = None,
) -> tuple[Tensor, Tensor]:
    """Adds :func:`memory_attention` to a residual, and computes the layer norm of the sum.

    Args:
        x: Residual ``(B or 1, N, C)``.
        norm_weight, norm_bias: ``(C)``.
        eps: Added to the variance.
        query, memory, rest, fp8, pooling: Arguments of :func:`memory_attention`.

    Returns:
        The sum ``(B, N, C)`` in torch's promoted dtype, and its norm in the dtype of ``query``.

    Raises:
        ValueError: If the shapes do not fit together.
    """
    norm = x, norm_weight, norm_bias, eps
    # Some GPUs have too little shared memory for more than 64 channels of memories in 16 bits, or 32 in fp32.
    fits = memory.pages.shape[-1] * query.element_size() <= 128
    can_join = fits and _is_row(norm, query, len(memory.page_table), len(rest[2]))
    if can_join and not implementation_of("memory_attention"):
        _check(query, memory, rest, pooling)
        if joined := _by_kernel(query, memory, rest, norm, fp8, pooling):
            return joined
    found = memory_attention(query, memory, *rest, fp8=fp8, pooling=pooling)
    return add_layer_norm(x.expand(len(found), -1, -1) if len(x) == 1 else x, found, *norm[1:], query.dtype)


def _is_row(norm: tuple[Any, ...], query: Tensor, batch: int, channels: int) -> bool:
    """Returns True if a program of the kernel can add all ``channels`` of one head to a residual that fits."""
    x, weight, bias, *_ = norm
    fits = x.shape in ((1, query.shape[2], channels), (batch, query.shape[2], channels))
    fits = fits and weight.shape == bias.shape == (channels,)
    return fits and query.shape[1] == 1 and channels <= WIDEST and x.dtype in FLOATS


def _by_kernel(
    query: Tensor, memory: AttendedMemory, rest: tuple[Any, ...], norm: tuple[Any, ...], fp8: Fp8, pooling: Pooling
) -> tuple[Tensor, Tensor] | None:
    """Returns the operator's results, or None if the kernel is not used."""
    if memory.key_factors is not None or fp8 == "emulated" or (fp8 and pooling):
        return None
    given = query, *memory[:8], *rest, *norm, bool(fp8), pooling or ""
    return memory_attention_op.run(*given) if memory_attention_op.uses_kernel(*given) else None


def _check(query: Tensor, memory: AttendedMemory, rest: tuple[Any, ...], pooling: Pooling) -> None:
    key_weight, _, value_weight, _, cos, sin = rest
    (batch, heads, positions, d), (B, K) = query.shape, memory.page_table.shape
    _, n, m = memory.pages.shape
    L = memory.pointers.shape[1]
    angles = n if n == positions else positions + n
    expected = {
        "page_time": (memory.page_time, (B, K)),
        "position_encoding": (memory.position_encoding, (n, m)),
        "pointers": (memory.pointers, (B, L, m)),
        "pointer_encoding": (memory.pointer_encoding, (B, L, m)),
        "pointer_valid": (memory.pointer_valid, (B, L)),
        **({} if memory.key_factors is None else {"key_factors": (memory.key_factors, (B, K + L))}),
        "key_weight": (key_weight, (heads * d, m)),
        "cos": (cos, (angles, d // 2)),
        "sin": (sin, (angles, d // 2)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {shape}")
    if batch not in (1, B):
        raise ValueError(f"query has shape {tuple(query.shape)}; expected (1 or {B}, heads, {positions}, d)")
    if value_weight.ndim != 2 or value_weight.shape[1] != m or value_weight.shape[0] % heads:
        raise ValueError(f"value_weight has shape {tuple(value_weight.shape)}; expected ({heads} * d_v, {m})")
    if pooling and (len(memory.position_encoding) != positions or math.isqrt(positions) % 2):
        raise ValueError(f"pages have {n} tokens; pooling needs whole maps of {positions}, with an even side")


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
    if custom := implementation_of("rope_attention"):
        return custom(query, key, value, cos, sin, num_unrotated_keys, dropout_p)
    given = query, key, value, cos, sin, None, None, None, num_unrotated_keys, 0.0
    if dropout_p:
        use_triton("rope_attention", query, unsupported_reason="has no dropout")  # raises if it is forced
    elif rope_attention_op.uses_kernel(*given):
        return rope_attention_op.run(*given)[0]
    if is_cpu_inference(query) and dropout_p == 0 and key.shape[-2] >= LONG:
        return rope_attention_cpu(query, key, value, cos, sin, num_unrotated_keys)
    return rope_attention_reference(query, key, value, cos, sin, num_unrotated_keys, dropout_p)


def add_rope_attention(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, *given: Any
) -> tuple[Tensor, Tensor]:
    """Adds :func:`rope_attention` to a residual, and computes the layer norm of the sum.

    Args:
        x: Residual ``(B, N, C)``.
        norm_weight, norm_bias, eps: See :func:`add_memory_attention`.
        given: Tensors that :func:`rope_attention` takes.

    Returns:
        The sum ``(B, N, C)`` in torch's promoted dtype, and its norm in the dtype of the queries.
    """
    norm = x, norm_weight, norm_bias
    can_join = _is_row(norm, given[0], len(given[0]), given[2].shape[-1]) and not implementation_of("rope_attention")
    if can_join and rope_attention_op.uses_kernel(*given, *norm, 0, eps):
        return rope_attention_op.run(*given, *norm, 0, eps)
    found = rope_attention(*given).transpose(1, 2).flatten(2)
    return add_layer_norm(x, found, norm_weight, norm_bias, eps, given[0].dtype)
