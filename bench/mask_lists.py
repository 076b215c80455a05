"""What is measured of lists of masks: run lengths and non-maximum suppression, beside the ways that torch has."""

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
from backend_calls import may_refuse, ours
from inputs import random
from masks import PHOTOGRAPH, mask_logits, upsampled
from registry import Calls, Case
from torch import Tensor

from sam2fast.kernels._launch import ANY
from sam2fast.kernels.mask_ops import upsample_and_threshold
from sam2fast.kernels.nms import box_nms, box_nms_reference, mask_nms, mask_nms_reference
from sam2fast.kernels.run_lengths import (
    RunLengths,
    decode_masks,
    decode_masks_reference,
    encode_masks,
    encode_masks_reference,
    encode_upsampled,
)

LOW = (256, 256)


def run_lengths_one_by_one(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Counts and offsets as the original finds them: all changes together, then the runs of each mask."""
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

    return _case(
        "encode_masks", f"{count}x{size[0]}x{size[1]}", "bool", prepare, count * size[0] * size[1], ANY, device
    )


def encode_upsampled_case(count: int, size: tuple[int, int], device: str = "") -> Case:
    def prepare(on: torch.device) -> Calls:
        logits = mask_logits(count, on)
        return {
            "full-size logits, one by one": lambda: run_lengths_one_by_one(upsampled(logits, size) > 0),
            **ours(lambda: encode_upsampled(logits, size)[:2], on),
        }

    shape = f"{count}x{LOW[0]}x{LOW[1]} to {size[0]}x{size[1]}"
    read = 4 * count * LOW[0] * LOW[1]
    return _case("encode_upsampled", shape, "float32", prepare, read, "upsampled", device)


def decode_case(count: int, size: tuple[int, int]) -> Case:
    def prepare(on: torch.device) -> Calls:
        counts, offsets, _ = encode_masks_reference(upsample_and_threshold(mask_logits(count, on), size))
        runs = RunLengths(counts, offsets, size)
        return {"reference": lambda: decode_masks_reference(runs), **ours(lambda: decode_masks(runs), on)}

    shape = f"{count}x{size[0]}x{size[1]}"
    return _case("decode_masks", shape, "int32", prepare, count * size[0] * size[1], "decode", "")


def crowd(count: int, clusters: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Boxes of a photograph, in clusters that are nearly one box, and scores."""
    size = torch.tensor([PHOTOGRAPH[1], PHOTOGRAPH[0]])
    corner, sides = (random(clusters, 2, device=torch.device("cpu"), seed=i).sigmoid() for i in (0, 1))
    chosen = torch.randint(clusters, (count,), generator=torch.Generator().manual_seed(2))
    jitter = random(count, 4, device=torch.device("cpu"), seed=3) * 4
    boxes = torch.cat([corner * size, corner * size + sides * 300 + 10], 1)[chosen] + jitter
    return boxes.to(device), random(count, device=device, seed=4).sigmoid()


def box_nms_case(count: int, clusters: int) -> Case:
    def prepare(on: torch.device) -> Calls:
        boxes, scores = crowd(count, clusters, on)
        calls: dict[str, Callable[[], Any]] = {"reference": lambda: box_nms_reference(boxes, scores, 0.7)}
        if importlib.util.find_spec("torchvision"):
            calls["torchvision"] = may_refuse(lambda: _torchvision_nms(boxes, scores))
        return calls | ours(lambda: box_nms(boxes, scores, 0.7), on)

    return _case("box_nms", f"{count} boxes, {clusters} clusters", "float32", prepare, 20 * count, ANY, "")


def _torchvision_nms(boxes: Tensor, scores: Tensor) -> Tensor:
    from torchvision.ops import nms

    return nms(boxes, scores, 0.7)  # type: ignore[no-any-return]


def mask_nms_case(count: int, distinct: int) -> Case:
    def prepare(on: torch.device) -> Calls:
        chosen = torch.randint(distinct, (count,), generator=torch.Generator().manual_seed(0)).to(on)
        masks = mask_logits(distinct, on)[chosen] + random(count, 1, 1, device=on, seed=1) > 0
        scores = random(count, device=on, seed=2).sigmoid()
        reference = {"reference": lambda: mask_nms_reference(masks, scores, 0.7)}
        return reference | ours(lambda: mask_nms(masks, scores, 0.7), on)

    pixels = count * LOW[0] * LOW[1]
    return _case("mask_nms", f"{count}x{LOW[0]}x{LOW[1]}, {distinct} distinct", "bool", prepare, pixels, "masks", "")


def _case(
    op: str,
    shape: str,
    dtype: str,
    prepare: Callable[[torch.device], Calls],
    size: float,
    launch: str,
    device: str,
) -> Case:
    return Case(op, shape, dtype, prepare, 0, size, tolerance=0, device=device, launch=launch)


def mask_list_cases() -> Iterator[Case]:
    """The masks of a photograph by the dozen; what takes the original's way seconds is for GPUs."""
    for count, device in ((1, ""), (64, ""), (256, "cuda")):
        yield encode_case(count, PHOTOGRAPH, device)
        yield encode_upsampled_case(count, PHOTOGRAPH, device)
    yield decode_case(64, PHOTOGRAPH)
    for count, clusters in ((300, 60), (3000, 300), (10_000, 1000)):
        yield box_nms_case(count, clusters)
    for count, distinct in ((64, 16), (512, 64)):
        yield mask_nms_case(count, distinct)
