"""Computes self-attention of a frame and attention to the memory bank, with axial rotary position encoding."""

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
    KeyValueWeights,
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

# Minimum number of keys for which :func:`rope_attention_cpu` is faster than torch's attention on the CPU.
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
    """Computes attention to the tokens of the memory bank.

    Keys are projections of encoded memory tokens, rotated by the tokens' positions. Keys of pointers are not rotated.
    Attention sums memory tokens of m channels, and then projects the sums to values of d_v channels. The projection is
    linear and softmax weights sum to one, so projecting last gives the same result with cheaper sums.

    With ``memory.key_factors``, or with both ``fp8`` and ``pooling``, no Triton kernel is used.

    Args:
        query: Queries ``(B, heads, N, d)`` before rotation, or ``(1, heads, N, d)`` if all objects share queries.
        memory: Memory of B objects, see :class:`AttendedMemory`.
        key_weight, key_bias: Weight ``(heads * d, m)`` of the key projection, and bias ``(heads * d,)`` or None.
        value_weight, value_bias: Weight ``(heads * d_v, m)`` of the value projection, and bias ``(heads * d_v,)`` or
            None.
        cos, sin: Rotation ``(N, d / 2)`` fp32 of each pair of adjacent channels at each position. If queries and pages
            have different positions, the shape is ``(N + n, d / 2)``, with N rows for queries before n rows for a page.
            Tokens without a position need a cosine of 1 and a sine of 0.
        fp8: If True, each rotated query and key is rounded to float8_e4m3fn with a scale, and scores are computed from
            the rounded values. On GPUs without fp8 matrix multiplications, or if ``fp8`` is ``"emulated"``, the
            reference implementation computes the rounding. ``fp8`` is not passed to registered implementations.
        pooling: If not None, an object with several memories attends to means of 2x2 tokens: means of rotated keys, and
            means of values. With ``"counted"``, log 4 is added to scores of means, so that each mean weighs as much as
            four tokens. With ``"raised"``, log 4 is added to each component of a mean key. Pages must be square maps of
            even side. With ``pooling``, registered implementations are not used.

    Returns:
        Tensor ``(B, N, heads * d_v)`` in the dtype of ``query``. For objects without pages and pointers, the result is
        the value bias.

    Raises:
        ValueError: If the shapes do not match.
        RuntimeError: If a gradient is needed with ``fp8``, since rounding has no gradient.

    Source: ``sam2.modeling.sam.transformer.RoPEAttention.forward``, as used by the memory attention.
    """
    weights = KeyValueWeights(key_weight, key_bias, value_weight, value_bias, cos, sin)
    _check(query, memory, weights, pooling)
    has_factors = memory.key_factors is not None  # kernels and registered implementations do not support factors
    if not has_factors and not pooling and (custom := implementation_of("memory_attention")):
        return custom(query, memory, *weights)
    if outputs := _by_kernel(query, memory, weights, (None, None, None, 0.0), fp8, pooling):
        return outputs[0]
    compute = memory_attention_cpu if is_cpu_inference(query) else memory_attention_reference
    return compute(query, memory, *weights, fp8=fp8, pooling=pooling)


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
        norm_weight, norm_bias: Weight and bias ``(C)`` of the norm.
        eps: Value added to the variance.
        query, memory, rest, fp8, pooling: Arguments of :func:`memory_attention`.

    Returns:
        The sum ``(B, N, C)`` in torch's promoted dtype, and the norm of the sum in the dtype of ``query``.

    Raises:
        ValueError: If the shapes do not match.
    """
    norm, weights = (x, norm_weight, norm_bias, eps), KeyValueWeights(*rest)
    # The fused kernel supports memory tokens of at most 64 channels in 16 bits or 32 channels in fp32. For more
    # channels, some GPUs have too little shared memory.
    fits = memory.pages.shape[-1] * query.element_size() <= 128
    can_join = fits and _is_row(norm, query, len(memory.page_table), len(weights.value_weight))
    if can_join and not implementation_of("memory_attention"):
        _check(query, memory, weights, pooling)
        if joined := _by_kernel(query, memory, weights, norm, fp8, pooling):
            return joined
    output = memory_attention(query, memory, *weights, fp8=fp8, pooling=pooling)
    return add_layer_norm(x.expand(len(output), -1, -1) if len(x) == 1 else x, output, *norm[1:], query.dtype)


def _is_row(norm: tuple[Any, ...], query: Tensor, batch: int, channels: int) -> bool:
    """Returns True if the kernel can add the attention to the residual: one head of ``channels`` channels."""
    x, weight, bias, *_ = norm
    fits = x.shape in ((1, query.shape[2], channels), (batch, query.shape[2], channels))
    fits = fits and weight.shape == bias.shape == (channels,)
    return fits and query.shape[1] == 1 and channels <= WIDEST and x.dtype in FLOATS


def _by_kernel(
    query: Tensor, memory: AttendedMemory, weights: KeyValueWeights, norm: tuple[Any, ...], fp8: Fp8, pooling: Pooling
) -> tuple[Tensor, Tensor] | None:
    """Returns the attention kernel's results, or None if the kernel is not used."""
    if memory.key_factors is not None or fp8 == "emulated" or (fp8 and pooling):
        return None
    args = query, *memory[:8], *weights, *norm, bool(fp8), pooling or ""
    return memory_attention_op.run(*args) if memory_attention_op.uses_kernel(*args) else None


def _check(query: Tensor, memory: AttendedMemory, weights: KeyValueWeights, pooling: Pooling) -> None:
    key_weight, _, value_weight, _, cos, sin = weights
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
        raise ValueError(f"pages have {n} tokens; pooling needs maps of {positions} positions with an even side")


def rope_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    num_unrotated_keys: int = 0,
    dropout_p: float = 0.0,
) -> Tensor:
    """Computes attention, with queries and keys rotated by their positions on the feature map.

    Args:
        query: Queries ``(B, heads, N, d)``, one per position.
        key: Keys ``(B, heads, M, d)``: concatenated maps of N positions, followed by ``num_unrotated_keys`` other keys.
        value: Values ``(B, heads, M, d_v)``. ``d_v`` may differ from ``d``.
        cos, sin: Rotation ``(N, d / 2)`` fp32 of each pair of adjacent channels at each position.
        num_unrotated_keys: Number of trailing keys without a position (object pointers).
        dropout_p: Dropout probability of the attention weights.

    Returns:
        Tensor ``(B, heads, N, d_v)`` in the dtype of ``value``.

    Raises:
        ValueError: If the number of rotated keys is not a multiple of N, or ``cos`` or ``sin`` has another shape.

    Source: ``sam2.modeling.sam.transformer.RoPEAttention.forward``.
    """
    positions, rotated = query.shape[-2], key.shape[-2] - num_unrotated_keys
    if cos.shape != (positions, query.shape[-1] // 2) or sin.shape != cos.shape:
        raise ValueError(
            f"expected cos and sin ({positions}, {query.shape[-1] // 2}) for queries {tuple(query.shape)}, "
            f"got {tuple(cos.shape)} and {tuple(sin.shape)}"
        )
    if rotated < 0 or rotated % positions:
        raise ValueError(f"{rotated} rotated keys are not a whole number of maps with {positions} positions")
    if custom := implementation_of("rope_attention"):
        return custom(query, key, value, cos, sin, num_unrotated_keys, dropout_p)
    args = query, key, value, cos, sin, None, None, None, num_unrotated_keys, 0.0
    if dropout_p:
        use_triton("rope_attention", query, unsupported_reason="has no dropout")  # raises if the backend is "triton"
    elif rope_attention_op.uses_kernel(*args):
        return rope_attention_op.run(*args)[0]
    if is_cpu_inference(query) and dropout_p == 0 and key.shape[-2] >= LONG:
        return rope_attention_cpu(query, key, value, cos, sin, num_unrotated_keys)
    return rope_attention_reference(query, key, value, cos, sin, num_unrotated_keys, dropout_p)


def add_rope_attention(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float, *args: Any
) -> tuple[Tensor, Tensor]:
    """Adds :func:`rope_attention` to a residual, and computes the layer norm of the sum.

    Args:
        x: Residual ``(B, N, C)``.
        norm_weight, norm_bias, eps: See :func:`add_memory_attention`.
        args: Tensor arguments of :func:`rope_attention`.

    Returns:
        The sum ``(B, N, C)`` in torch's promoted dtype, and the norm of the sum in the dtype of the queries.
    """
    norm = x, norm_weight, norm_bias
    can_join = _is_row(norm, args[0], len(args[0]), args[2].shape[-1]) and not implementation_of("rope_attention")
    if can_join and rope_attention_op.uses_kernel(*args, *norm, 0, eps):
        return rope_attention_op.run(*args, *norm, 0, eps)
    output = rope_attention(*args).transpose(1, 2).flatten(2)
    return add_layer_norm(x, output, norm_weight, norm_bias, eps, args[0].dtype)
