"""Patches of images, embedded as tokens."""

import itertools
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench/, where a script's imports are

import torch
import torch.nn.functional as F
from backend_calls import both_ways
from inputs import meta, random, small
from parity_rows import Draw, Plan, integer, name_of, simple_check
from registry import TIMED, Call, Calls, Case, Record, Sample, Work, search
from torch import Tensor

from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels.embed_patches import embed_patches, embed_patches_reference
from sam2fast.kernels.layer_norm import add_layer_norm, layer_norm
from sam2fast.kernels.preprocess import MEAN, STD, resize_and_normalise

CHANNELS = (96, 112, 144)  # of tiny and small, base+, and large
SIDE, AT_ONCE = 1024, 4  # pixels, and frames that are encoded at once
INPUTS = {"frames": torch.uint8, "maps": torch.float32}


def work(batch: int, C: int, size: int, given: torch.dtype, side: int = SIDE) -> Work:
    """Pixels and positions read once, tokens written once; ``size`` is bytes of a number of tokens and positions."""
    tokens = (side // 4) ** 2
    moved = batch * 3 * side**2 * given.itemsize + size * (batch + 1) * tokens * C + size * 148 * C
    return Work(moved, products=2 * 147 * batch * tokens * C)


def arguments(
    shape: tuple[int, int, int],
    C: int,
    given: torch.dtype,
    dtype: torch.dtype,
    device: torch.device,
    seed: int = 0,
) -> tuple[Any, ...]:
    """Draws pixels of this batch, height and width, and weights in ``dtype``."""
    numbers = random(*shape, 3, device=device, seed=seed)
    sizes = (7, 7, 3, C), (C,), (-(-shape[1] // 4), -(-shape[2] // 4), C)
    weight, bias, position = (random(*s, device=device, seed=seed + 1 + i) for i, s in enumerate(sizes))
    layers = (weight * 147**-0.5).to(dtype), bias.to(dtype), position.to(dtype)
    if given == torch.uint8:
        return (numbers * 60 + 120).clamp(0, 255).to(given), *layers, MEAN, STD
    return numbers.to(given), *layers, (), ()


def embed_patches_case(what: str, batch: int, C: int, dtype: torch.dtype, side: int = SIDE) -> Case:
    """Tokens and their first layer norm, which adds the positions where torch convolves."""
    given = INPUTS[what]

    def prepare(device: torch.device) -> Calls:
        pixels, weight, bias, position, *numbers = arguments((batch, side, side), C, given, dtype, device)
        norm = torch.ones_like(bias), torch.zeros_like(bias), 1e-6, dtype
        kernel = weight.permute(3, 2, 0, 1).contiguous()

        def by_torch() -> Any:
            images = pixels.permute(0, 3, 1, 2)
            if given == torch.uint8:
                images = resize_and_normalise(pixels, (side, side), *numbers, 255.0)
            x = F.conv2d(images.to(dtype, memory_format=torch.channels_last), kernel, bias, 4, 3).permute(0, 2, 3, 1)
            return add_layer_norm(x, position.expand_as(x), *norm)

        def by_us() -> Any:
            x = embed_patches(pixels, weight, bias, position, *numbers)
            return x, layer_norm(x, *norm)

        return {"torch": by_torch} | both_ways(by_us, device)

    done, tolerance = work(batch, C, dtype.itemsize, given, side), 1e-4 if dtype == torch.float32 else 0.05
    normed = dtype.itemsize * batch * (side // 4) ** 2 * C
    done = done._replace(bytes=done.bytes + 2 * normed)  # read and written
    return Case("embed_patches", f"{batch}x{side}x{side} {what} to {C}", name_of(dtype), prepare, done, tolerance)


def in_float64(pixels: Tensor, weight: Tensor, bias: Tensor, position: Tensor, *numbers: Any) -> Tensor:
    """Computes the tokens in fp64."""
    images = pixels.double()
    if numbers[0]:
        mean, std = (torch.tensor(each, dtype=torch.double, device=pixels.device) for each in numbers)
        images = (images / 255 - mean) / std
    x = F.conv2d(images.permute(0, 3, 1, 2), weight.double().permute(3, 2, 0, 1), bias.double(), 4, 3)
    return x.permute(0, 2, 3, 1) + position.double()


def draw(most: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, on: torch.device) -> Draw:
    H, W, C = (integer(1, side, generator) * factor for side, factor in zip(most, (4, 4, 1), strict=True))
    given = INPUTS["frames" if integer(0, 1, generator) else "maps"]
    shape = integer(1, 3, generator), H, W
    inputs = arguments(shape, C, given, dtype, on, integer(0, 2**31, generator))
    reference = embed_patches_reference(*inputs)
    return Draw(lambda _: embed_patches(*inputs), f"{shape} {given} to {C}", in_float64(*inputs), reference)


def launched() -> Iterator[Call]:
    """Frames and maps to the channels of each model."""
    for dtype in FLOATS:
        for given, C in itertools.product(INPUTS.values(), CHANNELS):
            tensors = meta(1, SIDE, SIDE, 3, dtype=given), meta(7, 7, 3, C, dtype=dtype), meta(C, dtype=dtype)
            numbers = (MEAN, STD) if given == torch.uint8 else ((), ())
            yield Call("embed_patches", (*tensors, meta(256, 256, C, dtype=dtype), *numbers), name_of(dtype))


def shown() -> Iterable[tuple[str, str, Work]]:
    for C, (what, given) in itertools.product(CHANNELS, INPUTS.items()):
        yield f"{AT_ONCE} × {SIDE} × {SIDE} {what} to {C}", "bf16", work(AT_ONCE, C, 2, given)


CASES = [(what, batch, C) for C in CHANNELS for what, batch in (("frames", AT_ONCE), ("frames", 1), ("maps", 1))]
RECORD = Record(
    cases=[embed_patches_case(*each, dtype) for each in CASES for dtype in TIMED],
    small=[embed_patches_case(what, 2, 24, dtype, side=16) for what in INPUTS for dtype in TIMED],
    searches=[
        search(
            "embed_patches",
            "BLOCK num_warps num_stages",
            itertools.product((64, 128, 256), (4, 8), (2, 3, 4)),
            dtype="bfloat16",
        )
    ],
    work=shown,
    samples={
        "embed_patches": Sample(
            embed_patches,
            lambda: (small((2, 8, 12, 3)), *map(small, ((7, 7, 3, 5), (5,), (2, 3, 5)))),
            "embed_patches",
            has_gradient=True,
        ),
        "embed_patches of bytes": Sample(
            embed_patches,
            lambda: (
                (small((2, 8, 12, 3)) * 90).clamp(0, 255).to(torch.uint8),
                *map(small, ((7, 7, 3, 5), (5,), (2, 3, 5))),
                MEAN,
                STD,
            ),
            "embed_patches",
            has_gradient=True,
        ),
    },
    launched=launched,
    parity={
        "embed_patches": simple_check(
            draw,
            *(Plan(40, (150, 150, 256)), Plan(10, (150, 150, 256)), Plan(4, (12, 12, 40)), Plan(2, (6, 6, 40))),
            launchers=["embed_patches_triton.embed_patches_triton"],
        )
    },
)

if __name__ == "__main__":
    from one_op import main

    main(RECORD)
