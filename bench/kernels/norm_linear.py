"""The residual sum, its layer norm, and linear layers of it."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench/, where a script's imports are

import torch
from backend_calls import both_ways
from inputs import N, meta, random, small
from parity_rows import Draw, Plan, integer, name_of, simple_check
from registry import TIMED, Call, Calls, Case, Record, Sample, Work, search
from torch import Tensor

from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels._launch import ANY
from sam2fast.kernels.norm_linear import norm_linear, norm_linear_reference, shape_class

EPS = 1e-5
CHANNELS = 256
TOKENS = 8  # of an object without points: six of results, and two padding points
OBJECTS = (1, 32)  # of a video, and a full group of prompts


class Use(NamedTuple):
    """By the mask decoder."""

    inner: int  # channels of what is projected before it is added; 0 if it is not
    columns: int
    placed: int
    relu: bool = False
    rows: int = TOKENS  # of an object
    rounded: bool = False  # the stream and its norm have the dtype of the weights


USES = {
    "attention to the image, and the MLP's hidden layer": Use(128, 2048, 0, True),
    "the MLP, and all that reads its tokens": Use(0, 1024, 640),
    "self-attention, and queries": Use(256, 128, 128),
    "the last attention": Use(128, 0, 0),
    "the image's attention to tokens": Use(128, 0, 0, False, N, True),
}


def work(rows: int, use: Use, size: int, C: int = CHANNELS) -> Work:
    """Returns the work. A number has ``size`` bytes, and of a stream that is not rounded four."""
    inner, columns, placed, *_ = use
    weights = size * (C * inner + columns * C)
    stream = size if use.rounded else 4
    moved = rows * (size * (inner or C) + stream * C * (2 + bool(placed)) + size * columns)
    return Work(weights + moved, products=2 * rows * C * (inner + columns), vector=8 * rows * C)


def arguments(
    rows: int, use: Use, dtype: torch.dtype, device: torch.device, C: int = CHANNELS, seed: int = 0
) -> tuple[Any, ...]:
    """Returns arguments with weights in ``dtype``, and a stream in fp32 or ``dtype``."""

    def drawn(n: int, *shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return random(*shape, device=device, dtype=dtype, seed=seed + n)

    K = use.inner
    inner = (drawn(3, C, K) * K**-0.5, drawn(4, C)) if K else (None, None)
    norm = drawn(5, C, dtype=torch.float32), drawn(6, C, dtype=torch.float32)
    position = drawn(2, rows, C) if use.placed else None
    layers = drawn(7, use.columns, C) * C**-0.5, drawn(8, use.columns)
    of_stream = dtype if use.rounded else torch.float32
    stream = drawn(1, rows, C, dtype=of_stream)
    return drawn(0, rows, K or C), stream, position, *inner, *norm, *layers, EPS, use.placed, use.relu, of_stream


def norm_linear_case(name: str, objects: int, dtype: torch.dtype) -> Case:
    use, rows = USES[name], USES[name].rows * objects

    def prepare(device: torch.device) -> Calls:
        given = arguments(rows, use, dtype, device)
        ordinary = {"torch": lambda: norm_linear_reference(*given)}
        return ordinary | both_ways(lambda: norm_linear(*given), device)

    done, tolerance = work(rows, use, dtype.itemsize), 1e-4 if dtype == torch.float32 else 0.05
    shape = f"{rows}: {name}"
    return Case("norm_linear", shape, name_of(dtype), prepare, done, tolerance, launch=shape_class(rows))


def draw(most: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, on: torch.device) -> Draw:
    rows, K, C, N = (integer(low, high, generator) for low, high in zip((1, 0, 2, 1), most, strict=True))
    use = Use(K, N, integer(0, N, generator), bool(integer(0, 1, generator)), rounded=bool(integer(0, 1, generator)))
    given = arguments(rows, use, dtype, on, C, integer(0, 2**31, generator))
    exact = norm_linear_reference(*(x.double() if isinstance(x, Tensor) else x for x in given))[1]
    shape = f"{rows}x{K} to {C} to {N}, {use.placed} with positions"
    return Draw(lambda _: norm_linear(*given)[1], shape, exact, norm_linear_reference(*given)[1])


def launched() -> Iterator[Call]:
    """Each use, by few rows and many."""

    def tensor(x: Any) -> Any:
        return meta(*x.shape, dtype=x.dtype) if isinstance(x, Tensor) else x

    for dtype in FLOATS:
        for objects in OBJECTS:
            for use in USES.values():
                rows = use.rows * objects
                given = map(tensor, arguments(rows, use, dtype, torch.device("cpu")))
                yield Call("norm_linear", tuple(given), name_of(dtype), shape_class(rows))


def shown() -> Iterable[tuple[str, str, Work]]:
    for objects in OBJECTS:
        for name, use in USES.items():
            yield f"{objects} × {use.rows} tokens: {name}", "bf16", work(objects * use.rows, use, 2)


def tiles(rows: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    yield from ((m, n, k, warps, 2) for m in rows for n in (16, 32, 64) for k in (32, 64) for warps in (4, 8))


NAMES = "BLOCK_M BLOCK_N BLOCK_K num_warps num_stages"
RECORD = Record(
    cases=[norm_linear_case(name, objects, dtype) for name in USES for objects in OBJECTS for dtype in TIMED],
    small=[norm_linear_case("self-attention, and queries", objects, dtype) for objects in (1, 9) for dtype in TIMED],
    searches=[
        search("norm_linear", NAMES, tiles((16,)), shape="few"),
        search("norm_linear", NAMES, tiles((16, 32)), shape=ANY),
    ],
    work=shown,
    samples={
        "norm_linear": Sample(
            norm_linear,
            lambda: (
                *map(small, ((2, 3, 4), (2, 3, 8), (2, 3, 8), (8, 4), (8,), (8,), (8,), (20, 8), (20,))),
                EPS,
                5,
                True,
            ),
            "norm_linear",
            batched=3,
            has_gradient=True,
        )
    },
    launched=launched,
    parity={
        "norm_linear": simple_check(
            draw,
            *(Plan(40, (600, 300, 512, 2100)), Plan(10, (600, 300, 512, 2100))),
            *(Plan(4, (40, 50, 70, 100)), Plan(2, (20, 50, 70, 100))),
            launchers=["norm_linear_triton.norm_linear_triton:1"],
        )
    },
)

if __name__ == "__main__":
    from one_op import main

    main(RECORD)
