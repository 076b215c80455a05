"""Attention between tokens and an image."""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench/, where a script's imports are

import torch
import torch.nn.functional as F
from backend_calls import both_ways, forced
from inputs import N as POSITIONS
from inputs import meta, random, small
from parity_rows import Draw, Plan, integer, name_of, simple_check
from registry import TIMED, Call, Calls, Case, Record, Sample, Work, search
from torch import Tensor

from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels._launch import ANY
from sam2fast.kernels.token_attention import (
    FEW,
    WIDEST,
    WIDEST_OF_MANY,
    shape_class,
    token_attention,
    token_attention_reference,
)

HEADS, TOKENS = 8, 8  # tokens of an object without points: six of results, and two padding points
OBJECTS = (1, 16)


class Use(NamedTuple):
    """Stores one use by the mask decoder. 0 queries or keys stand for the tokens."""

    queries: int
    keys: int
    width: int  # channels of a head
    shared: bool = False  # the image is the same for all objects
    placed: bool = False  # positions of the image are added to its keys or queries


USES = {
    "tokens to one image": Use(0, POSITIONS, 16, True, True),
    "tokens to images": Use(0, POSITIONS, 16, False, True),
    "one image to tokens": Use(POSITIONS, 0, 16, True, True),
    "images to tokens": Use(POSITIONS, 0, 16, False, True),
    "tokens to each other": Use(0, 0, 32),
}


def work(objects: int, use: Use, size: int) -> Work:
    """``size`` is bytes of a number."""
    queries, keys, C = use.queries or TOKENS, use.keys or TOKENS, HEADS * use.width
    own_queries, own_keys = (1 if use.shared and n else objects for n in (use.queries, use.keys))
    placed = max(queries, keys) if use.placed else 0
    moved = size * C * (own_queries * queries + own_keys * 2 * keys + objects * queries + placed)
    pairs = objects * queries * keys
    return Work(moved, products=4 * pairs * C, exponentials=pairs * HEADS)


def arguments(
    objects: int, use: Use, dtype: torch.dtype, device: torch.device, tokens: int = TOKENS, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, int]:
    """Returns parts of joined projections, as the decoder has them: rows are further apart than they are wide."""
    C = HEADS * use.width

    def drawn(n: int, rows: int) -> Tensor:
        items = 1 if use.shared and rows else objects
        return random(items, rows or tokens, 2 * C, device=device, dtype=dtype, seed=seed + n).split(C, dim=-1)[n % 2]

    positions = [random(n, C, device=device, dtype=dtype, seed=seed + 3) if use.placed and n else None
                 for n in (use.queries, use.keys)]  # fmt: skip
    return drawn(0, use.queries), drawn(1, use.keys), drawn(2, use.keys), *positions, HEADS


def attention_by(attend: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
    """Computes the reference implementation by another attention."""
    of_query, of_key, heads = rest
    q, k = q if of_query is None else q + of_query, k if of_key is None else k + of_key
    B, N = max(len(q), len(k)), q.shape[1]
    if len(k) == 1:
        q = q.flatten(0, 1)[None]
    q, k, v = (x.expand(len(k), -1, -1).unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    return attend(q, k, v).transpose(1, 2).reshape(B, N, -1)


def token_attention_case(name: str, objects: int, dtype: torch.dtype) -> Case:
    use = USES[name]

    def prepare(device: torch.device) -> Calls:
        given = arguments(objects, use, dtype, device)

        def by(attend: Callable[..., Tensor]) -> Callable[[], Tensor]:
            return lambda: attention_by(attend, *given)

        others = forced(by, device) if dtype != torch.float32 else {}
        return (
            {"SDPA": by(F.scaled_dot_product_attention)} | both_ways(lambda: token_attention(*given), device) | others
        )

    done, tolerance = work(objects, use, dtype.itemsize), 1e-4 if dtype == torch.float32 else 0.05
    keys = use.keys or TOKENS
    return Case(
        "token_attention", f"{objects}: {name}", name_of(dtype), prepare, done, tolerance, launch=shape_class(keys)
    )


def draw(most: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, on: torch.device) -> Draw:
    """Returns random numbers of items, queries, keys, heads and channels, with or without a shared image.

    Half of the draws have few keys, half have rows with gaps between them. Positions of queries and of keys are
    added in half of the draws each.
    """
    items, N, M, heads = (integer(1, each, generator) for each in most)
    seed, shared, is_few, has_gap, placed = (integer(0, each, generator) for each in (2**31, 3, 1, 1, 3))
    M = integer(1, FEW, generator) if is_few else FEW + M
    d, gap = integer(1, WIDEST if is_few else WIDEST_OF_MANY, generator), 8 * has_gap
    counts = (1 if shared == 1 else items), (1 if shared == 2 else items)

    def drawn(n: int, count: int, rows: int) -> Tensor:
        return random(count, rows, heads * d + gap, device=on, dtype=dtype, seed=seed + n)[..., : heads * d]

    positions = [drawn(3, 1, rows)[0] if placed in kinds else None for rows, kinds in ((N, (1, 3)), (M, (2, 3)))]
    given = drawn(0, counts[0], N), drawn(1, counts[1], M), drawn(2, counts[1], M), *positions, heads
    exact = token_attention_reference(*(x.double() if isinstance(x, Tensor) else x for x in given))
    shape = f"{counts[0]}x{N} to {counts[1]}x{M}, {heads}x{d}"
    return Draw(lambda _: token_attention(*given), shape, exact, token_attention_reference(*given))


def launched() -> Iterator[Call]:
    """Yields each use with parts of joined projections.

    Besides, the widest heads with the most keys of one block, and blocks of keys that are not full.
    """

    def call(use: Use, dtype: torch.dtype) -> Call:
        C = HEADS * use.width
        given = [
            meta(2 - bool(use.shared and rows), rows or TOKENS, 2 * C, dtype=dtype)[..., :C]
            for rows in (use.queries, use.keys, use.keys)
        ]
        positions = [meta(n, C, dtype=dtype) if use.placed and n else None for n in (use.queries, use.keys)]
        return Call("token_attention", (*given, *positions, HEADS), name_of(dtype), shape_class(use.keys or TOKENS))

    for dtype in FLOATS:
        for use in (*USES.values(), Use(POSITIONS, FEW, WIDEST), Use(0, POSITIONS - 1, WIDEST_OF_MANY, False, True)):
            yield call(use, dtype)


def shown() -> Iterable[tuple[str, str, Work]]:
    for objects in OBJECTS:
        for name, use in USES.items():
            yield f"{objects} × {TOKENS} tokens: {name}", "bf16", work(objects, use, 2)


RECORD = Record(
    cases=[token_attention_case(name, objects, dtype) for name in USES for objects in OBJECTS for dtype in TIMED],
    small=[token_attention_case(name, 1, dtype) for name in ("tokens to one image", "tokens to each other")
           for dtype in TIMED],
    searches=[
        search("token_attention", "BLOCK_M BLOCK_N num_warps num_stages",
               ((m, n, warps, stages) for m in (16, 32) for n in (16, 32, 64) for warps in (8, 16)
                for stages in (2, 3)), shape="many"),
        search("token_attention", "BLOCK_M num_warps num_stages",
               ((m, warps, 1) for m in (16, 32) for warps in (1, 2, 4, 8)), shape=ANY),
    ],
    work=shown,
    samples={
        name: Sample(
            token_attention,
            lambda shapes=shapes: (*(small(shape, n) for n, shape in enumerate(shapes)), 2),
            "token_attention",
            batched=3,
            has_gradient=True,
        )
        for name, shapes in (
            ("token_attention", ((2, 9, 48), (2, 5, 48), (2, 5, 48), (9, 48), (5, 48))),
            ("token_attention many keys", ((2, 5, 32), (2, 300, 32), (2, 300, 32), (5, 32), (300, 32))),
        )
    },
    launched=launched,
    parity={
        "token_attention": simple_check(
            draw,
            *(Plan(60, (8, 600, 5000, 8)), Plan(12, (8, 600, 5000, 8))),
            *(Plan(8, (3, 40, 700, 2)), Plan(4, (2, 20, 600, 2))),
            launchers=["token_attention_triton.token_attention_triton"],
        )
    },
)  # fmt: skip

if __name__ == "__main__":
    from one_op import main

    main(RECORD)
