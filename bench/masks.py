"""What is measured of masks on their way to the image's size, beside the way that the original takes."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from backend_calls import by_triton, kernel_if_any, ours, runs_kernels
from inputs import random
from registry import Calls, Case
from torch import Tensor

from sam2fast.kernels._launch import ANY
from sam2fast.kernels.mask_ops import (
    mask_statistics,
    pack_masks,
    pack_masks_reference,
    suppress_overlaps,
    suppress_overlaps_reference,
    unpack_masks,
    unpack_masks_reference,
    upsample_and_pack,
    upsample_and_threshold,
)

SQUARE, PHOTOGRAPH, LOW = (1024, 1024), (1200, 1800), (256, 256)
# Side of the squares whose average, taken twice, makes an outline as long as the masks of a photograph have.
SMOOTHING = 33


def mask_logits(count: int, device: torch.device, low: tuple[int, int] = LOW) -> Tensor:
    """Logits ``(count, h, w)`` like those of a decoder: about a fifth above 0, falling by one in half a pixel or so."""
    height, width = (side + 2 * (SMOOTHING - 1) for side in low)
    maps = []
    for seed in range(count):
        noise = random(1, 1, height, width, device=torch.device("cpu"), seed=seed)
        for window in 2 * ((SMOOTHING, 1), (1, SMOOTHING)):
            noise = F.avg_pool2d(noise, window, stride=1)
        maps.append(noise[:, 0] / noise.std() * 15 - 13)
    return torch.cat(maps).to(device)


def upsampled(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def counted_at_full_size(logits: Tensor, size: tuple[int, int]) -> list[Tensor]:
    """Pixels above 1 and above -1, and boxes of the masks, from their logits at full size: as the original does it."""
    values = upsampled(logits, size)
    counts = [(values > level).sum(-1, dtype=torch.int16).sum(-1, dtype=torch.int32) for level in (1.0, -1.0)]
    masks = values > 0
    sides = []
    for axis, length in ((-2, size[1]), (-1, size[0])):
        place = torch.arange(length, device=logits.device)
        seen = masks.max(axis).values  # (N, length)
        last = (seen * place).max(-1).values
        sides += [(seen * place + length * ~seen).min(-1).values, torch.where(seen.any(-1), last, -1)]
    left, right, top, bottom = sides
    return [*counts, torch.stack([left, top, right, bottom], -1).to(torch.int32)]


def statistics_case(count: int, size: tuple[int, int], device: str = "") -> Case:
    def prepare(on: torch.device) -> Calls:
        logits = mask_logits(count, on)

        def counted() -> list[Tensor]:
            found = mask_statistics(logits, size)
            return [found.above, found.below, found.boxes]

        return {"full-size logits": lambda: counted_at_full_size(logits, size)} | ours(counted, on)

    return _case("mask_statistics", count, size, prepare, 28 * count, ANY, device)


def threshold_case(count: int, size: tuple[int, int], packed: bool, device: str = "") -> Case:
    def prepare(on: torch.device) -> Calls:
        logits = mask_logits(count, on)
        if packed:
            baseline = {"full-size logits": lambda: pack_masks_reference(upsampled(logits, size) > 0)}
            return baseline | ours(lambda: upsample_and_pack(logits, size), on)
        return {"full-size logits": lambda: upsampled(logits, size) > 0} | ours(
            lambda: upsample_and_threshold(logits, size), on
        )

    name, shape = ("upsample_and_pack", "pack") if packed else ("upsample_and_threshold", ANY)
    return _case(name, count, size, prepare, count * size[0] * size[1] / (8 if packed else 1), shape, device)


def _case(
    op: str,
    count: int,
    size: tuple[int, int],
    prepare: Callable[[torch.device], Calls],
    written: float,
    launch: str,
    device: str,
) -> Case:
    shape = f"{count}x{LOW[0]}x{LOW[1]} to {size[0]}x{size[1]}"
    read = 4 * count * LOW[0] * LOW[1]
    return Case(op, shape, "float32", prepare, 0, read + written, tolerance=0, device=device, launch=launch)


def bits_case(count: int, size: tuple[int, int], packing: bool) -> Case:
    pixels = count * size[0] * size[1]

    def prepare(on: torch.device) -> Calls:
        masks = random(count, *size, device=on) > 0
        if packing:
            return {"torch": lambda: pack_masks_reference(masks)} | _on_gpus(lambda: pack_masks(masks), on)
        packed, width = pack_masks_reference(masks), size[1]
        reference = {"torch": lambda: unpack_masks_reference(packed, width)}
        return reference | _on_gpus(lambda: unpack_masks(packed, width), on)

    op, dtype = ("pack_masks", "bool") if packing else ("unpack_masks", "uint8")
    return Case(op, f"{count}x{size[0]}x{size[1]}", dtype, prepare, 0, pixels * 9 / 8, tolerance=0, launch="bits")


def overlaps_case(objects: int, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> Case:
    def prepare(on: torch.device) -> Calls:
        logits = (random(objects, 1, *size, device=on) * 12).to(dtype)
        own = kernel_if_any(lambda: suppress_overlaps(logits), on)
        return {"torch": lambda: suppress_overlaps_reference(logits), "sam2fast": own}

    moved = 3 * objects * size[0] * size[1] * torch.finfo(dtype).bits // 8
    name = str(dtype).removeprefix("torch.")
    shape = f"{objects} objects, {size[0]}x{size[1]}"
    return Case("suppress_overlaps", shape, name, prepare, 0, moved, tolerance=0, launch="overlaps")


def _on_gpus(call: Callable[[], Any], device: torch.device) -> Calls:
    """Elsewhere the op is its reference implementation."""
    return {"triton": by_triton(call)} if runs_kernels(device) else {}


def mask_cases() -> Iterator[Case]:
    """A click's mask, a choice of three, and masks by the dozen; the most of them are for GPUs."""
    for count, size, device in (
        (1, PHOTOGRAPH, ""),
        (3, PHOTOGRAPH, ""),
        (64, PHOTOGRAPH, ""),
        (64, SQUARE, ""),
        (256, SQUARE, "cuda"),
        (256, PHOTOGRAPH, "cuda"),
    ):
        yield statistics_case(count, size, device)
    for count, size, device in ((1, PHOTOGRAPH, ""), (3, PHOTOGRAPH, ""), (64, SQUARE, ""), (256, SQUARE, "cuda")):
        for packed in (False, True):
            yield threshold_case(count, size, packed, device)
    for packing in (True, False):
        yield bits_case(64, SQUARE, packing)
    for objects in (3, 16):
        yield overlaps_case(objects, SQUARE)
    yield overlaps_case(3, SQUARE, torch.bfloat16)
