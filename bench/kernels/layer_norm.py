"""The residual sum with its layer norm."""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench/, where a script's imports are

import torch
import torch.nn.functional as F
from backend_calls import both_ways
from inputs import STAGES, meta, of_stages, random, small
from parity_rows import Draw, Plan, integer, name_of, simple_check
from registry import TIMED, Call, Calls, Case, Record, Sample, Work, search
from torch import Tensor

from sam2fast.kernels.layer_norm import (
    add_layer_norm,
    add_layer_norm_reference,
    layer_norm,
    shifted_layer_norm,
)

EPS = 1e-6


def work(rows: int, channels: int, x: int, delta: int) -> Work:
    """Sum and norm of a stream of ``x`` bytes a number, to which ``delta`` bytes a number are added.

    The sum has the stream's dtype, the norm that of what is added. Eight FLOPs a number: the sum, that for the mean,
    centring, the square and its sum, two factors and the bias.
    """
    return Work(rows * channels * (2 * x + 2 * delta), vector=8 * rows * channels)


def layer_norm_case(rows: int, C: int, dtype: torch.dtype) -> Case:
    """A stream in fp32, as that of memory attention, with what is added in ``dtype``."""

    def prepare(device: torch.device) -> Calls:
        x, delta = random(rows, C, device=device), random(rows, C, device=device, dtype=dtype, seed=1)
        weight, bias = random(C, device=device, seed=2), random(C, device=device, seed=3)

        def separately() -> list[Tensor]:
            total = x + delta
            return [total, F.layer_norm(total.float(), (C,), weight, bias, EPS).to(dtype)]

        return {"torch": separately} | both_ways(lambda: add_layer_norm(x, delta, weight, bias, EPS, dtype), device)

    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    return Case("layer_norm", f"{rows}x{C}", name_of(dtype), prepare, work(rows, C, 4, dtype.itemsize), tolerance)


def draw(most: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, on: torch.device) -> Draw:
    rows, C = integer(1, most[0], generator), integer(2, most[1], generator)
    stream = (dtype, torch.float32)[integer(0, 1, generator)]
    seed = integer(0, 2**31, generator)
    x = random(rows, C, device=on, dtype=stream, seed=seed)
    delta = random(rows, C, device=on, dtype=dtype, seed=seed + 1)
    weight, bias = (random(C, device=on, seed=seed + i) for i in (2, 3))
    given = x, delta, weight, bias, EPS, dtype
    exact = F.layer_norm((x + delta).double(), (C,), weight.double(), bias.double(), EPS)
    return Draw(lambda _: add_layer_norm(*given)[1], f"{rows}x{C}", exact, add_layer_norm_reference(*given)[1])


def launched() -> Iterator[Call]:
    """Yields the widths of the models in fp32 and bf16, with a shift, and with GELU."""
    fp32, bf16 = torch.float32, torch.bfloat16

    def call(op: str, C: int, x: torch.dtype, added: torch.dtype | None, *rest: Any) -> Call:
        deltas = () if added is None else (meta(*((C,) if op == "shifted_layer_norm" else (4096, C)), dtype=added),)
        return Call(op, (meta(4096, C, dtype=x), *deltas, meta(C), meta(C), EPS, *rest), name_of(rest[0]))

    for C in (96, 112, 144, 256, 384, 576, 1152):
        for x, added, out in ((bf16, bf16, bf16), (fp32, bf16, bf16), (fp32, fp32, fp32)):
            yield call("add_layer_norm", C, x, added, out)
        yield call("shifted_layer_norm", C, bf16, fp32, bf16)
        shifted = meta(4096, C, dtype=bf16), meta(C), meta(C), meta(C), EPS, bf16
        yield Call("add_layer_norm", shifted, "bfloat16")
    for C, x, gelu in ((4, bf16, True), (256, bf16, True), (96, fp32, False)):
        yield call("layer_norm", C, x, None, bf16, gelu)
    yield Call("shifted_layer_norm", (*(meta(4096, 256, dtype=bf16),) * 2, meta(256), meta(256), EPS, bf16), "bfloat16")


RECORD = Record(
    cases=[layer_norm_case(rows, C, dtype) for rows, C in STAGES for dtype in TIMED],
    small=[layer_norm_case(8, 32, dtype) for dtype in TIMED],
    searches=[
        search(
            "layer_norm",
            "ELEMENTS num_warps num_stages",
            (
                each
                for each in itertools.product((1024, 2048, 4096), (2, 4, 8), (1,))
                if 128 <= each[0] // each[1] <= 512
            ),
        )
    ],
    work=lambda: of_stages(lambda n, c: (", bf16", work(n, c, 2, 2))),
    samples={
        "add_layer_norm": Sample(
            add_layer_norm,
            lambda: (*map(small, ((3, 8), (3, 8), (8,), (8,))), EPS),
            "layer_norm",
            "add_layer_norm",
            2,
            True,
        ),
        "shifted_layer_norm": Sample(
            shifted_layer_norm,
            lambda: (*map(small, ((3, 8), (8,), (8,), (8,))), EPS),
            "layer_norm",
            "shifted_layer_norm",
            has_gradient=True,
        ),
        "layer_norm": Sample(
            lambda *given: layer_norm(*given, None, True),
            lambda: (*map(small, ((3, 8), (8,), (8,))), EPS),
            "layer_norm",
            has_gradient=True,
        ),
    },
    launched=launched,
    parity={
        "layer_norm": simple_check(
            draw,
            *(Plan(40, (20_000, 1200)), Plan(10, (20_000, 1200)), Plan(4, (100, 150)), Plan(2, (20, 150))),
            launchers=["layer_norm_triton.add_layer_norm_triton:1"],
        )
    },
)

if __name__ == "__main__":
    from one_op import main

    main(RECORD)
