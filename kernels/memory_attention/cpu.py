"""Attention with rotary positions on the CPU: only valid tokens, in blocks that fit the cache."""

from collections.abc import Iterator

import torch
from torch import Tensor

from sam2fast.kernels._cpu import linear
from sam2fast.kernels.memory_attention.blockwise import attend
from sam2fast.kernels.memory_attention.fp8 import Fp8, rounded_to_fp8
from sam2fast.kernels.memory_attention.pooling import Pooling, pool, pooled_keys
from sam2fast.kernels.memory_attention.reference import of_keys, project_values
from sam2fast.kernels.memory_attention.shapes import AttendedMemory


def rope_attention_cpu(
    query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, num_unrotated_keys: int = 0
) -> Tensor:
    """Like :func:`rope_attention_reference`, with scores in blocks that fit the cache; without gradients."""
    B, heads, N, d = query.shape
    M = key.shape[2]
    order = _halves(d)
    out = value.new_empty(B, heads, N, value.shape[-1])
    for b in range(B):
        for head in range(heads):
            keys = key[b, head][:, order].float()
            _rotate_(keys[: M - num_unrotated_keys], cos, sin)
            queries = _rotate_(query[b, head][:, order].float(), cos, sin)
            out[b, head] = attend(queries, [(keys, value[b, head], 1.0)], d**-0.5, value.shape[-1])
    return out


def memory_attention_cpu(
    query: Tensor,
    memory: AttendedMemory,
    key_weight: Tensor,
    key_bias: Tensor | None,
    value_weight: Tensor,
    value_bias: Tensor | None,
    cos: Tensor,
    sin: Tensor,
    fp8: Fp8 = False,
    pooling: Pooling = None,
) -> Tensor:
    """Like :func:`memory_attention_reference`, for valid tokens only and in blocks; without gradients."""
    B = len(memory.page_table)
    heads, N, d = query.shape[1:]
    order = _halves(d)
    weights = key_weight.unflatten(0, (heads, d))[:, order]
    biases = None if key_bias is None else key_bias.unflatten(0, (heads, d))[:, order]
    rotated = {}  # queries by (row, head): one row may serve all objects
    width = memory.pages.shape[-1]
    out = query.new_empty(B, heads, N, width)
    for b in range(B):
        if not (memory.page_table[b] >= 0).any() and not memory.pointer_valid[b].any():
            out[b] = 0
            continue
        row = b % len(query)
        pooled = pooling if (memory.page_table[b] >= 0).sum() > 1 else None
        for head in range(heads):
            bias = None if biases is None else biases[head]
            if (row, head) not in rotated:
                rotated_query = _rotate_(query[row, head][:, order].float(), cos[:N], sin[:N])
                rotated[row, head] = rounded_to_fp8(rotated_query) if fp8 else rotated_query
            keys_and_values = _keys_and_values(memory, b, weights[head], bias, query.dtype, cos, sin, pooled)
            if fp8:
                keys_and_values = ((rounded_to_fp8(keys), values, n) for keys, values, n in keys_and_values)
            out[b, head] = attend(rotated[row, head], keys_and_values, d**-0.5, width)
    return project_values(out, value_weight, value_bias)


def _keys_and_values(
    memory: AttendedMemory,
    b: int,
    weight: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    cos: Tensor,
    sin: Tensor,
    pooling: Pooling,
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Keys, values and their weight for object b: one page at a time, then its pointers; valid tokens only."""
    n = memory.pages.shape[1]
    cos, sin = of_keys(cos, n), of_keys(sin, n)
    factors = None if memory.key_factors is None else memory.key_factors[b]
    for i, (page, time) in enumerate(zip(memory.page_table[b].tolist(), memory.page_time[b].tolist(), strict=True)):
        if page >= 0:
            values = memory.pages[page]
            encoded = values + memory.position_encoding + memory.time_encoding[time]
            encoded = encoded if factors is None else encoded * factors[i]
            keys = linear(encoded.to(weight.dtype), weight, bias).float()
            keys, values = _rotate_(keys, cos, sin), values.to(dtype)
            if pooling:
                keys, values = pooled_keys(keys, n, pooling), pool(values, n)
            yield keys, values, 4.0 if pooling == "counted" else 1.0
    valid = memory.pointer_valid[b]
    if valid.any():
        values = memory.pointers[b, valid]
        wider = torch.promote_types(memory.pages.dtype, memory.position_encoding.dtype)
        encoded = (values + memory.pointer_encoding[b, valid]).to(
            torch.promote_types(wider, memory.time_encoding.dtype)
        )
        if factors is not None:
            encoded = encoded * factors[len(memory.page_table[b]) :][valid, None]
        yield linear(encoded.to(weight.dtype), weight, bias).float(), values.to(memory.pages.dtype).to(dtype), 1.0


def _halves(d: int) -> Tensor:
    """Even channels, then odd ones.

    A dot product does not depend on the order of channels, if both sides have the same. With the two channels of a pair
    d / 2 apart instead of adjacent, rotation works on contiguous memory.
    """
    return torch.cat([torch.arange(start, d, 2, device="cpu") for start in (0, 1)])


def _rotate_(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates ``x (maps * N, d)``, its channels ordered by :func:`_halves`, in place."""
    maps = x.view(-1, cos.shape[0], x.shape[-1])
    first, second = maps.chunk(2, dim=-1)
    rotated = second * cos
    rotated.addcmul_(first, sin)
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.copy_(rotated)
    return x
