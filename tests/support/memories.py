"""Memory banks for tests, and memory attention written out."""

import torch
from parity import random_map

from sam2fast.kernels.memory_attention import AttendedMemory


def memory_of(*filled: int, side: int = 4, m: int = 8, pointers: int = 6, dtype=torch.float32) -> AttendedMemory:
    """Objects with so many pages each, in a pool whose other rows and unused pointers hold NaN."""
    N, B, K = side * side, len(filled), max(filled) + 2
    pages = torch.full((sum(filled) + 3, N, m), float("nan"), dtype=dtype)
    table = torch.full((B, K), -1, dtype=torch.int32)
    rows = torch.randperm(len(pages), generator=torch.Generator().manual_seed(0))[: sum(filled)].tolist()
    for b, count in enumerate(filled):
        for k in torch.randperm(K, generator=torch.Generator().manual_seed(b))[:count].tolist():
            row = rows.pop()
            pages[row], table[b, k] = random_map(N, m, seed=row), row
    valid = torch.rand(B, pointers, generator=torch.Generator().manual_seed(1)) > 0.4
    valid &= torch.tensor(filled)[:, None] > 0
    return AttendedMemory(
        pages=pages,
        page_table=table,
        page_time=torch.arange(B * K, dtype=torch.int32).view(B, K) % 7,
        position_encoding=random_map(N, m, seed=2),
        time_encoding=random_map(7, m, seed=3),
        pointers=torch.where(valid[..., None], random_map(B, pointers, m, seed=4), float("nan")),
        pointer_encoding=random_map(B, pointers, m, seed=5),
        pointer_valid=valid,
    )


def written_out(query, memory: AttendedMemory, weight, bias, value_weight, value_bias, cos, sin):
    """Memory attention object by object and key by key, values projected token by token, in float64."""
    heads, N, d = query.shape[1:]
    cos, sin = cos.double(), sin.double()

    def rotate(x):  # (N, d)
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(-2)

    width = value_weight.shape[0] // heads
    out = torch.zeros(len(memory.page_table), heads, N, width, dtype=torch.float64)
    out += value_bias.double().view(heads, 1, width)  # of an object without memory
    for b, (table, time) in enumerate(zip(memory.page_table.tolist(), memory.page_time.tolist(), strict=True)):
        for head in range(heads):
            rows = slice(head * d, (head + 1) * d)
            keys, values = [], []
            for page, t in zip(table, time, strict=True):
                if page >= 0:
                    tokens = memory.pages[page].double()
                    encoded = tokens + memory.position_encoding + memory.time_encoding[t]
                    keys.append(rotate(encoded @ weight[rows].double().T + bias[rows]))
                    values.append(tokens)
            chosen = memory.pointer_valid[b]
            pointers = memory.pointers[b, chosen].double()
            keys.append((pointers + memory.pointer_encoding[b, chosen]) @ weight[rows].double().T + bias[rows])
            values.append(pointers)
            key, value = torch.cat(keys), torch.cat(values)
            if len(key):
                scores = rotate(query[b % len(query), head].double()) @ key.T / d**0.5
                columns = slice(head * width, (head + 1) * width)
                out[b, head] = scores.softmax(-1) @ (value @ value_weight[columns].double().T + value_bias[columns])
    return out.transpose(1, 2).flatten(2)


def weights_of(d: int, m: int, heads: int = 1, dtype=torch.float32):
    """Weight and bias of the projections to keys and to values."""
    shapes = (heads * d, m), (heads * d,), (heads * 24, m), (heads * 24,)
    return [random_map(*shape, seed=6 + i).to(dtype) for i, shape in enumerate(shapes)]
