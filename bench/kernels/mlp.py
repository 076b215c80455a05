"""The norm, both linear layers with GELU, and the residual of a transformer's block."""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench/, where a script's imports are

import torch
from backend_calls import both_ways
from inputs import meta, random, small
from parity_rows import Draw, Plan, integer, name_of, simple_check
from registry import TIMED, Call, Calls, Case, Record, Sample, Work, search
from torch import Tensor

from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels.layer_norm import shifted_layer_norm
from sam2fast.kernels.linear_gelu import linear_gelu
from sam2fast.kernels.mlp import WIDEST, mlp, mlp_reference, shape_class

EPS = 1e-6
# Positions and channels of stages that fit: of tiny and small, base+, and large.
FITTING = ((65536, 96), (16384, 192), (65536, 112), (65536, 144))


def work(rows: int, C: int, N: int, size: int) -> Work:
    """``size`` is bytes of a number, except of vectors of channels, which are fp32."""
    moved = size * (2 * rows * C + 2 * C * N + N + C) + 4 * 3 * C
    return Work(moved, products=4 * rows * C * N)


def arguments(rows: int, C: int, N: int, dtype: torch.dtype, device: torch.device, seed: int = 0) -> tuple[Tensor, ...]:
    """All tensors of a call; shift and norm are fp32, as in a session of any dtype."""

    def drawn(n: int, *shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return random(*shape, device=device, dtype=dtype, seed=seed + n)

    vectors = [drawn(n, C, dtype=torch.float32) for n in (1, 2, 3)]
    first = drawn(4, N, C) * C**-0.5, drawn(5, N)
    return drawn(0, rows, C), *vectors, *first, drawn(6, C, N) * N**-0.5, drawn(7, C)


def three_launches(given: tuple[Tensor, ...]) -> Callable[[], Tensor]:
    """The MLP as the encoder computes it for other widths, which adds shift and second bias later: both are zero."""
    x, shift, norm_weight, norm_bias, weight1, bias1, weight2, _ = given
    total = x.clone()

    def run() -> Tensor:
        normed = shifted_layer_norm(x, shift, norm_weight, norm_bias, EPS, x.dtype)
        return total.addmm_(linear_gelu(normed, weight1, bias1), weight2.t())

    return run


def mlp_case(rows: int, C: int, dtype: torch.dtype) -> Case:
    def prepare(device: torch.device) -> Calls:
        x, shift, *rest, bias2 = arguments(rows, C, 4 * C, dtype, device)
        given = x, shift.zero_(), *rest, bias2.zero_()
        ordinary = {"torch": lambda: mlp_reference(*given, EPS), "three launches": three_launches(given)}
        return ordinary | both_ways(lambda: mlp(*given, EPS), device)

    done, tolerance = work(rows, C, 4 * C, dtype.itemsize), 1e-4 if dtype == torch.float32 else 0.05
    return Case("mlp", f"{rows}x{C}", name_of(dtype), prepare, done, tolerance, launch=shape_class(C))


def draw(most: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, on: torch.device) -> Draw:
    rows, C, N = (integer(low, high, generator) for low, high in zip((1, 2, 1), most, strict=True))
    given = arguments(rows, C, N, dtype, on, integer(0, 2**31, generator))
    exact = mlp_reference(*(x.double() for x in given), EPS)
    return Draw(lambda _: mlp(*given, EPS), f"{rows}x{C} to {N}", exact, mlp_reference(*given, EPS))


def launched() -> Iterator[Call]:
    """The stages, and a width that fills no whole block."""
    for dtype in FLOATS:
        for C in (*(C for _, C in FITTING), 40):
            given = [meta(*x.shape, dtype=x.dtype) for x in arguments(32, C, 4 * C, dtype, torch.device("cpu"))]
            yield Call("mlp", (*given, EPS), name_of(dtype), shape_class(C))


def shown() -> Iterable[tuple[str, str, Work]]:
    for rows, C in FITTING:
        yield f"{rows:,} × {C}, bf16", "bf16", work(rows, C, 4 * C, 2)


LARGEST = (20_000, WIDEST, 1100)
RECORD = Record(
    cases=[mlp_case(rows, C, dtype) for rows, C in FITTING for dtype in TIMED],
    small=[mlp_case(8, C, dtype) for C in (16, 130) for dtype in TIMED],
    searches=[
        search(
            "mlp",
            "BLOCK_M BLOCK_N num_warps num_stages",
            (
                (m, n, warps, stages)
                for m in (64, 128)
                for n in (32, 64, 128)
                for warps in (4, 8)
                for stages in (1, 2, 3)
            ),
            dtype="bfloat16",
            shape=shape,
        )
        for shape in ("narrow", "wide")
    ],  # fmt: skip
    work=shown,
    samples={
        "mlp": Sample(
            mlp,
            lambda: (*map(small, ((2, 4, 24), (24,), (24,), (24,), (40, 24), (40,), (24, 40), (24,))), EPS),
            "mlp",
            has_gradient=True,
        )
    },
    launched=launched,
    parity={
        "mlp": simple_check(
            draw,
            *(Plan(40, LARGEST), Plan(10, LARGEST), Plan(4, (100, 150, 300)), Plan(2, (40, 150, 100))),
            launchers=["mlp_triton.mlp_triton"],
        )
    },
)

if __name__ == "__main__":
    from one_op import main

    main(RECORD)
