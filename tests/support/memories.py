"""Memory banks for tests, and a plain implementation of memory attention."""

import math

import torch
from parity import random_map

from sam2fast.kernels.memory_attention import AttendedMemory
from sam2fast.modeling.position_encoding import axial_rope


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


def memory_of_tokens(*filled: int, side: int = 4, m: int = 8, pointers: int = 6, dtype=torch.float32) -> AttendedMemory:
    """The same with pages of three tokens, and of a grid of ``side + 1`` squared after them, whatever the queries."""
    memory, n = memory_of(*filled, side=side + 3, m=m, pointers=pointers, dtype=dtype), 3 + (side + 1) ** 2
    return memory._replace(pages=memory.pages[:, :n].contiguous(), position_encoding=memory.position_encoding[:n])


def moved(memory: AttendedMemory, device, dtype) -> AttendedMemory:
    return AttendedMemory(*(x.to(device, dtype if x.is_floating_point() else x.dtype) for x in memory[:8]))


def on_cpu(*values):
    return [AttendedMemory(*(x.cpu() for x in v[:8])) if isinstance(v, AttendedMemory) else v.cpu() for v in values]


def rope_of_tokens(side: int, d: int, device="cpu") -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines for it: of the queries, of three tokens without a position, and of the grid."""
    frequency = 10000.0 ** (-torch.arange(d // 4, dtype=torch.float64) * 4 / d)
    places = [(y, x) for y in range(side) for x in range(side)]
    places += [(0, 0)] * 3 + [(y, x) for y in range(side + 1) for x in range(side + 1)]
    angles = torch.stack([torch.cat([x * frequency, y * frequency]) for y, x in places])
    return angles.cos().float().to(device), angles.sin().float().to(device)


def attention_arguments(
    *filled: int, side: int = 4, d: int = 32, m: int = 32, heads: int = 1, pointers: int = 6, rows: int = 1,
    has_tokens: bool = False, device="cpu", dtype=torch.float32,
):  # fmt: skip
    """Arguments of memory attention: queries of ``rows`` objects, memories, scaled weights, and rotations.

    ``filled`` has the number of pages of each object. Heads have ``d`` channels, memories ``m``.
    """
    bank = memory_of_tokens if has_tokens else memory_of
    memory = moved(bank(*filled, side=side, m=m, pointers=pointers, dtype=dtype), device, dtype)
    weights = [w.to(device) / w.shape[-1] ** 0.5 for w in weights_of(d, m, heads, dtype)]
    tables = rope_of_tokens(side, d, device) if has_tokens else axial_rope(d, side, side, 10000.0, torch.device(device))
    return random_map(rows, heads, side**2, d).to(device, dtype), memory, *weights, *tables


def written_out(
    query,
    memory: AttendedMemory,
    weight,
    bias,
    value_weight,
    value_bias,
    cos,
    sin,
    rounded=lambda rows: rows,
    pooling=None,
):
    """Memory attention object by object, key by key and token by token, in float64.

    A mean that counts as four tokens is there four times. Scores are of ``rounded`` queries and keys, in rows.
    """
    heads, N, d = query.shape[1:]
    turns = torch.complex(cos.double(), sin.double())
    of_keys = len(cos) - memory.pages.shape[1]  # the first row of theirs; the queries' positions, if keys have others

    def rotate(x, first=0):  # (rows, d) at positions from the first on
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turns[first : first + len(x)]).flatten(-2)

    width = value_weight.shape[0] // heads
    out = torch.zeros(len(memory.page_table), heads, N, width, dtype=torch.float64)
    out += value_bias.double().view(heads, 1, width)  # of an object without memory
    K, L = memory.page_table.shape[1], memory.pointers.shape[1]
    factors = torch.ones(len(out), K + L) if memory.key_factors is None else memory.key_factors
    for b, (table, time) in enumerate(zip(memory.page_table.tolist(), memory.page_time.tolist(), strict=True)):
        pooled = pooling if sum(page >= 0 for page in table) > 1 else None
        of_pages, of_pointers = factors[b].double().split([K, L])
        for head in range(heads):
            rows = slice(head * d, (head + 1) * d)
            keys, values = [], []
            for page, t, factor in zip(table, time, of_pages, strict=True):
                if page >= 0:
                    tokens = memory.pages[page].double()
                    encoded = tokens + memory.position_encoding + memory.time_encoding[t]
                    key = rotate(factor * encoded @ weight[rows].double().T + bias[rows], of_keys)
                    if pooled:
                        key, tokens = means_of_squares(key), means_of_squares(tokens)
                    for _ in range(4 if pooled == "counted" else 1):
                        keys.append(key + math.log(4) * (pooled == "raised"))
                        values.append(tokens)
            chosen = memory.pointer_valid[b]
            pointers = memory.pointers[b, chosen].double()
            encoded = of_pointers[chosen, None] * (pointers + memory.pointer_encoding[b, chosen])
            keys.append(encoded @ weight[rows].double().T + bias[rows])
            values.append(pointers)
            key, value = torch.cat(keys), torch.cat(values)
            if len(key):
                asked = rotate(query[b % len(query), head].double())
                scores = rounded(asked) @ rounded(key).T / d**0.5
                columns = slice(head * width, (head + 1) * width)
                out[b, head] = scores.softmax(-1) @ (value @ value_weight[columns].double().T + value_bias[columns])
    return out.transpose(1, 2).flatten(2)


def means_of_squares(rows):
    """Means of 2x2 of the rows of a square map."""
    side = math.isqrt(len(rows))
    places = [(y, x) for y in range(0, side, 2) for x in range(0, side, 2)]
    return torch.stack([rows.view(side, side, -1)[y : y + 2, x : x + 2].mean(dim=(0, 1)) for y, x in places])


def weights_of(d: int, m: int, heads: int = 1, dtype=torch.float32):
    """Weight and bias of the projections to keys and to values."""
    shapes = (heads * d, m), (heads * d,), (heads * 24, m), (heads * 24,)
    return [random_map(*shape, seed=6 + i).to(dtype) for i, shape in enumerate(shapes)]
