"""The linear layer with GELU, and the linear layer of the CPU, which has no kernel."""

import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from backend_calls import both_ways
from inputs import random, small
from parity_rows import Check, Draw, integer, name_of
from published_models import of_stages
from registry import TIMED, Calls, Case, Record, Sample, Work
from tuning_candidates import Search, search

from sam2fast.kernels._cpu import linear
from sam2fast.kernels._launch import ANY
from sam2fast.kernels.linear_gelu import linear_gelu, linear_gelu_reference
from sam2fast.kernels.linear_gelu.shapes import NARROW, shape_class


def work(rows: int, inner: int, outer: int, size: int) -> Work:
    """``size`` is bytes of a number."""
    moved = size * (rows * inner + inner * outer + outer + rows * outer)
    return Work(moved, products=2 * rows * inner * outer)


def linear_gelu_case(rows: int, K: int, N: int, dtype: torch.dtype) -> Case:
    def prepare(device: torch.device) -> Calls:
        x, weight = random(rows, K, device=device, dtype=dtype), random(N, K, device=device, dtype=dtype, seed=1)
        weight, bias = weight * K**-0.5, random(N, device=device, dtype=dtype, seed=2)
        ordinary = {"torch": lambda: F.gelu(F.linear(x, weight, bias))}
        return ordinary | both_ways(lambda: linear_gelu(x, weight, bias), device)

    done, tolerance = work(rows, K, N, dtype.itemsize), 1e-4 if dtype == torch.float32 else 0.05
    launch = shape_class(dtype, K)
    return Case("linear_gelu", f"{rows}x{K} to {N}", name_of(dtype), prepare, done, tolerance, launch=launch)


def linear_case(rows: int, inner: int, outer: int) -> Case:
    def prepare(device: torch.device) -> Calls:
        shapes = ((rows, inner), (outer, inner), (outer,))
        x, weight, bias = (random(*shape, device=device, seed=i) for i, shape in enumerate(shapes))
        return {"F.linear": lambda: F.linear(x, weight, bias), "sam2fast": lambda: linear(x, weight, bias)}

    done = Work(4 * (rows * inner + inner * outer + rows * outer), 2 * rows * inner * outer)
    return Case("linear", f"{rows}x{inner} to {outer}", "float32", prepare, done, 1e-5)


def gelu_search(dtype: str, shape: str, tiles: Iterable[tuple[int, ...]], order: int) -> Search:
    """``tiles``: BLOCK_M, BLOCK_N, BLOCK_K, warps and stages."""
    names = "BLOCK_M BLOCK_N BLOCK_K num_warps num_stages GROUP"
    fitting = ((m, n, k, warps, stages, 8) for m, n, k, warps, stages in tiles if m * n <= 2048 * warps)
    return search("linear_gelu", names, fitting, dtype, shape, choice="TORCH", choices=(1,), order=order)


class Plan(NamedTuple):
    """So many random inputs, with sizes up to these."""

    draws: int = 40
    rows: int = 20_000
    inner: int = 1200
    outer: int = 2000


def draws(plan: Plan, dtype: torch.dtype, _: None, generator: torch.Generator, on: torch.device) -> Iterator[Draw]:
    for _ in range(plan.draws):
        rows, K, N = (integer(1, most, generator) for most in plan[1:])
        seed = integer(0, 2**31, generator)
        x, bias = (random(*s, device=on, dtype=dtype, seed=seed + i) for i, s in enumerate([(rows, K), (N,)]))
        weight = random(N, K, device=on, dtype=dtype, seed=seed + 2) * K**-0.5
        given = x, weight, bias
        exact = F.gelu(F.linear(*(t.double() for t in given)))
        reference = linear_gelu_reference(*given)
        yield Draw(lambda _, given=given: linear_gelu(*given), f"{rows}x{K} to {N}", exact, reference)


QUICK = Plan(draws=4, rows=100, inner=150, outer=100)
RECORD = Record(
    # The first and the third stage of tiny and large.
    cases=[
        *(
            linear_gelu_case(side * side, C, 4 * C, dtype)
            for side, C in ((256, 96), (64, 384), (256, 144), (64, 576))
            for dtype in TIMED
        ),
        *(linear_case(*sizes) for sizes in ((2048, 96, 384), (4096, 384, 1536), (4096, 576, 2304))),
    ],
    small=[linear_gelu_case(8, K, 32, dtype) for K in (16, NARROW + 8) for dtype in TIMED],
    searches=[
        *(
            gelu_search("bfloat16", shape, itertools.product((64, 128), (128, 256), (32, 64), (4, 8), (3, 4)), order=2)
            for shape in ("narrow", ANY)
        ),
        gelu_search("float32", ANY, itertools.product((64, 128), (64, 128), (32,), (4, 8), (2, 3)), order=4),
    ],
    work=lambda: of_stages(lambda n, c, x: (f" to {4 * c:,}, bf16", work(n, c, 4 * c, 2))),
    samples={
        "linear_gelu": Sample(
            linear_gelu, lambda: tuple(map(small, ((2, 4, 8), (16, 8), (16,)))), "linear_gelu", has_gradient=True
        )
    },
    parity={
        "linear_gelu": Check(
            lambda *given: [draws(*given)],
            full=Plan(),
            short=Plan(draws=10),
            quick=QUICK,
            tiny=QUICK._replace(draws=2, rows=20),
            ops=("linear_gelu",),
            launchers=[("linear_gelu.kernel.linear_gelu_triton", 0)],
        )
    },
    pages={"linear-gelu": ("linear_gelu",)},
)
