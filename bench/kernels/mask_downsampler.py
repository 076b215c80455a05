"""The strided convolutions of the memory encoder's mask downsampler, with layer norm and GELU."""

import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench/, where a script's imports are

import torch
from backend_calls import both_ways
from inputs import meta, random, small
from parity_rows import Draw, Plan, integer, name_of, simple_check, sizes
from registry import TIMED, Call, Calls, Case, Record, Sample, Work, search
from torch import Tensor

from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels._launch import ANY
from sam2fast.kernels.mask_downsampler import (
    FIRST,
    downsample_logits,
    downsample_logits_reference,
    downsample_map,
    downsample_map_reference,
    shape_class,
)

EPS, KERNEL, STRIDE, PADDING = 1e-6, 3, 2, 1
SCALE, SHIFT = 20.0, -10.0
OBJECTS = (1, 16)
SIDE, LOGITS = 1024, 256  # of masks at the image's size, and of logits


class Step(NamedTuple):
    """A step between maps."""

    side: int  # of its input
    C: int
    N: int


STEPS = (Step(512, 4, 16), Step(256, 16, 64), Step(128, 64, 256))


def layers(N: int, C: int, k: int, dtype: torch.dtype, on: torch.device, seed: int) -> list[Tensor]:
    """Weight, bias, and weight and bias of the norm."""
    weight = random(N, k, k, C, device=on, dtype=dtype, seed=seed) / (k * C**0.5)
    return [weight, *(random(N, device=on, dtype=dtype, seed=seed + i) for i in (1, 2, 3))]


def logits_work(objects: int, side: int, logits: int, size: int) -> Work:
    """``size`` is bytes of a number. A tap takes 17 FLOPs outside of products: interpolation, scaling and zeros."""
    pixels = objects * (side // STRIDE) ** 2
    taps = KERNEL**2
    moved = 4 * objects * logits**2 + size * FIRST * (pixels + taps + 3)
    return Work(moved, vector=pixels * (taps * (17 + 2 * FIRST) + 30 * FIRST), exponentials=pixels * (taps + FIRST))


def map_work(objects: int, step: Step, size: int) -> Work:
    """``size`` is bytes of a number. Norm and GELU take 28 FLOPs a number."""
    side, C, N = step
    positions, K = objects * (side // STRIDE) ** 2, KERNEL**2 * C
    moved = size * (objects * side**2 * C + N * (K + 3) + positions * N)
    return Work(moved, 2 * positions * K * N, vector=28 * positions * N, exponentials=positions * N)


def logits_case(objects: int, side: int, logits: int, dtype: torch.dtype) -> Case:
    def prepare(device: torch.device) -> Calls:
        x = random(objects, 1, logits, logits, device=device)
        given = x, *layers(FIRST, 1, KERNEL, dtype, device, 1), (side, side), SCALE, SHIFT, False, STRIDE, PADDING, EPS
        ordinary = {"torch": lambda: downsample_logits_reference(*given)}
        return ordinary | both_ways(lambda: downsample_logits(*given), device)

    shape, done = f"{objects}x{logits}x{logits} to {side}", logits_work(objects, side, logits, dtype.itemsize)
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    return Case("downsample_logits", shape, name_of(dtype), prepare, done, tolerance, launch="logits")


def map_case(objects: int, step: Step, dtype: torch.dtype) -> Case:
    side, C, N = step

    def prepare(device: torch.device) -> Calls:
        x = random(objects, side, side, C, device=device, dtype=dtype)
        given = x, *layers(N, C, KERNEL, dtype, device, 1), STRIDE, PADDING, EPS
        ordinary = {"torch": lambda: downsample_map_reference(*given)}
        return ordinary | both_ways(lambda: downsample_map(*given), device)

    shape, done = f"{objects}x{side}x{side}x{C} to {N}", map_work(objects, step, dtype.itemsize)
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    return Case("downsample_map", shape, name_of(dtype), prepare, done, tolerance, launch=shape_class(N))


def geometry(k: int, generator: torch.Generator) -> tuple[int, int]:
    """Stride and padding."""
    return integer(1, 3, generator), integer(0, k - 1, generator)


def draw_logits(most: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, on: torch.device) -> Draw:
    """Masks may have the size of the logits, and may be made smaller."""
    B, h, w, H, W = sizes(most, generator)
    k, seed = integer(1, 3, generator), integer(0, 2**31, generator)
    stride, padding = geometry(k, generator)
    size = (h + k, w + k) if integer(0, 2, generator) == 0 else (H + k, W + k)
    x = random(B, 1, h + k, w + k, device=on, seed=seed)
    is_binary = bool(integer(0, 1, generator))
    if is_binary:  # interpolated far from 0, where rounding decides
        x = x.amax((-1, -2), keepdim=True).sub(0.5).expand_as(x).contiguous()
    given = [x, *layers(FIRST, 1, k, dtype, on, seed + 1)]
    rest: tuple[Any, ...] = size, SCALE, SHIFT, is_binary, stride, padding, EPS
    exact = downsample_logits_reference(*(t.double() for t in given), *rest)
    shape = f"{B}x{h + k}x{w + k} to {size}, {k}x{k}"
    reference = downsample_logits_reference(*given, *rest)
    return Draw(lambda _: downsample_logits(*given, *rest), shape, exact, reference)


def draw_map(most: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, on: torch.device) -> Draw:
    B, H, W, C, N = sizes(most, generator)
    k, seed = integer(1, 4, generator), integer(0, 2**31, generator)
    stride, padding = geometry(k, generator)
    given = [random(B, H + k, W + k, C, device=on, dtype=dtype, seed=seed), *layers(N + 1, C, k, dtype, on, seed + 1)]
    rest = stride, padding, EPS
    exact = downsample_map_reference(*(t.double() for t in given), *rest)
    shape = f"{B}x{H + k}x{W + k}x{C} to {N + 1}, {k}x{k}"
    return Draw(lambda _: downsample_map(*given, *rest), shape, exact, downsample_map_reference(*given, *rest))


def launched() -> Iterator[Call]:
    """Every step of the published models, and the last one of nano; logits of two sizes."""
    for dtype in FLOATS:

        def rest(N: int, C: int, dtype: torch.dtype = dtype) -> tuple[Tensor, ...]:
            vector = meta(N, dtype=dtype)
            return meta(N, KERNEL, KERNEL, C, dtype=dtype), vector, vector, vector

        for logits in (LOGITS, SIDE):
            masks = meta(1, 1, logits, logits), *rest(FIRST, 1)
            settings = (SIDE, SIDE), SCALE, SHIFT, False, STRIDE, PADDING, EPS
            yield Call("downsample_logits", (*masks, *settings), name_of(dtype), "logits")
        for side, C, N in (*STEPS, Step(128, 64, 128)):
            given = meta(1, side, side, C, dtype=dtype), *rest(N, C), STRIDE, PADDING, EPS
            yield Call("downsample_map", given, name_of(dtype), shape_class(N))


def shown() -> Iterable[tuple[str, str, Work]]:
    for objects in OBJECTS:
        yield f"{objects} × {LOGITS} × {LOGITS} to 4 channels, bf16", "bf16", logits_work(objects, SIDE, LOGITS, 2)
        for step in STEPS:
            side, C, N = step
            yield f"{objects} × {side} × {side} × {C} to {N}, bf16", "bf16", map_work(objects, step, 2)


RECORD = Record(
    cases=[
        *(logits_case(objects, SIDE, LOGITS, dtype) for objects in OBJECTS for dtype in TIMED),
        *(map_case(objects, step, dtype) for step in STEPS for objects in OBJECTS for dtype in TIMED),
    ],
    small=[
        *(logits_case(1, 16, 8, dtype) for dtype in TIMED),
        *(map_case(1, Step(8, C, N), dtype) for C, N in ((4, 16), (16, 128)) for dtype in TIMED),
    ],
    searches=[
        search(
            "mask_downsampler",
            "BLOCK_Y BLOCK_X num_warps num_stages",
            ((2, 64, 4, 1), (4, 64, 4, 1), (8, 64, 4, 1), (4, 64, 8, 1), (2, 128, 4, 1)),
            shape="logits",
            cases=("downsample_logits",),
        ),
        *(
            search(
                "mask_downsampler",
                "BLOCK_M BLOCK_K num_warps num_stages",
                (
                    each
                    for each in itertools.product((32, 64, 128), (32, 64), (4, 8), (2, 3))
                    if each[0] <= 16 * each[2]
                ),
                shape=shape,
                cases=("downsample_map",),
            )
            for shape in (ANY, "wide")
        ),
    ],
    work=shown,
    samples={
        "downsample_logits": Sample(
            lambda *given: downsample_logits(*given, (9, 12), SCALE, SHIFT, False, STRIDE, PADDING, EPS),
            lambda: tuple(map(small, ((2, 1, 3, 4), (4, 3, 3, 1), (4,), (4,), (4,)))),
            "downsample_logits",
            has_gradient=True,
        ),
        "downsample_map": Sample(
            lambda *given: downsample_map(*given, STRIDE, PADDING, EPS),
            lambda: tuple(map(small, ((2, 6, 5, 4), (20, 3, 3, 4), (20,), (20,), (20,)))),
            "downsample_map",
            has_gradient=True,
        ),
    },
    launched=launched,
    parity={
        "downsample_logits": simple_check(
            draw_logits,
            *(Plan(40, (3, 300, 300, 900, 900)), Plan(10, (3, 300, 300, 900, 900))),
            *(Plan(4, (2, 20, 20, 50, 60)), Plan(3, (2, 8, 9, 20, 30))),
            launchers=["mask_downsampler_triton.downsample_logits_triton"],
            ops=("downsample_logits",),
        ),
        "downsample_map": simple_check(
            draw_map,
            *(Plan(40, (3, 200, 200, 80, 255)), Plan(10, (3, 200, 200, 80, 255))),
            *(Plan(4, (2, 20, 20, 20, 80)), Plan(3, (2, 9, 7, 20, 80))),
            launchers=["mask_downsampler_triton.downsample_map_triton"],
            ops=("downsample_map",),
        ),
    },
)

if __name__ == "__main__":
    from one_op import main

    main(RECORD)
