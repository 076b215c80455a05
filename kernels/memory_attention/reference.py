"""Reference implementations of attention with rotary positions."""

import torch
import torch.nn.functional as F

from sam2fast.kernels._cpu import linear
from sam2fast.kernels.memory_attention.fp8 import Fp8, rounded_to_fp8
from sam2fast.kernels.memory_attention.pooling import Pooling, with_means
from sam2fast.kernels.memory_attention.shapes import AttendedMemory


def apply_rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates the channel pairs (2i, 2i+1) of ``x (..., maps * N, d)`` in fp32; ``cos, sin (N, d / 2)``."""
    maps = x.float().unflatten(-2, (-1, cos.shape[-2]))  # (..., maps, N, d)
    even, odd = maps[..., 0::2], maps[..., 1::2]
    rotated = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return rotated.flatten(-2).flatten(-3, -2).to(x.dtype)


def rope_attention_reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    num_unrotated_keys: int = 0,
    dropout_p: float = 0.0,
) -> torch.Tensor:
    """Reference implementation of :func:`rope_attention`: rotates queries and keys, then torch's attention."""
    rotated, unrotated = key.split([key.shape[-2] - num_unrotated_keys, num_unrotated_keys], dim=-2)
    query = apply_rope(query, cos, sin)
    if rotated.shape[-2]:  # an object may have pointers and no spatial memory
        key = torch.cat([apply_rope(rotated, cos, sin), unrotated], dim=-2)
    return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout_p)


def memory_attention_reference(
    query: torch.Tensor,
    memory: AttendedMemory,
    key_weight: torch.Tensor,
    key_bias: torch.Tensor | None,
    value_weight: torch.Tensor,
    value_bias: torch.Tensor | None,
    cos: torch.Tensor,
    sin: torch.Tensor,
    fp8: Fp8 = False,
    pooling: Pooling = None,
) -> torch.Tensor:
    """Reference implementation of :func:`memory_attention`: keys of every slot, masked where there is no memory."""
    heads, N = query.shape[1:3]
    out_dtype = query.dtype
    (B, K), n = memory.page_table.shape, memory.pages.shape[1]
    page_valid = memory.page_table >= 0  # (B, K)
    valid = torch.cat([page_valid.repeat_interleave(n, dim=1), memory.pointer_valid], dim=1)  # (B, M)
    time, offset = memory.time_encoding[memory.page_time.long()][:, :, None], None  # (B, K, 1, m)

    # Slots without memory may hold anything, also NaN.
    maps = memory.pages[memory.page_table.clamp(min=0).long()]  # (B, K, n, m)
    maps = torch.where(page_valid[:, :, None, None], maps, 0)
    pointers = torch.where(memory.pointer_valid[..., None], memory.pointers, 0)
    encoded = (maps + memory.position_encoding + time).flatten(1, 2)
    tokens = torch.cat([encoded, (pointers + memory.pointer_encoding).to(encoded.dtype)], dim=1)
    if memory.key_factors is not None:
        of_pages, of_pointers = memory.key_factors[:, :K], memory.key_factors[:, K:]
        tokens = tokens * torch.cat([of_pages.repeat_interleave(n, dim=1), of_pointers], dim=1)[..., None]
    key = F.linear(tokens.to(key_weight.dtype), key_weight, key_bias)
    key = key.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, heads, M, d)
    if fp8:  # rotation and the rounded rows need fp32
        wide = torch.promote_types(query.dtype, torch.float32)
        query, key = query.to(wide), key.to(wide)
    if K:
        key = torch.cat([apply_rope(key[:, :, : K * n], of_keys(cos, n), of_keys(sin, n)), key[:, :, K * n :]], dim=2)

    value = torch.cat([maps.flatten(1, 2), pointers.to(maps.dtype)], dim=1)  # (B, M, m)
    value = value.to(query.dtype)[:, None].expand(-1, heads, -1, -1)
    key = key.to(query.dtype)
    if pooling and K:
        key, value, valid, offset = with_means(key, value, page_valid, memory.pointer_valid, pooling)
    query = apply_rope(query, cos[:N], sin[:N])
    if fp8:
        query, key = rounded_to_fp8(query), rounded_to_fp8(key)
    query = query.expand(B, -1, -1, -1)
    width = value.shape[-1]
    if query.device.type == "mps":
        # Before torch 2.12 attention is wrong on MPS for values narrower than keys.
        value = F.pad(value, (0, query.shape[-1] - width))
    # One row of the mask serves all queries; torch expands it in the queries' dtype.
    mask = valid if offset is None else torch.where(valid, offset, -torch.inf).to(query.dtype)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])[..., :width]
    means = torch.where(valid.any(dim=1)[:, None, None, None], out, 0).to(out_dtype)
    return project_values(means, value_weight, value_bias)


def of_keys(table: torch.Tensor, n: int) -> torch.Tensor:
    """The ``n`` rows of a ``table`` of rotations that are those of pages: the last, which may be the queries', too."""
    return table[len(table) - n :]


def project_values(means: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Projects each head's ``means (B, heads, N, m)``: ``(B, N, heads * d_v)``."""
    heads = means.shape[1]
    if heads == 1:
        return linear(means[:, 0].to(weight.dtype), weight, bias)
    weights = weight.unflatten(0, (heads, -1))
    biases = [None] * heads if bias is None else bias.unflatten(0, (heads, -1))
    parts = zip(means.to(weight.dtype).unbind(1), weights, biases, strict=True)
    return torch.cat([linear(mean, w, b) for mean, w, b in parts], dim=-1)
