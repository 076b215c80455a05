"""The choice of each object's mask by its predicted IoU."""

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench/, where a script's imports are

import torch
from backend_calls import both_ways
from inputs import meta, small
from parity_rows import EXACT, Draw, Plan, equal_to, integer, name_of, simple_check, sizes
from registry import Call, Calls, Case, Record, Sample, Work, search
from torch import Tensor

from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels.choose_masks import choose_masks, choose_masks_reference

SIDE, CHANNELS, MASKS = 256, 256, 3
OBJECTS = (1, 16)


def work(objects: int, side: int) -> Work:
    """The chosen masks are read and written in fp32."""
    return Work(objects * (8 * side**2 + 4 * CHANNELS), vector=objects * side**2)


def arguments(
    shape: tuple[int, int, int, int, int], dtype: torch.dtype, generator: torch.Generator, has_tokens: bool = True
) -> list[Tensor]:
    """Makes the arguments of a call, with equal IoUs, some NaN, and scores around 0."""
    B, M, h, w, C = shape
    ious = torch.randint(-1, 3, (B, M), generator=generator).to(dtype)
    ious[torch.rand(B, M, generator=generator) < 0.1] = torch.nan
    scores = torch.randint(-1, 2, (B, 1), generator=generator).to(dtype)
    tokens = torch.randn(B, M if has_tokens else 1, C, generator=generator).to(dtype)
    return [torch.randn(B, M, h, w, generator=generator), ious, tokens, scores]


def choose_masks_case(objects: int, side: int) -> Case:
    def prepare(device: torch.device) -> Calls:
        generator = torch.Generator().manual_seed(0)
        given = [x.to(device) for x in arguments((objects, MASKS, side, side, CHANNELS), torch.bfloat16, generator)]
        ordinary = {"torch": lambda: choose_masks_reference(*given, 0.0)}
        return ordinary | both_ways(lambda: choose_masks(*given, 0.0), device)

    return Case("choose_masks", f"{objects} of {side}x{side}", "float32", prepare, work(objects, side), 0)


def draw(most: tuple[int, ...], _: None, generator: torch.Generator, on: torch.device) -> Draw:
    """Of any dtype, with a token for each mask or one, and with or without a limit of scores."""
    B, M, h, w, C = sizes(most, generator)
    dtype, has_tokens = FLOATS[integer(0, 2, generator)], integer(0, 1, generator) > 0
    given = [x.to(on) for x in arguments((B, M, h, w, C), dtype, generator, has_tokens)]
    presence = (None, 0.0, 0.3)[integer(0, 2, generator)]
    judge = equal_to(tuple(x.nan_to_num(7) for x in choose_masks_reference(*given, presence)))
    return Draw(lambda _: tuple(x.nan_to_num(7) for x in choose_masks(*given, presence)), judge=judge)


def launched() -> Iterator[Call]:
    """One mask and three, with and without a limit."""
    for dtype in FLOATS:
        for masks, presence in ((1, 0.0), (3, 0.0), (3, None)):
            sizes_of = (1, masks), (1, masks, CHANNELS), (1, 1)
            given = meta(1, masks, SIDE, SIDE), *(meta(*shape, dtype=dtype) for shape in sizes_of), presence
            yield Call("choose_masks", given, name_of(torch.float32))


RECORD = Record(
    cases=[choose_masks_case(objects, SIDE) for objects in OBJECTS],
    small=[choose_masks_case(2, 9)],
    searches=[search("choose_masks", "BLOCK num_warps num_stages", ((1024, 2, 1), (2048, 4, 1), (4096, 8, 1)))],
    work=lambda: (
        (f"{objects} × {side} × {side}", "fp32", work(objects, side))
        for side in (SIDE, SIDE // 2)
        for objects in OBJECTS
    ),
    samples={
        "choose_masks": Sample(
            choose_masks,
            # Masks 2 and 1 of two objects. The second object is absent.
            lambda: (small((2, 3, 4, 5)), small((2, 3), 4), small((2, 3, 8)), small((2, 1)), 0.0),
            "choose_masks",
            batched=4,
        )
    },
    launched=launched,
    parity={
        "choose_masks": simple_check(
            draw,
            *(Plan(60, (5, 5, 60, 60, 300)), Plan(15, (5, 5, 60, 60, 300))),
            *(Plan(4, (3, 4, 9, 9, 40)), Plan(3, (2, 3, 6, 5, 20))),
            launchers=["choose_masks_triton.choose_masks_triton"],
            **EXACT,
        )
    },
)

if __name__ == "__main__":
    from one_op import main

    main(RECORD)
