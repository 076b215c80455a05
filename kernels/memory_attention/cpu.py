"""Computes attention with rotary positions on the CPU. Skips invalid tokens, and uses blocks that fit the cache."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from sam2fast.kernels._cpu import linear_in_inference as linear
from sam2fast.kernels.memory_attention.approximations import Fp8, Pooling, pool, pooled_keys, rounded_to_fp8
from sam2fast.kernels.memory_attention.reference import AttendedMemory, KeyValueWeights, project_values


def rope_attention_cpu(
    query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, num_unrotated_keys: int = 0
) -> Tensor:
    """Computes :func:`rope_attention_reference` in blocks of scores that fit the cache, without gradients."""
    B, heads, N, d = query.shape
    M = key.shape[2]
    order = torch.arange(d, device="cpu").view(-1, 2).t().flatten()  # even channels come first, see _rotate_
    out = value.new_empty(B, heads, N, value.shape[-1])
    for b in range(B):
        for head in range(heads):
            keys = key[b, head][:, order].float()
            _rotate_(keys[: M - num_unrotated_keys], cos, sin)
            queries = _rotate_(query[b, head][:, order].float(), cos, sin)
            out[b, head] = attend(queries, [(keys, value[b, head], 1.0)], d**-0.5, value.shape[-1])
    return out


def memory_attention_cpu(
    query: Tensor, memory: AttendedMemory, *rest: Any, fp8: Fp8 = False, pooling: Pooling = None
) -> Tensor:
    """Computes :func:`memory_attention_reference` only for valid tokens, in blocks of scores, without gradients.

    ``rest`` consists of the fields of :class:`KeyValueWeights`.
    """
    weights, B = KeyValueWeights(*rest), len(memory.page_table)
    heads, N, d = query.shape[1:]
    order = torch.arange(d, device="cpu").view(-1, 2).t().flatten()  # even channels come first, see _rotate_
    key_weight = weights.key_weight.unflatten(0, (heads, d))[:, order]
    key_bias = None if weights.key_bias is None else weights.key_bias.unflatten(0, (heads, d))[:, order]
    rotated = {}  # rotated queries by (batch index of the query, head); all objects may share queries
    width = memory.pages.shape[-1]
    out = query.new_empty(B, heads, N, width)
    for b in range(B):
        if not (memory.page_table[b] >= 0).any() and not memory.pointer_valid[b].any():
            out[b] = 0
            continue
        row = b % len(query)
        pooled = pooling if (memory.page_table[b] >= 0).sum() > 1 else None
        for head in range(heads):
            bias = None if key_bias is None else key_bias[head]
            of_head = weights._replace(key_weight=key_weight[head], key_bias=bias)
            if (row, head) not in rotated:
                rotated_query = _rotate_(query[row, head][:, order].float(), weights.cos[:N], weights.sin[:N])
                rotated[row, head] = rounded_to_fp8(rotated_query) if fp8 else rotated_query
            keys_and_values = _keys_and_values(memory, b, of_head, query.dtype, pooled)
            if fp8:
                keys_and_values = ((rounded_to_fp8(keys), values, n) for keys, values, n in keys_and_values)
            out[b, head] = attend(rotated[row, head], keys_and_values, d**-0.5, width)
    return project_values(out, weights.value_weight, weights.value_bias)


def _keys_and_values(
    memory: AttendedMemory, b: int, of_head: KeyValueWeights, dtype: torch.dtype, pooling: Pooling
) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Yields keys, values and number of tokens per key for each valid page of object b, then for its valid pointers."""
    n, (weight, bias, _, _, cos, sin) = memory.pages.shape[1], of_head
    cos, sin = cos[-n:], sin[-n:]
    factors = None if memory.key_factors is None else memory.key_factors[b]
    for i, (page, time) in enumerate(zip(memory.page_table[b].tolist(), memory.page_time[b].tolist(), strict=True)):
        if page >= 0:
            values = memory.pages[page]
            encoded = values + memory.position_encoding + memory.time_encoding[time]
            encoded = encoded if factors is None else encoded * factors[i]
            keys = linear(encoded.to(weight.dtype), (weight, bias)).float()
            keys, values = _rotate_(keys, cos, sin), values.to(dtype)
            if pooling:
                keys, values = pooled_keys(keys, n, pooling), pool(values, n)
            yield keys, values, 4.0 if pooling == "counted" else 1.0
    valid = memory.pointer_valid[b]
    if valid.any():
        values = memory.pointers[b, valid]
        wider = torch.promote_types(memory.pages.dtype, memory.position_encoding.dtype)
        widest = torch.promote_types(wider, memory.time_encoding.dtype)
        encoded = (values + memory.pointer_encoding[b, valid]).to(widest)
        if factors is not None:
            encoded = encoded * factors[len(memory.page_table[b]) :][valid, None]
        yield linear(encoded.to(weight.dtype), (weight, bias)).float(), values.to(memory.pages.dtype).to(dtype), 1.0


def _rotate_(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates ``x (maps * N, d)`` in place. In ``x``, all even channels precede all odd channels.

    Attention scores do not depend on the order of channels, if queries and keys have the same order. With even channels
    first, the rotation multiplies two contiguous halves of each row.
    """
    maps = x.view(-1, cos.shape[0], x.shape[-1])
    first, second = maps.chunk(2, dim=-1)
    rotated = second * cos
    rotated.addcmul_(first, sin)
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.copy_(rotated)
    return x


# ---- attention of one head, in blocks of scores ----

# Tuple of keys, values, and the number of tokens that each key represents.
Weighted = tuple[Tensor, Tensor, float]
# Side of a block of scores: 1024 x 1024 fp32 scores are 4 MiB, which fit a last-level cache and reach full speed.
BLOCK = 1024
# Lower and upper limit of sums of exponentials in a softmax. Between the limits, fp32 is accurate enough.
SAFE_SUMS = 1e-25, 1e30


def attend(query: Tensor, keys_and_values: Iterable[Weighted], scale: float, width: int) -> Tensor:
    """Computes softmax attention of one head in blocks of scores. Scores and sums of values are fp32.

    Torch's attention would use MKL in fp32, which is slower (see :func:`linear`), and need values as wide as keys.

    Args:
        query: Queries ``(N, d)`` fp32.
        keys_and_values: Tuples of keys ``(M, d)`` fp32, values ``(M, width)``, and number of tokens per key, with at
            least one key in total. Tuples are consumed lazily. Weights are multiplied by values in the dtype of values
            (fp32 for fp16).
        scale: Scale of the scores.
        width: Number of channels of values.

    Returns:
        Tensor ``(N, width)`` fp32.
    """
    blocks = [_Rows(rows * scale, width) for rows in query.split(BLOCK)]
    for keys, values, weight in keys_and_values:
        with torch.autocast("cpu", enabled=False):  # only the iterator needs autocast, to compute keys
            for key, value in zip(keys.split(BLOCK), values.split(BLOCK), strict=True):
                # Values in fp16 become fp32, since exponentials of unshifted scores exceed the range of fp16.
                transposed = (value.float() if value.dtype == torch.float16 else value).t().contiguous()
                for block in blocks:
                    block.add(key, transposed, weight)
    return torch.cat([block.out.div_(block.total) for block in blocks])


class _Rows:
    """Accumulates the softmax attention of a block of queries over blocks of keys.

    While sums of exponentials stay within ``SAFE_SUMS``, scores are not shifted, which saves two passes over the
    scores. Otherwise scores are shifted by the largest score of all previous blocks (online softmax).
    """

    def __init__(self, query: Tensor, width: int) -> None:
        self.query = query
        self.total = query.new_zeros(len(query), 1)
        self.out = query.new_zeros(len(query), width)
        self.highest: Tensor | None = None
        self.is_empty = True

    def add(self, key: Tensor, value: Tensor, count: float) -> None:
        if self.highest is None:
            weights = linear(self.query, (key, None)).exp_()
            total = self.total.add(weights.sum(dim=1, keepdim=True), alpha=count)
            lowest, highest = map(float, total.aminmax())
            if SAFE_SUMS[0] < lowest <= highest < SAFE_SUMS[1]:
                self.total, self.is_empty = total, False
                self.out.add_(linear(weights.to(value.dtype), (value, None)), alpha=count)
                return
            self.highest = self._start_shifting()
        scores = linear(self.query, (key, None))
        before, self.highest = self.highest, torch.maximum(self.highest, scores.amax(dim=1, keepdim=True))
        shrink = (before - self.highest).exp_()
        weights = scores.sub_(self.highest).exp_()
        self.total.mul_(shrink).add_(weights.sum(dim=1, keepdim=True), alpha=count)
        self.out.mul_(shrink).add_(linear(weights.to(value.dtype), (value, None)), alpha=count)

    def _start_shifting(self) -> Tensor:
        """Divides sums by the sums of exponentials. Returns logarithms of the divisors: the first shifts of scores."""
        if self.is_empty:
            return torch.full_like(self.total, float("-inf"))
        highest = self.total.log()
        self.out.div_(self.total)
        self.total.fill_(1)
        return highest
