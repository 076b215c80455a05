"""The linear layer with GELU."""

import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench/, where a script's imports are

import torch
import torch.nn.functional as F
from backend_calls import both_ways, runs_kernels
from inputs import STAGES, meta, of_stages, random, small
from parity_rows import Draw, Plan, integer, name_of, simple_check, sizes
from registry import TIMED, Call, Calls, Case, Record, Sample, Search, Work, search
from torch import Tensor
from tuning_trials import launched_by

from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels._launch import ANY, Row, architecture
from sam2fast.kernels.linear_gelu import NARROW, linear_gelu, linear_gelu_reference, shape_class


def work(rows: int, inner: int, outer: int, size: int) -> Work:
    """``size`` is bytes of a number."""
    moved = size * (rows * inner + inner * outer + outer + rows * outer)
    return Work(moved, products=2 * rows * inner * outer)


# A candidate for narrow layers: by machine code of sm_90 41 % of the peak for 384 channels, beside 32 % by ``config``.
WIDE_TILES = {"BLOCK_M": 128, "BLOCK_N": 256, "BLOCK_K": 64, "GROUP": 8}, {"num_warps": 8, "num_stages": 3}


def linear_gelu_case(rows: int, K: int, N: int, dtype: torch.dtype) -> Case:
    def prepare(device: torch.device) -> Calls:
        x, weight = random(rows, K, device=device, dtype=dtype), random(N, K, device=device, dtype=dtype, seed=1)
        weight, bias = weight * K**-0.5, random(N, device=device, dtype=dtype, seed=2)

        def by_kernel() -> Tensor:
            return linear_gelu(x, weight, bias)

        ways = {"torch": lambda: F.gelu(F.linear(x, weight, bias))} | both_ways(by_kernel, device)
        if launch == "narrow" and runs_kernels(device):
            row = Row(architecture(device), name_of(dtype), launch, *WIDE_TILES)
            ways["wide tiles"] = launched_by(by_kernel, "linear_gelu", row)
        return ways

    done, tolerance = work(rows, K, N, dtype.itemsize), 1e-4 if dtype == torch.float32 else 0.05
    launch = shape_class(dtype, K)
    return Case("linear_gelu", f"{rows}x{K} to {N}", name_of(dtype), prepare, done, tolerance, launch=launch)


def gelu_search(dtype: str, shape: str, tiles: Iterable[tuple[int, ...]], order: int) -> Search:
    """``tiles``: BLOCK_M, BLOCK_N, BLOCK_K, warps and stages."""
    names = "BLOCK_M BLOCK_N BLOCK_K num_warps num_stages GROUP"
    fitting = ((m, n, k, warps, stages, 8) for m, n, k, warps, stages in tiles if m * n <= 4096 * warps)
    return search("linear_gelu", names, fitting, dtype=dtype, shape=shape, choice="TORCH", choices=(1,), order=order)


def draw(most: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, on: torch.device) -> Draw:
    rows, K, N = sizes(most, generator)
    seed = integer(0, 2**31, generator)
    x, bias = (random(*s, device=on, dtype=dtype, seed=seed + i) for i, s in enumerate([(rows, K), (N,)]))
    given = x, random(N, K, device=on, dtype=dtype, seed=seed + 2) * K**-0.5, bias
    exact = F.gelu(F.linear(*(t.double() for t in given)))
    return Draw(lambda _: linear_gelu(*given), f"{rows}x{K} to {N}", exact, linear_gelu_reference(*given))


def launched() -> Iterator[Call]:
    """Narrow and wide layers, of widths that fill whole blocks, and the one that does not."""
    for dtype in FLOATS:
        for K in (384, 144, 1152):
            given = meta(4096, K, dtype=dtype), meta(4 * K, K, dtype=dtype), meta(4 * K, dtype=dtype)
            yield Call("linear_gelu", given, name_of(dtype), shape_class(dtype, K))


LARGEST = (20_000, 1200, 2000)
RECORD = Record(
    cases=[linear_gelu_case(rows, C, 4 * C, dtype) for rows, C in STAGES for dtype in TIMED],
    small=[linear_gelu_case(8, K, 32, dtype) for K in (16, NARROW + 8) for dtype in TIMED],
    searches=[
        *(
            gelu_search("bfloat16", shape, itertools.product((64, 128), (128, 256), (32, 64), (4, 8), (3, 4)), order=2)
            for shape in ("narrow", ANY)
        ),
        gelu_search("float32", ANY, itertools.product((64, 128), (64, 128), (32,), (4, 8), (2, 3)), order=4),
    ],
    work=lambda: of_stages(lambda n, c: (f" to {4 * c:,}, bf16", work(n, c, 4 * c, 2))),
    samples={
        "linear_gelu": Sample(
            linear_gelu, lambda: tuple(map(small, ((2, 4, 8), (16, 8), (16,)))), "linear_gelu", has_gradient=True
        )
    },
    launched=launched,
    parity={
        "linear_gelu": simple_check(
            draw,
            *(Plan(40, LARGEST), Plan(10, LARGEST), Plan(4, (100, 150, 100)), Plan(2, (20, 150, 100))),
            launchers=["linear_gelu_triton.linear_gelu_triton"],
        )
    },
)

if __name__ == "__main__":
    from one_op import main

    main(RECORD)
