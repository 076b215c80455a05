"""The end of the mask decoder: features are added, and GELU and products make logits."""

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
from sam2fast.kernels.mask_logits import mask_logits, mask_logits_reference

SIDE, CHANNELS, MASKS = 64, 32, 3
PROMPTS = (1, 16)


def work(prompts: int, side: int, channels: int, masks: int, size: int, shared: bool = True) -> Work:
    """``size`` is bytes of a number of the maps. GELU takes twenty FLOPs a number, a mask two."""
    numbers = prompts * 16 * side**2 * channels
    maps = size * numbers * (1 + 1 / prompts if shared else 2)
    return Work(round(maps) + 4 * masks * prompts * (16 * side**2 + channels), vector=numbers * (21 + 2 * masks))


def arguments(
    shape: tuple[int, int, int, int], masks: int, dtype: torch.dtype, on: torch.device, seed: int = 0, shared: int = 1
) -> list[Tensor]:
    """Tensors of a call on maps of ``(B, H, W, C)`` blocks, with the same features for all if ``shared``."""
    B, H, W, C = shape
    x = random(B, H, W, 2, 2, 2, 2, C, device=on, dtype=dtype, seed=seed)
    features = random(1 if shared else B, 4 * H, 4 * W, C, device=on, dtype=dtype, seed=seed + 1)
    return [x, features, random(B, masks, C, device=on, dtype=torch.float32, seed=seed + 2)]


def mask_logits_case(prompts: int, side: int, channels: int, dtype: torch.dtype) -> Case:
    def prepare(device: torch.device) -> Calls:
        given = arguments((prompts, side, side, channels), MASKS, dtype, device)
        ordinary = {"torch": lambda: mask_logits_reference(*given)}
        return ordinary | both_ways(lambda: mask_logits(*given), device)

    done = work(prompts, side, channels, MASKS, dtype.itemsize)
    name = f"{prompts}x{4 * side}x{4 * side}x{channels}, {MASKS} masks"
    return Case("mask_logits", name, name_of(dtype), prepare, done, 1e-4 if dtype == torch.float32 else 0.05)


def draw(most: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, on: torch.device) -> Draw:
    """Makes oblong maps of any number of channels, with features for each map, for all maps, or without."""
    B, H, W, C, M = sizes(most, generator)
    kind, seed = integer(0, 2, generator), integer(0, 2**31, generator)
    given = arguments((B, H, W, C), M, dtype, on, seed, shared=kind == 1)
    if kind == 2:
        given[1:2] = [None]  # type: ignore[list-item]
    exact = mask_logits_reference(*(x if x is None else x.double() for x in given))
    shape = f"{B}x{4 * H}x{4 * W}x{C}, {M} masks" + ("", ", shared features", ", no features")[kind]
    return Draw(lambda _: mask_logits(*given), shape, exact, mask_logits_reference(*given))


def launched() -> Iterator[Call]:
    """The published width for one mask and three, and without features."""
    for dtype in FLOATS:
        for masks, has_features in ((1, True), (3, True), (3, False)):
            x = meta(1, SIDE, SIDE, 2, 2, 2, 2, CHANNELS, dtype=dtype)
            features = meta(1, 4 * SIDE, 4 * SIDE, CHANNELS, dtype=dtype) if has_features else None
            given = x, features, meta(1, masks, CHANNELS, dtype=torch.float32)
            yield Call("mask_logits", given, name_of(dtype))


RECORD = Record(
    cases=[mask_logits_case(prompts, SIDE, CHANNELS, dtype) for prompts in PROMPTS for dtype in TIMED],
    small=[mask_logits_case(1, 3, 8, dtype) for dtype in TIMED],
    searches=[
        search(
            "mask_logits",
            "ELEMENTS num_warps num_stages",
            ((1024, 2, 1), (2048, 2, 1), (2048, 4, 1), (4096, 4, 1), (4096, 8, 1)),
        )
    ],
    work=lambda: (
        (
            f"{prompts} × {4 * side} × {4 * side} × {CHANNELS}, {MASKS} masks, bf16",
            "bf16",
            work(prompts, side, CHANNELS, MASKS, 2),
        )
        for side in (SIDE, SIDE // 2)
        for prompts in PROMPTS
    ),
    samples={
        "mask_logits": Sample(
            mask_logits,
            lambda: (small((2, 3, 2, 2, 2, 2, 2, 8)), small((2, 12, 8, 8)), small((2, 3, 8))),
            "mask_logits",
            batched=3,
            has_gradient=True,
        )
    },
    launched=launched,
    parity={
        "mask_logits": simple_check(
            draw,
            *(Plan(40, (4, 20, 20, 70, 5)), Plan(10, (4, 20, 20, 70, 5))),
            *(Plan(4, (2, 4, 4, 40, 4)), Plan(3, (2, 3, 3, 20, 3))),
            launchers=["mask_logits_triton.mask_logits_triton"],
        )
    },
)

if __name__ == "__main__":
    from one_op import main

    main(RECORD)
