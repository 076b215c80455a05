"""Defines the inputs, reference implementations and operators of attention with rotary positions."""

from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.kernels._cpu import linear
from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels._launch import MAX_PROGRAMS, is_hopper, tf32_is_allowed
from sam2fast.kernels._op import Op
from sam2fast.kernels.layer_norm import add_layer_norm_reference
from sam2fast.kernels.memory_attention.approximations import Fp8, Pooling, rounded_to_fp8, too_old_for_fp8, with_means

WIDEST = 256  # maximum number of channels of heads and of values that kernels support
# Maximum channels of memory tokens. More channels exceed the 99 KiB of shared memory of GPUs with compute capability
# 8.6, 8.9 and 12.0: 128 channels in fp32 need 104 KiB, and 256 channels in fp16 and bf16 need 144 KiB.
WIDEST_MEMORY = {torch.float32: 64, torch.bfloat16: 128, torch.float16: 128}


class AttendedMemory(NamedTuple):
    """Stores the memory that B objects attend to on a frame: up to K pages and L pointers per object.

    A page is either a map with the N positions of the queries, or consists of n tokens with other positions.
    """

    pages: Tensor  # (P, n, m) spatial memories of all objects: P pages of n tokens
    page_table: Tensor  # (B, K) int32, indices of each object's pages, or -1 for an empty slot
    page_time: Tensor  # (B, K) int32, each page's row in time_encoding
    position_encoding: Tensor  # (n, m), one row per token of a page
    time_encoding: Tensor  # (T, m)
    pointers: Tensor  # (B, L, m) object pointer tokens
    pointer_encoding: Tensor  # (B, L, m)
    pointer_valid: Tensor  # (B, L) bool
    key_factors: Tensor | None = None  # (B, K + L), factor of each page's and pointer's tokens before key projection

    def of(self, some: slice) -> "AttendedMemory":
        """Returns the memory of the objects with indices ``some``."""
        return self._replace(
            page_table=self.page_table[some],
            page_time=self.page_time[some],
            pointers=self.pointers[some],
            pointer_encoding=self.pointer_encoding[some],
            pointer_valid=self.pointer_valid[some],
            key_factors=None if self.key_factors is None else self.key_factors[some],
        )


class KeyValueWeights(NamedTuple):
    """Stores arguments of :func:`sam2fast.kernels.memory_attention.memory_attention`: projections and rotations."""

    key_weight: Tensor
    key_bias: Tensor | None
    value_weight: Tensor
    value_bias: Tensor | None
    cos: Tensor
    sin: Tensor


def unsupported_reason(query: Tensor, values: Tensor) -> str | None:
    """Returns the reason why kernels do not support queries ``(B, heads, N, d)`` and values ``(..., d_v)``, or None."""
    if max(query.shape[-1], values.shape[-1]) > WIDEST:
        return f"supports heads and values of up to {WIDEST} channels"
    if query.shape[-1] % 2:
        return f"supports heads with an even number of channels, got {query.shape[-1]}"
    if query.dtype not in FLOATS:
        return f"does not support {query.dtype}"
    B, heads = query.shape[:2]
    # In graphs, the number of heads is not checked, since the check would become a guard on the number of objects.
    if not torch.compiler.is_compiling() and B * heads > MAX_PROGRAMS:
        return f"supports up to {MAX_PROGRAMS} query heads of all objects together, got {B} x {heads}"
    return None


def memory_unsupported_reason(query: Tensor, pages: Tensor, fp8: bool = False) -> str | None:
    """Returns the reason why kernels do not support a query and memory ``pages (P, n, m)``, or None.

    If all objects share queries, the kernels support any number of objects.
    """
    if reason := unsupported_reason(query, pages):
        return reason
    m, widest = pages.shape[-1], WIDEST_MEMORY[query.dtype]
    if m > widest:
        return f"supports memory tokens of up to {widest} channels in {query.dtype}, got {m}"
    return too_old_for_fp8(query.device) if fp8 and query.is_cuda else None


# ---- reference implementations ----


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates the channel pairs (2i, 2i+1) of ``x (..., maps * N, d)`` in fp32; ``cos, sin (N, d / 2)``."""
    maps = x.float().unflatten(-2, (-1, cos.shape[-2]))  # (..., maps, N, d)
    even, odd = maps[..., 0::2], maps[..., 1::2]
    rotated = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return rotated.flatten(-2).flatten(-3, -2).to(x.dtype)


def rope_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    num_unrotated_keys: int = 0,
    dropout_p: float = 0.0,
) -> Tensor:
    """Reference implementation of :func:`rope_attention`: rotates queries and keys, and calls torch's attention."""
    rotated, unrotated = key.split([key.shape[-2] - num_unrotated_keys, num_unrotated_keys], dim=-2)
    query = apply_rope(query, cos, sin)
    if rotated.shape[-2]:  # an object may have only pointers
        key = torch.cat([apply_rope(rotated, cos, sin), unrotated], dim=-2)
    return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout_p)


def memory_attention_reference(
    query: Tensor, memory: AttendedMemory, *rest: Any, fp8: Fp8 = False, pooling: Pooling = None
) -> Tensor:
    """Reference implementation of :func:`memory_attention`: computes keys of all slots, and masks empty slots.

    ``rest`` consists of the fields of :class:`KeyValueWeights`.
    """
    weights, heads, N = KeyValueWeights(*rest), *query.shape[1:3]
    out_dtype = query.dtype
    (B, K), n = memory.page_table.shape, memory.pages.shape[1]
    page_valid = memory.page_table >= 0  # (B, K)
    valid = torch.cat([page_valid.repeat_interleave(n, dim=1), memory.pointer_valid], dim=1)  # (B, M)
    time, offset = memory.time_encoding[memory.page_time.long()][:, :, None], None  # (B, K, 1, m)

    # Pages and pointers of empty slots are set to 0, since they may contain any values, including NaN.
    maps = memory.pages[memory.page_table.clamp(min=0).long()]  # (B, K, n, m)
    maps = torch.where(page_valid[:, :, None, None], maps, 0)
    pointers = torch.where(memory.pointer_valid[..., None], memory.pointers, 0)
    encoded = (maps + memory.position_encoding + time).flatten(1, 2)
    tokens = torch.cat([encoded, (pointers + memory.pointer_encoding).to(encoded.dtype)], dim=1)
    if memory.key_factors is not None:
        of_pages, of_pointers = memory.key_factors[:, :K], memory.key_factors[:, K:]
        tokens = tokens * torch.cat([of_pages.repeat_interleave(n, dim=1), of_pointers], dim=1)[..., None]
    key = F.linear(tokens.to(weights.key_weight.dtype), weights.key_weight, weights.key_bias)
    key = key.unflatten(-1, (heads, -1)).transpose(1, 2)  # (B, heads, M, d)
    if fp8:  # queries and keys are rotated and rounded in fp32
        wide = torch.promote_types(query.dtype, torch.float32)
        query, key = query.to(wide), key.to(wide)
    if K:
        cos, sin = of_keys(weights.cos, n), of_keys(weights.sin, n)
        key = torch.cat([apply_rope(key[:, :, : K * n], cos, sin), key[:, :, K * n :]], dim=2)  # frees the old keys

    value = torch.cat([maps.flatten(1, 2), pointers.to(maps.dtype)], dim=1)  # (B, M, m)
    value = value.to(query.dtype)[:, None].expand(-1, heads, -1, -1)
    key = key.to(query.dtype)
    if pooling and K:
        key, value, valid, offset = with_means(key, value, page_valid, memory.pointer_valid, pooling)
    query = apply_rope(query, weights.cos[:N], weights.sin[:N])
    if fp8:
        query, key = rounded_to_fp8(query), rounded_to_fp8(key)
    # The query must be contiguous: for an expanded query, torch allocates an output that cuDNN rejects.
    query = query.expand(B, -1, -1, -1).contiguous()
    width = value.shape[-1]
    if query.device.type == "mps":
        # Before torch 2.12, attention on MPS is incorrect for values with fewer channels than keys.
        value = F.pad(value, (0, query.shape[-1] - width))
    # The mask has one row, which all queries of an object share. Torch requires a float mask in the dtype of queries.
    mask = valid if offset is None else torch.where(valid, offset, -torch.inf).to(query.dtype)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])[..., :width]
    means = torch.where(valid.any(dim=1)[:, None, None, None], out, 0).to(out_dtype)
    return project_values(means, weights.value_weight, weights.value_bias)


def of_keys(table: Tensor, n: int) -> Tensor:
    """Returns the rotations of a page's tokens: the last ``n`` rows of ``table``."""
    return table[len(table) - n :]


def project_values(means: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Projects the ``means (B, heads, N, m)`` of each head to values. Returns ``(B, N, heads * d_v)``."""
    heads = means.shape[1]
    if heads == 1:
        return linear(means[:, 0].to(weight.dtype), weight, bias)
    weights = weight.unflatten(0, (heads, -1))
    biases = [None] * heads if bias is None else bias.unflatten(0, (heads, -1))
    parts = zip(means.to(weight.dtype).unbind(1), weights, biases, strict=True)
    return torch.cat([linear(mean, w, b) for mean, w, b in parts], dim=-1)


# ---- operators ----


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
    x: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    eps: float,
    fp8: bool,
    pooling: str,
) -> tuple[Tensor, Tensor]:
    memory = AttendedMemory(
        pages, page_table, page_time, position_encoding, time_encoding, pointers, pointer_encoding, pointer_valid
    )
    weights = key_weight, key_bias, value_weight, value_bias, cos, sin
    pooled = cast(Pooling, pooling or None)
    output = memory_attention_reference(query, memory, *weights, fp8=fp8, pooling=pooled)
    if x is None or norm_weight is None or norm_bias is None:
        return output, output.new_empty(0)
    return add_layer_norm_reference(x.expand_as(output), output, norm_weight, norm_bias, eps, query.dtype)


def _prefers_torch(query: Tensor, pages: Tensor, *rest: Any) -> bool:
    """Returns True in fp32 on Hopper, for heads of 256 channels and memories of 64 channels, unless torch allows TF32.

    On an H100, the reference takes 0.42 to 0.78 of the kernel's time, but needs twice as much memory. If torch allows
    TF32, the kernel computes one TF32 product instead of three, and is faster. With fp8 or pooling, returns False.
    """
    is_slow = query.dtype == torch.float32 and (query.shape[-1], pages.shape[-1]) == (256, 64)
    return is_slow and not any(rest[-2:]) and is_hopper(query.device) and not tf32_is_allowed()


def _fake_memory(query: Tensor, pages: Tensor, page_table: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    value_weight, x = rest[8], rest[12]
    shape = page_table.shape[0], query.shape[2], value_weight.shape[0]
    if x is None:
        return query.new_empty(shape), query.new_empty(0)
    return query.new_empty(shape, dtype=torch.promote_types(query.dtype, x.dtype)), query.new_empty(shape)


# The operator of memory attention takes the memory as separate tensors, and "" instead of None for ``pooling``. The
# operator returns attention and an empty tensor, or with a residual, the sum and the norm of the sum.
memory_attention_op = Op(
    "memory_attention",
    _memory_attention_reference,
    "memory_attention.launch.memory_attention_of_tensors",
    unsupported=lambda query, pages, *rest: memory_unsupported_reason(query, pages, rest[-2]),
    prefers_torch=_prefers_torch,
    compile_key=lambda query, pages, *rest: (query.shape[-1], pages.shape[-1], rest[-2:]),
    fake=_fake_memory,
)


def _rope_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
    x: Tensor | None,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    num_unrotated_keys: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    output = rope_attention_reference(query, key, value, cos, sin, num_unrotated_keys)
    if x is None or norm_weight is None or norm_bias is None:
        return output, output.new_empty(0)
    return add_layer_norm_reference(x, output[:, 0], norm_weight, norm_bias, eps, query.dtype)


def _fake_rope(query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    (B, H, N, _), x = query.shape, rest[2]
    if x is None:
        return value.new_empty(B, N, H, value.shape[-1]).transpose(1, 2), value.new_empty(0)
    return x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, value.dtype)), query.new_empty(x.shape)


rope_attention_op = Op(
    "rope_attention",
    _rope_attention_reference,
    "memory_attention.launch.rope_attention_of_tensors",
    unsupported=lambda query, key, value, *_: unsupported_reason(query, value),
    compile_key=lambda query, key, value, *_: (query.shape[-1], value.shape[-1]),
    layout=lambda out: out.transpose(1, 2).contiguous().transpose(1, 2) if out.ndim == 4 else out.contiguous(),
    fake=_fake_rope,
)
