"""The torch twins as a CPU computes them fastest: only what is valid, in blocks that stay in its cache."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sam2fast.kernels._cpu import attend, linear
from sam2fast.kernels.memory_attention.reference import project_values

if TYPE_CHECKING:
    from sam2fast.kernels.memory_attention import AttendedMemory


def rope_attention_cpu(
    query: Tensor, key: Tensor, value: Tensor, cos: Tensor, sin: Tensor, num_unrotated_keys: int = 0
) -> Tensor:
    B, heads, N, d = query.shape
    M = key.shape[2]
    order = _halves(d)
    out = value.new_empty(B, heads, N, value.shape[-1])
    with torch.autocast("cpu", enabled=False):
        for b in range(B):
            for head in range(heads):
                keys = key[b, head][:, order].float()
                _rotate_(keys[: M - num_unrotated_keys], cos, sin)
                queries = _rotate_(query[b, head][:, order].float(), cos, sin)
                out[b, head] = attend(queries, keys, value[b, head], d**-0.5)
    return out


def memory_attention_cpu(
    query: Tensor,
    memory: "AttendedMemory",
    key_weight: Tensor,
    key_bias: Tensor | None,
    value_weight: Tensor,
    value_bias: Tensor | None,
    cos: Tensor,
    sin: Tensor,
) -> Tensor:
    B = len(memory.page_table)
    heads, N, d = query.shape[1:]
    order = _halves(d)
    weights = key_weight.unflatten(0, (heads, d))[:, order]
    biases = None if key_bias is None else key_bias.unflatten(0, (heads, d))[:, order]
    rotated = {}  # queries by (row, head): one row may serve all objects
    out = query.new_empty(B, heads, N, memory.pages.shape[-1])
    for b in range(B):
        encoded, values, positions = _valid_tokens(memory, b)
        if not len(values):
            out[b] = 0
            continue
        values = values.to(query.dtype)
        row = b % len(query)
        for head in range(heads):
            bias = None if biases is None else biases[head]
            keys = linear(encoded.to(key_weight.dtype), weights[head], bias).float()
            with torch.autocast("cpu", enabled=False):
                _rotate_(keys[:positions], cos, sin)
                if (row, head) not in rotated:
                    rotated[row, head] = _rotate_(query[row, head][:, order].float(), cos, sin)
                out[b, head] = attend(rotated[row, head], keys, values, d**-0.5)
    return project_values(out, value_weight, value_bias)


def _valid_tokens(memory: "AttendedMemory", b: int) -> tuple[Tensor, Tensor, int]:
    """Encoded tokens and plain ones ``(M, m)`` of object b, and how many of them have a position on the map."""
    table, time = memory.page_table[b], memory.page_time[b]
    slots = table >= 0
    maps = memory.pages[table[slots].long()]  # (k, N, m)
    encoded = maps + memory.position_encoding + memory.time_encoding[time[slots].long()][:, None]
    valid = memory.pointer_valid[b]
    pointers = memory.pointers[b, valid]
    encoded_pointers = pointers + memory.pointer_encoding[b, valid]
    dtype = encoded.dtype
    return (
        torch.cat([encoded.flatten(0, 1), encoded_pointers.to(dtype)]),
        torch.cat([maps.flatten(0, 1), pointers.to(maps.dtype)]),
        maps.shape[0] * maps.shape[1],
    )


def _halves(d: int) -> Tensor:
    """Even channels, then odd ones.

    A dot product does not mind in which order it meets the channels, if both sides have the same; with the two of a
    pair d / 2 apart instead of neighbours, rotating works on contiguous memory.
    """
    return torch.cat([torch.arange(0, d, 2), torch.arange(1, d, 2)])


def _rotate_(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates ``x (maps * N, d)``, its channels ordered by :func:`_halves`, in place."""
    maps = x.view(-1, cos.shape[0], x.shape[-1])
    first, second = maps.chunk(2, dim=-1)
    turned = second * cos
    turned.addcmul_(first, sin)
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.copy_(turned)
    return x
