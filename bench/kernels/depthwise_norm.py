"""The depthwise convolution of the memory encoder with its layer norm."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench/, where a script's imports are

import torch
from backend_calls import both_ways
from inputs import meta, random, small
from parity_rows import Draw, Plan, integer, name_of, simple_check, sizes
from registry import TIMED, Call, Calls, Case, Record, Sample, Work, search
from torch import Tensor

from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels.depthwise_norm import depthwise_norm, depthwise_norm_reference

EPS, SIDE, CHANNELS, KERNEL = 1e-6, 64, 256, 7
OBJECTS = (1, 16)


def work(maps: int, side: int, channels: int, size: int) -> Work:
    """``size`` is bytes of a number. A tap is a multiplication and a sum; the norm takes eight FLOPs a number."""
    numbers = maps * side**2 * channels
    return Work(size * (2 * numbers + channels * (KERNEL**2 + 3)), vector=(2 * KERNEL**2 + 8) * numbers)


def arguments(
    shape: tuple[int, int, int, int], kernel: int, dtype: torch.dtype, on: torch.device, seed: int = 0
) -> list[Tensor]:
    """Tensors of a call, with a shift."""
    C = shape[-1]
    x, weight = (random(*s, device=on, dtype=dtype, seed=seed + i) for i, s in enumerate([shape, (kernel, kernel, C)]))
    shift, bias, norm_weight, norm_bias = (random(C, device=on, dtype=dtype, seed=seed + i) for i in range(2, 6))
    return [x, shift, weight / kernel, bias, norm_weight, norm_bias]


def depthwise_norm_case(maps: int, side: int, channels: int, dtype: torch.dtype) -> Case:
    def prepare(device: torch.device) -> Calls:
        given = arguments((maps, side, side, channels), KERNEL, dtype, device)
        given[1:2] = [None]  # type: ignore[list-item]
        ordinary = {"torch": lambda: depthwise_norm_reference(*given, EPS)}
        return ordinary | both_ways(lambda: depthwise_norm(*given, EPS), device)

    done, tolerance = work(maps, side, channels, dtype.itemsize), 1e-4 if dtype == torch.float32 else 0.05
    return Case("depthwise_norm", f"{maps}x{side}x{side}x{channels}", name_of(dtype), prepare, done, tolerance)


def draw(most: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, on: torch.device) -> Draw:
    """Maps may be smaller than the kernel."""
    B, H, W, C = sizes(most, generator)
    kernel = 2 * integer(0, 3, generator) + 1
    given = arguments((B, H, W, C + 1), kernel, dtype, on, integer(0, 2**31, generator))
    if integer(0, 1, generator):
        given[1:2] = [None]  # type: ignore[list-item]
    exact = depthwise_norm_reference(*(x if x is None else x.double() for x in given), EPS)
    shape = f"{B}x{H}x{W}x{C + 1}, {kernel}x{kernel}"
    return Draw(lambda _: depthwise_norm(*given, EPS), shape, exact, depthwise_norm_reference(*given, EPS))


def launched() -> Iterator[Call]:
    """The published width with and without a shift, and nano's width."""
    for dtype in FLOATS:
        for channels, has_shift in ((CHANNELS, True), (CHANNELS, False), (128, True)):
            vector = meta(channels, dtype=dtype)
            x, weight = (meta(*shape, channels, dtype=dtype) for shape in ((1, SIDE, SIDE), (KERNEL, KERNEL)))
            given = x, vector if has_shift else None, weight, vector, vector, vector, EPS
            yield Call("depthwise_norm", given, name_of(dtype))


RECORD = Record(
    cases=[depthwise_norm_case(maps, SIDE, CHANNELS, dtype) for maps in OBJECTS for dtype in TIMED],
    small=[depthwise_norm_case(1, 5, 16, dtype) for dtype in TIMED],
    searches=[
        search(
            "depthwise_norm",
            "ELEMENTS num_warps num_stages",
            ((1024, 1, 1), (2048, 1, 1), (2048, 2, 1), (4096, 2, 1), (4096, 4, 1)),
        )
    ],
    work=lambda: (
        (f"{maps} × {side} × {side} × {CHANNELS}, bf16", "bf16", work(maps, side, CHANNELS, 2))
        for side in (SIDE, SIDE // 2)
        for maps in OBJECTS
    ),
    samples={
        "depthwise_norm": Sample(
            depthwise_norm,
            lambda: (*map(small, ((2, 4, 5, 8), (8,), (3, 3, 8), (8,), (8,), (8,))), EPS),
            "depthwise_norm",
            has_gradient=True,
        )
    },
    launched=launched,
    parity={
        "depthwise_norm": simple_check(
            draw,
            *(Plan(40, (4, 80, 80, 300)), Plan(10, (4, 80, 80, 300))),
            *(Plan(4, (2, 9, 9, 40)), Plan(3, (2, 6, 5, 20))),
            launchers=["depthwise_norm_triton.depthwise_norm_triton"],
        )
    },
)

if __name__ == "__main__":
    from one_op import main

    main(RECORD)
