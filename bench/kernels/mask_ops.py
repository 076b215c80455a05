"""Masks on their way to the image's size, beside the official implementation."""

import itertools
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench/, where a script's imports are

import torch
import torch.nn.functional as F
from backend_calls import by_kernel, kernel_if_any, ours
from inputs import FULL_HD, meta, random, small
from parity_rows import Draw, Plan, equal_to, integer, name_of, simple_check, sizes
from registry import Call, Calls, Case, Record, Sample, Search, Work, search
from torch import Tensor

from sam2fast.kernels._dispatch import FLOATS, backend
from sam2fast.kernels._launch import ANY
from sam2fast.kernels.mask_ops import (
    mask_statistics,
    mask_statistics_reference,
    pack_masks,
    pack_masks_reference,
    scaled_probabilities,
    scaled_probabilities_reference,
    suppress_overlaps,
    suppress_overlaps_reference,
    unpack_masks,
    unpack_masks_reference,
    upsample_and_pack,
    upsample_and_threshold,
)

SQUARE, PHOTOGRAPH, LOW, SMALL = (1024, 1024), (1200, 1800), (256, 256), (20, 36)
READ = 4.0 * LOW[0] * LOW[1]  # bytes of a mask's logits
# Side of the squares whose average, taken twice, makes an outline as long as the masks of a photograph have.
SMOOTHING = 33
BLEND = 9  # FLOPs of a pixel between four logits: two fused products and one more for each of three sums


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
    """Counts pixels above 1 and above -1, and finds boxes, from logits at full size, as the official package does."""
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


def of_upsampled(count: int, size: tuple[int, int]) -> str:
    """The shape in the names of cases."""
    return f"{count}x{LOW[0]}x{LOW[1]} to {size[0]}x{size[1]}"


def statistics_work(masks: int, height: int, width: int) -> Work:
    return Work(masks * (READ + 28), vector=(BLEND + 3) * masks * height * width)


def threshold_work(masks: int, height: int, width: int) -> Work:
    return Work(masks * (READ + height * width), vector=(BLEND + 1) * masks * height * width)


def pack_work(masks: int, height: int, width: int) -> Work:
    return Work(masks * (READ + height * math.ceil(width / 8)), vector=(BLEND + 1) * masks * height * width)


def overlaps_work(objects: int, pixels: int, size: int = 4) -> Work:
    """Logits read twice: once for who is largest, once to write."""
    return Work(3.0 * size * objects * pixels, vector=2 * objects * pixels)


def statistics_case(count: int, size: tuple[int, int], device: str = "") -> Case:
    def prepare(on: torch.device) -> Calls:
        logits = mask_logits(count, on)

        def counted() -> list[Tensor]:
            found = mask_statistics(logits, size)
            return [found.above, found.below, found.boxes]

        return {"full-size logits": lambda: counted_at_full_size(logits, size)} | ours(counted, on)

    shape, done = of_upsampled(count, size), statistics_work(count, *size)
    return Case("mask_statistics", shape, "float32", prepare, done, device=device)


def threshold_case(count: int, size: tuple[int, int], packed: bool, device: str = "") -> Case:
    def prepare(on: torch.device) -> Calls:
        logits = mask_logits(count, on)
        if packed:
            baseline = {"full-size logits": lambda: pack_masks_reference(upsampled(logits, size) > 0)}
            return baseline | ours(lambda: upsample_and_pack(logits, size), on)
        return {"full-size logits": lambda: upsampled(logits, size) > 0} | ours(
            lambda: upsample_and_threshold(logits, size), on
        )

    name, launch, work = (
        ("upsample_and_pack", "pack", pack_work) if packed else ("upsample_and_threshold", ANY, threshold_work)
    )
    shape = of_upsampled(count, size)
    return Case(name, shape, "float32", prepare, work(count, *size), device=device, launch=launch)


def probabilities_work(masks: int, height: int, width: int, size: int = 2) -> Work:
    return Work(masks * (READ + size * height * width), vector=(BLEND + 4) * masks * height * width)


def probabilities_case(count: int, size: tuple[int, int], dtype: torch.dtype) -> Case:
    def prepare(on: torch.device) -> Calls:
        given = mask_logits(count, on)[:, None], size, 20.0, -10.0, dtype
        reference = {"torch": lambda: scaled_probabilities_reference(*given)}
        return reference | by_kernel(lambda: scaled_probabilities(*given), on)

    def exact(on: torch.device) -> Tensor:
        return scaled_probabilities_reference(mask_logits(count, on)[:, None], size, 20.0, -10.0, torch.float32)

    shape, done = of_upsampled(count, size), probabilities_work(count, *size, dtype.itemsize)
    return Case("scaled_probabilities", shape, name_of(dtype), prepare, done, exact=exact, tolerance=1e-5)


def bits_case(count: int, size: tuple[int, int], packing: bool) -> Case:
    def prepare(on: torch.device) -> Calls:
        masks = random(count, *size, device=on) > 0
        if packing:
            return {"torch": lambda: pack_masks_reference(masks)} | by_kernel(lambda: pack_masks(masks), on)
        packed, width = pack_masks_reference(masks), size[1]
        reference = {"torch": lambda: unpack_masks_reference(packed, width)}
        return reference | by_kernel(lambda: unpack_masks(packed, width), on)

    op, dtype = ("pack_masks", "bool") if packing else ("unpack_masks", "uint8")
    done = Work(count * size[0] * size[1] * 9 / 8)
    return Case(op, f"{count}x{size[0]}x{size[1]}", dtype, prepare, done, launch="bits")


def overlaps_case(objects: int, size: tuple[int, int], dtype: torch.dtype = torch.float32) -> Case:
    def prepare(on: torch.device) -> Calls:
        logits = (random(objects, 1, *size, device=on) * 12).to(dtype)
        own = kernel_if_any(lambda: suppress_overlaps(logits), on)
        return {"torch": lambda: suppress_overlaps_reference(logits), "sam2fast": own}

    shape, done = f"{objects} objects, {size[0]}x{size[1]}", overlaps_work(objects, math.prod(size), dtype.itemsize)
    return Case("suppress_overlaps", shape, name_of(dtype), prepare, done, launch="overlaps")


def lines() -> Iterable[tuple[str, str, Work]]:
    works = {
        "mask_statistics": statistics_work,
        "upsample_and_threshold": threshold_work,
        "upsample_and_pack": pack_work,
        "scaled_probabilities": probabilities_work,
    }
    for masks, (height, width) in ((1, FULL_HD), (64, FULL_HD), (64, SQUARE)):
        for op, work in works.items():
            yield f"`{op}`, {masks} of 256×256 to {height}×{width}", "bf16", work(masks, height, width)
    for objects in (4, 16):
        yield f"`suppress_overlaps`, {objects} objects, 1024×1024, fp32", "bf16", overlaps_work(objects, 1024 * 1024)


def mask_search(shape: str, ops: tuple[str, ...], across: tuple[int, ...]) -> Search:
    """``across``: BLOCK_X."""
    tiles = itertools.product((4, 8, 16), across, (2, 4, 8), (1,))
    fitting = (tile for tile in tiles if 1 <= tile[0] * tile[1] // (32 * tile[2]) <= 16)
    return search("mask_ops", "BLOCK_Y BLOCK_X num_warps num_stages", fitting, shape=shape, cases=ops)


# Of the largest logit and the level, in units of fp32's epsilon: what a rounding may decide. A pixel's coordinates in
# the logits are rounded, too, by at most an epsilon of the logits' sides; beside it, values differ by twice the largest
# logit at most. Where kernel and torch disagree there, that is no error, and is counted apart.
ROUNDINGS = 4


def draw(most: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, device: torch.device) -> Draw:
    """Smooth or rough logits, sometimes with NaN and with ties, to masks of any size, by all kernels of masks.

    The most masks, the longest side of logits, and that of masks.
    """
    N, h, w, *size = sizes((*most[:2], *most[1:], most[2]), generator)
    logits = random(N, h + 4, w + 4, device=torch.device("cpu"), seed=integer(0, 2**31, generator)) * 8
    smooth = integer(0, 1, generator) == 1
    logits = F.avg_pool2d(logits, 5, stride=1) if smooth else logits[:, 4:, 4:].contiguous()
    if integer(0, 3, generator) == 0:
        logits.view(-1)[:: integer(2, 99, generator)] = torch.nan
    if integer(0, 3, generator) == 0:  # many ties
        logits = logits.round()
    level, offset = (float(torch.randn((), generator=generator)) * integer(0, 1, generator) for _ in range(2))
    given = logits.to(device, dtype), (size[0], size[1]), level, offset
    return Draw(lambda _: _by_every_op(*given), judge=lambda found: judged(found, *given))


def _by_every_op(logits: Tensor, size: tuple[int, int], level: float, offset: float) -> list[Tensor]:
    masks, packed = upsample_and_threshold(logits, size, level), upsample_and_pack(logits, size, level)
    statistics = mask_statistics(logits, size, level, offset)
    return [masks, packed, pack_masks(masks), unpack_masks(packed, size[1]), *statistics]


def judged(
    found: list[Tensor], logits: Tensor, size: tuple[int, int], level: float, offset: float
) -> Mapping[str, int]:
    """Whether the results of all ops are right but for rounding, and how many pixels that decides."""
    masks, packed, bits, back, *statistics = found
    area, boxes = statistics[0], statistics[3]
    right = pack_masks_reference(masks)
    same = torch.equal(right, packed) and torch.equal(right, bits) and torch.equal(masks, back)
    same &= torch.equal(area, masks.sum((1, 2), dtype=torch.int32))
    expected, decided = mask_statistics_reference(logits, size, level, offset), 0
    for n in range(len(logits)):
        values = F.interpolate(logits[n, None, None].float(), size, mode="bilinear", align_corners=False)[0, 0]
        largest = float(logits[n].float().nan_to_num(0).abs().max())
        moved = 2 * largest * sum(logits.shape[-2:])
        allowed = []
        for count, right, at in zip(statistics, expected[:3], (level, level + offset, level - offset), strict=False):
            near = (values - at).abs() <= torch.finfo(torch.float32).eps * (ROUNDINGS * (largest + abs(at)) + moved)
            allowed.append(near)
            same &= bool((count[n] - right[n]).abs() <= near.sum())
        differing = masks[n] != (values > level)
        same &= not bool((differing & ~allowed[0]).any())
        same &= bool(allowed[0].any()) or torch.equal(boxes[n], expected.boxes[n])
        decided += int(differing.sum())
    return {"wrong": int(not same), "pixels": masks.numel(), "decided by rounding": decided}


def frame(most: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, on: torch.device) -> Draw:
    """Logits of several objects on a frame, with ties and NaN."""
    N, H, W = (integer(low, high, generator) for low, high in ((2, 12), (1, most[1]), (1, most[1])))
    logits = torch.randn(N, 1, H, W, generator=generator) * 12
    if integer(0, 1, generator):
        logits = logits.round()
        logits.view(-1)[::5] = torch.nan
    given = logits.to(on, dtype)
    judge = equal_to(suppress_overlaps_reference(given).nan_to_num(1e4))
    return Draw(lambda _: suppress_overlaps(given).nan_to_num(1e4), judge=judge)


def probabilities(most: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator, on: torch.device) -> Draw:
    """The most masks, the longest side of logits, and that of the result."""
    N, h, w, H, W = sizes((*most[:2], *most[1:], most[2]), generator)
    logits = random(N, 1, h, w, device=on, seed=integer(0, 2**31, generator)) * 8
    wide = F.interpolate(logits.double(), (H, W), mode="bilinear", align_corners=False)
    given = logits, (H, W), 1.0, -0.5, dtype
    shape = f"{N}x{h}x{w} to {H}x{W}"
    return Draw(
        lambda _: scaled_probabilities(*given), shape, wide.sigmoid() - 0.5, scaled_probabilities_reference(*given)
    )


LARGEST = (8, 300, 1100)


def past_31_bits(size: tuple[int, int]) -> tuple[int, list[int]]:
    """So many masks that their pixels pass 2**31; the first and the last of them, and a few that lie between."""
    count = 2**31 // math.prod(size) + 8
    return count, [0, 1, count // 2, count - 2, count - 1]


def many_are_right(device: torch.device) -> bool:
    size, (count, some) = PHOTOGRAPH, past_31_bits(PHOTOGRAPH)
    logits = torch.full((count, 64, 64), -5.0, device=device)
    logits[some] = random(len(some), 64, 64, device=device)
    with backend("triton"):
        masks, packed = upsample_and_threshold(logits, size), upsample_and_pack(logits, size)
        statistics = mask_statistics(logits, size)
        few = upsample_and_threshold(logits[some], size)
        right = torch.equal(masks[some], few) and torch.equal(packed[some], upsample_and_pack(logits[some], size))
        right &= torch.equal(statistics.area[some], few.sum((1, 2), dtype=torch.int32))
        right &= int(statistics.area.sum()) == int(few.sum())
        right &= torch.equal(pack_masks(masks), packed) and torch.equal(unpack_masks(packed, size[1]), masks)
    return bool(right)


PLANS = Plan(60, (20, 300, 2000)), Plan(12, (20, 300, 2000)), Plan(6, (3, 20, 60)), Plan(1, (3, 20, 60))
OPS = ("mask_statistics", "upsample_and_threshold", "upsample_and_pack", "pack_masks", "unpack_masks")
LAUNCHERS = [f"mask_ops.launch.{op}_triton" for op in (*OPS, "suppress_overlaps")]


def launched() -> Iterator[Call]:
    """Logits upsampled and copied, bits and overlaps."""
    for dtype, low in itertools.product(FLOATS, ((256, 256), FULL_HD)):
        logits = meta(1, *low, dtype=dtype)
        yield Call("mask_statistics", (logits, FULL_HD, 0.0, 1.0), name_of(dtype))
        yield Call("upsample_and_threshold", (logits, FULL_HD, 0.0), name_of(dtype))
        yield Call("scaled_probabilities", (logits, FULL_HD, 20.0, -10.0, dtype), name_of(dtype))
        yield Call("upsample_and_pack", (logits, FULL_HD, 0.0), name_of(dtype), "pack")
        yield Call("suppress_overlaps", (meta(3, 1, *low, dtype=dtype),), name_of(dtype), "overlaps")
    yield Call("pack_masks", (meta(3, *FULL_HD, dtype=torch.bool),), "uint8", "bits")
    yield Call("unpack_masks", (meta(3, 1080, 240, dtype=torch.uint8), 1920), "uint8", "bits")


RECORD = Record(
    # A click's mask, a choice of three, and masks by the dozen; the most of them are for GPUs.
    cases=[
        *(
            statistics_case(*each)
            for each in ((1, PHOTOGRAPH), (3, PHOTOGRAPH), (64, PHOTOGRAPH), (64, SQUARE), (256, SQUARE, "cuda"),
                         (256, PHOTOGRAPH, "cuda"))
        ),
        *(
            threshold_case(count, size, packed, device)
            for count, size, device in ((1, PHOTOGRAPH, ""), (3, PHOTOGRAPH, ""), (64, SQUARE, ""),
                                        (256, SQUARE, "cuda"))
            for packed in (False, True)
        ),
        *(probabilities_case(count, SQUARE, torch.bfloat16) for count in (1, 4, 16)),
        *(bits_case(64, SQUARE, packing) for packing in (True, False)),
        *(overlaps_case(objects, SQUARE) for objects in (3, 16)),
        overlaps_case(3, SQUARE, torch.bfloat16),
    ],
    small=[
        statistics_case(1, SMALL),
        *(threshold_case(1, SMALL, packed) for packed in (False, True)),
        probabilities_case(1, SMALL, torch.float32),
        *(bits_case(1, SMALL, packing) for packing in (True, False)),
        overlaps_case(3, SMALL),
    ],
    searches=[
        mask_search(ANY, ("mask_statistics", "upsample_and_threshold"), (64, 128, 256)),
        mask_search("pack", ("upsample_and_pack",), (16, 32, 64)),
        mask_search("bits", ("pack_masks", "unpack_masks"), (32, 64, 128)),
        search("mask_ops", "BLOCK num_warps num_stages", itertools.product((256, 512, 1024), (4, 8), (1,)),
               shape="overlaps", cases=("suppress_overlaps",)),
    ],
    work=lines,
    samples={
        "mask_statistics": Sample(mask_statistics, lambda: (small((2, 12, 20)), (32, 50)), "mask_statistics"),
        **{
            function.__name__: Sample(function, lambda: (small((2, 12, 20)), (32, 50), 0.3), function.__name__)
            for function in (upsample_and_threshold, upsample_and_pack)
        },
        "scaled_probabilities": Sample(
            scaled_probabilities,
            lambda: (small((2, 1, 12, 20)), (32, 50), 20.0, -10.0),
            "scaled_probabilities",
            has_gradient=True,
        ),
        "pack_masks": Sample(pack_masks, lambda: (small((2, 12, 20)) > 0,), "pack_masks"),
        "unpack_masks": Sample(
            unpack_masks, lambda: (pack_masks_reference(small((2, 12, 20)) > 0), 20), "unpack_masks"
        ),
        "suppress_overlaps": Sample(
            suppress_overlaps, lambda: (small((3, 1, 8, 12)) * 12,), "suppress_overlaps", has_gradient=True
        ),
    },
    launched=launched,
    parity={
        "mask_ops": simple_check(
            draw, *PLANS, ops=OPS, launchers=[*LAUNCHERS[:-1], LAUNCHERS[0] + ":1"], is_exact=True, many=many_are_right
        ),
        "scaled_probabilities": simple_check(
            probabilities,
            *(Plan(40, LARGEST), Plan(10, LARGEST), Plan(4, (3, 40, 90)), Plan(2, (2, 12, 40))),
            launchers=["mask_ops.launch.scaled_probabilities_triton"],
            ops=("scaled_probabilities",),
        ),
        "suppress_overlaps": simple_check(
            frame, *PLANS, ops=("suppress_overlaps",), launchers=LAUNCHERS[-1:], is_exact=True
        ),
    },
)  # fmt: skip

if __name__ == "__main__":
    from one_op import main

    main(RECORD)
