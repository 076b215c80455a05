"""Resizing and normalising of images."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench/, where a script's imports are

import torch
import torch.nn.functional as F
from backend_calls import both_ways
from inputs import FULL_HD, meta, random, small
from parity_rows import Draw, Plan, integer, simple_check
from registry import Call, Calls, Case, Record, Sample, Work, search
from torch import Tensor

from sam2fast.kernels.preprocess import MEAN, STD, resize_and_normalise, resize_and_normalise_reference


def taps(length: int, wanted: int) -> int:
    """Input pixels that the loop over one axis takes."""
    return 2 * math.ceil(length / wanted) + 1


def work(batch: int, height: int, width: int, side: int = 1024) -> Work:
    """Bytes read, fp32 written; 12 FLOPs a tap: the column's weight, the product of both, three sums, their total."""
    moved = batch * 3 * (height * width + 4 * side**2)
    return Work(moved, vector=12 * batch * side**2 * taps(height, side) * taps(width, side))


def separately(pixels: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """By torch's own operations, in a dtype."""
    mean, std = (torch.tensor(values, device=pixels.device, dtype=dtype)[:, None, None] for values in (MEAN, STD))
    image = pixels.permute(0, 3, 1, 2).to(dtype) / 255
    return (F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=True) - mean) / std


def preprocess_case(batch: int, height: int, width: int, side: int = 1024) -> Case:
    def prepare(device: torch.device) -> Calls:
        pixels = (random(batch, height, width, 3, device=device).abs() * 90).clamp(max=255).to(torch.uint8)
        return {"torch": lambda: separately(pixels, (side, side), torch.float32)} | both_ways(
            lambda: resize_and_normalise(pixels, (side, side), MEAN, STD, 255.0), device
        )

    done = work(batch, height, width, side)
    return Case("preprocess", f"{batch}x{height}x{width}", "uint8", prepare, done, tolerance=1e-5)


SMALLEST = 64  # part of a side


def draw(most: tuple[int, ...], _: torch.dtype, generator: torch.Generator, on: torch.device) -> Draw:
    height, width = (integer(2, most[0], generator) for _ in range(2))
    # torch's antialiased resizing has too little shared memory on GPUs to make an image much smaller.
    sides = [integer(max(2, side // SMALLEST), most[0], generator) for side in (height, width)]
    shape = integer(1, 3, generator), height, width, 3
    pixels = torch.randint(0, 256, shape, generator=generator).to(on, torch.uint8)
    given = pixels, (sides[0], sides[1]), MEAN, STD, 255.0
    exact, reference = separately(*given[:2], torch.double), resize_and_normalise_reference(*given)
    return Draw(lambda _: resize_and_normalise(*given), f"{shape} to {sides}", exact, reference)


def launched() -> Iterator[Call]:
    for dtype in (torch.uint8, torch.float32):
        yield Call("resize_and_normalise", (meta(1, *FULL_HD, 3, dtype=dtype), (1024, 1024), MEAN, STD, 255.0), "uint8")


SIZES = ((1, *FULL_HD), (1, 1024, 1024), (8, 480, 854))
RECORD = Record(
    cases=[preprocess_case(*size) for size in SIZES],
    small=[preprocess_case(1, 12, 16, side=16)],
    searches=[search("preprocess", "BLOCK num_warps num_stages", ((128, 2, 1), (256, 4, 1), (512, 8, 1)))],
    work=lambda: ((" × ".join(map(str, size)), "bf16", work(*size)) for size in SIZES),
    samples={
        "preprocess": Sample(
            resize_and_normalise,
            lambda: (small((2, 9, 12, 3)).sigmoid(), (4, 8), MEAN, STD, 1.0),
            "preprocess",
            "resize_and_normalise",
        )
    },
    launched=launched,
    parity={
        "preprocess": simple_check(
            draw,
            *(Plan(40, (1500,)), Plan(10, (1500,)), Plan(4, (40,)), Plan(2, (12,))),
            launchers=["preprocess_triton.resize_and_normalise_triton"],
            dtypes=(torch.float32,),
        )
    },
)

if __name__ == "__main__":
    from one_op import main

    main(RECORD)
