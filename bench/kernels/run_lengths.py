"""Run lengths of masks, beside the official implementation."""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # bench/, where a script's imports are

import torch
import torch.nn.functional as F
from backend_calls import ours
from inputs import FULL_HD, meta, random, small
from kernel_records.mask_ops import BLEND, PHOTOGRAPH, READ, SMALL, mask_logits, of_upsampled, past_31_bits, upsampled
from parity_rows import EXACT, Check, Draw, Plan, equal_to, integer, name_of, simple_check, sizes
from registry import Call, Calls, Case, Record, Sample, Search, Work, search
from torch import Tensor

from sam2fast.kernels._dispatch import FLOATS, backend
from sam2fast.kernels._launch import ANY
from sam2fast.kernels.mask_ops import upsample_and_threshold
from sam2fast.kernels.run_lengths import (
    RunLengths,
    decode_masks,
    decode_masks_reference,
    encode_masks,
    encode_masks_reference,
    encode_upsampled,
)

RUNS = 1000  # of a mask, for the table of work


def run_lengths_one_by_one(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Counts and offsets as the official package finds them: all changes together, then the runs of each mask."""
    N, H, W = masks.shape
    columns = masks.permute(0, 2, 1).flatten(1)
    changes = (columns[:, 1:] ^ columns[:, :-1]).nonzero()
    counts = []
    for n in range(N):
        places = changes[changes[:, 0] == n, 1] + 1
        lengths = torch.cat([places.new_zeros(1), places, places.new_full((1,), H * W)]).diff().tolist()
        counts.append([0, *lengths] if columns[n, 0] else lengths)
    offsets = torch.tensor([0, *map(len, counts)]).cumsum(0)
    return torch.tensor([length for each in counts for length in each], dtype=torch.int32), offsets


def encode_case(count: int, size: tuple[int, int], device: str = "") -> Case:
    def prepare(on: torch.device) -> Calls:
        masks = upsample_and_threshold(mask_logits(count, on), size)
        return {
            "one by one": lambda: run_lengths_one_by_one(masks),
            "reference": lambda: encode_masks_reference(masks)[:2],
            **ours(lambda: encode_masks(masks)[:2], on),
        }

    done = Work(count * size[0] * size[1])
    return Case("encode_masks", f"{count}x{size[0]}x{size[1]}", "bool", prepare, done, device=device)


def encode_upsampled_case(count: int, size: tuple[int, int], device: str = "") -> Case:
    def prepare(on: torch.device) -> Calls:
        logits = mask_logits(count, on)
        return {
            "full-size logits, one by one": lambda: run_lengths_one_by_one(upsampled(logits, size) > 0),
            **ours(lambda: encode_upsampled(logits, size)[:2], on),
        }

    shape, done = of_upsampled(count, size), Work(READ * count)
    return Case("encode_upsampled", shape, "float32", prepare, done, device=device, launch="upsampled")


def decode_case(count: int, size: tuple[int, int]) -> Case:
    def prepare(on: torch.device) -> Calls:
        counts, offsets, _ = encode_masks_reference(upsample_and_threshold(mask_logits(count, on), size))
        runs = RunLengths(counts, offsets, size)
        return {"reference": lambda: decode_masks_reference(runs), **ours(lambda: decode_masks(runs), on)}

    shape, done = f"{count}x{size[0]}x{size[1]}", Work(count * size[0] * size[1])
    return Case("decode_masks", shape, "int32", prepare, done, launch="decode")


def encode_work(masks: int, height: int, width: int, runs: int) -> Work:
    """Pixels read in both passes; of columns and runs what :func:`_of_lists` says."""
    return Work(2.0 * masks * height * width + _of_lists(masks * width, runs))


def upsampled_work(masks: int, height: int, width: int, runs: int) -> Work:
    """Each pixel interpolated in both passes, and there twice: also as the one before its neighbour."""
    return Work(2 * READ * masks + _of_lists(masks * width, runs), vector=4 * (BLEND + 1) * masks * height * width)


def _of_lists(columns: int, runs: int) -> float:
    """Bytes: a column's changes written, summed up (read 4, written 8) and both read again; where a run begins written,
    moved by one (8), and taken from the next (12)."""
    return 28.0 * columns + 24.0 * runs


def lines() -> Iterable[tuple[str, str, Work]]:
    for masks in (1, 64, 256):
        shape, runs = f"{masks} × {FULL_HD[0]} × {FULL_HD[1]}, {RUNS:,} runs each", RUNS * masks
        yield f"`encode_masks`, {shape}", "bf16", encode_work(masks, *FULL_HD, runs)
        yield f"`encode_upsampled`, {shape}", "bf16", upsampled_work(masks, *FULL_HD, runs)


def runs_search(shape: str, op: str, most: int) -> Search:
    """``most``: pixels of a thread."""
    fitting = (
        (y, x, warps)
        for y, x, warps in itertools.product((8, 16, 32, 64), (32, 64, 128), (2, 4, 8))
        if 2 <= y * x // (32 * warps) <= most and (shape, y, x, warps) != ("upsampled", 16, 128, 8)  # which spills
    )
    return search("run_lengths", "BLOCK_Y BLOCK_X num_warps", fitting, shape=shape, cases=(op,))


def random_masks(count: int, side: int, generator: torch.Generator) -> Tensor:
    """Noise of any density or blobs, of any size, on the host."""
    H, W = (integer(1, side, generator) for _ in range(2))
    seed, smooth = integer(0, 2**31, generator), integer(0, 1, generator)
    noise = random(count, H + 6, W + 6, device=torch.device("cpu"), seed=seed)
    values = F.avg_pool2d(noise, 7, stride=1) * 7 if smooth else noise[:, 6:, 6:]
    return values > 2 * float(torch.randn((), generator=generator))


def encoded(most: tuple[int, ...], _: None, generator: torch.Generator, device: torch.device) -> Draw:
    masks = random_masks(integer(1, most[0], generator), most[1], generator)
    return Draw(lambda _: encode_masks(masks.to(device)), judge=equal_to(encode_masks(masks)))


def decoded(most: tuple[int, ...], _: None, generator: torch.Generator, device: torch.device) -> Draw:
    masks = random_masks(integer(1, most[0], generator), most[1], generator)
    counts, offsets, size = encode_masks(masks)
    given = RunLengths(counts.to(device), offsets.to(device), size)
    return Draw(lambda _: decode_masks(given), judge=equal_to(masks))


def encoded_upsampled(most: tuple[int, ...], _: None, generator: torch.Generator, device: torch.device) -> Draw:
    """As the kernel that upsamples and compares has it, which is compared with torch elsewhere."""
    count, h, w, H, W = sizes((most[0], *2 * [min(300, most[1])], *2 * [most[1]]), generator)
    # At the borders as often as not.
    above, below, left, right = (integer(0, 1, generator) * integer(1, 99, generator) for _ in range(4))
    logits = random(count, h, w, device=device, seed=integer(0, 2**31, generator))
    if integer(0, 3, generator) == 0:
        logits.view(-1)[:: integer(2, 99, generator)] = torch.nan
    canvas = torch.zeros(count, above + H + below, left + W + right, dtype=torch.bool, device=device)
    with backend("triton"):
        canvas[:, above : above + H, left : left + W] = upsample_and_threshold(logits, (H, W), 0.3)
    given = logits, (H, W), 0.3, (above, left), (canvas.shape[1], canvas.shape[2])
    return Draw(lambda _: encode_upsampled(*given), judge=equal_to(encode_masks(canvas.cpu())))


def many_are_right(device: torch.device) -> bool:
    count, some = past_31_bits(PHOTOGRAPH)
    masks = torch.zeros(count, *PHOTOGRAPH, dtype=torch.bool, device=device)
    masks[some] = random(len(some), *PHOTOGRAPH, device=device) > 1
    with backend("triton"):
        few, all_runs = encode_masks(masks[some]), encode_masks(masks)
        back = torch.equal(decode_masks(all_runs), masks)
    runs = torch.ones(count, dtype=torch.int64, device=device)
    runs[some] = few.offsets.diff()
    pieces = [all_runs.counts[all_runs.offsets[n] : all_runs.offsets[n + 1]] for n in some]
    return back and torch.equal(all_runs.offsets.diff(), runs) and torch.equal(torch.cat(pieces), few.counts)


def parity_check(draw: Callable[..., Draw], launcher: str) -> Check:
    plans = Plan(200, (20, 1500)), Plan(30, (20, 1500)), Plan(4, (3, 50)), Plan(2, (2, 25))
    return simple_check(draw, *plans, launchers=[f"run_lengths_triton.{launcher}_triton"], **EXACT)


def launched() -> Iterator[Call]:
    """Masks as high as the canvas; logits upsampled and copied, as high as the canvas and lower; decoding."""
    yield Call("encode_masks", (meta(1, *FULL_HD, dtype=torch.bool),), "uint8")
    for dtype, low, canvas in itertools.product(FLOATS, ((256, 256), FULL_HD), (FULL_HD, (2160, 3840))):
        given = meta(1, *low, dtype=dtype), FULL_HD, 0.0, (0, 0), canvas
        yield Call("encode_upsampled", given, name_of(dtype), "upsampled")
    yield Call("decode_masks", (meta(16, dtype=torch.int32), meta(2, dtype=torch.int64), *FULL_HD), "uint8", "decode")


RECORD = Record(
    # The masks of a photograph by the dozen; cases that take the official package seconds are for GPUs.
    cases=[
        *(
            make(count, PHOTOGRAPH, device)
            for count, device in ((1, ""), (64, ""), (256, "cuda"))
            for make in (encode_case, encode_upsampled_case)
        ),
        decode_case(64, PHOTOGRAPH),
    ],
    small=[encode_case(1, SMALL), encode_upsampled_case(1, SMALL), decode_case(1, SMALL)],
    searches=[
        runs_search(ANY, "encode_masks", 32),
        runs_search("upsampled", "encode_upsampled", 8),
        search("run_lengths", "BLOCK num_warps", itertools.product((256, 512, 1024), (4, 8)), shape="decode",
               cases=("decode_masks",)),
    ],
    work=lines,
    samples={
        "encode_masks": Sample(
            encode_masks, lambda: (small((2, 9, 14)) > 0,), "run_lengths", "encode_masks"
        ),
        "encode_upsampled": Sample(
            encode_upsampled,
            lambda: ((small((2, 8, 12)) * 3).round(), (16, 24), 0.25, (1, 2), (30, 40)),
            "run_lengths",
            "encode_upsampled",
        ),
        "decode_masks": Sample(
            decode_masks, lambda: (encode_masks_reference(small((2, 9, 14)) > 0),), "run_lengths", "decode_masks", 0
        ),
    },
    launched=launched,
    parity={
        "encode_masks": parity_check(encoded, "encode_masks")._replace(many=many_are_right),
        "decode_masks": parity_check(decoded, "decode_masks"),
        "encode_upsampled": parity_check(encoded_upsampled, "encode_upsampled"),
    },
)  # fmt: skip

if __name__ == "__main__":
    from one_op import main

    main(RECORD)
