"""A small case of each search of ``tune.py``, for a rehearsal in Triton's interpreter."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from attention import rope_ways, rotated_before
from encoder_ops import MEAN, STD, layer_norm_case, linear_gelu_case
from inputs import blobs, random, rope_tables
from masks import upsampled
from registry import Calls, Case, attention_case, memory_case
from torch import Tensor

from sam2fast.kernels._launch import ANY
from sam2fast.kernels.connected_components import connected_components, connected_components_reference
from sam2fast.kernels.mask_ops import (
    mask_statistics,
    mask_statistics_reference,
    pack_masks,
    pack_masks_reference,
    suppress_overlaps,
    suppress_overlaps_reference,
    upsample_and_pack,
)
from sam2fast.kernels.nms import box_nms, box_nms_reference, mask_nms, mask_nms_reference
from sam2fast.kernels.preprocess import resize_and_normalise, resize_and_normalise_reference
from sam2fast.kernels.run_lengths import (
    RunLengths,
    decode_masks,
    decode_masks_reference,
    encode_masks,
    encode_masks_reference,
    encode_upsampled,
)

SIZE = (20, 24)


def pair(
    op: str, launch: str, inputs: Callable[[torch.device], tuple[Any, ...]], reference: Any, ours: Any, tolerance: float
) -> Case:
    """A case of the reference implementation and of ours, which both take the inputs."""

    def prepare(device: torch.device) -> Calls:
        arguments = inputs(device)
        return {"torch": lambda: reference(*arguments), "sam2fast": lambda: ours(*arguments)}

    return Case(op, "small", "float32", prepare, 0, 0, tolerance, launch=launch)


def self_attention_case(dtype: torch.dtype) -> Case:
    def inputs(device: torch.device) -> list[Tensor]:
        return [random(1, 1, 16, 256, device=device, dtype=dtype, seed=i) for i in range(3)]

    def exact(device: torch.device) -> Tensor:
        return rotated_before(*(x.float() for x in inputs(device)), *rope_tables(4, 256, device))()

    name = str(dtype).removeprefix("torch.")
    return Case("rope_attention", "small", name, lambda on: rope_ways(*inputs(on), *rope_tables(4, 256, on)), 0, 0,
                1e-4 if dtype == torch.float32 else 0.01, None if dtype == torch.float32 else exact,
                launch="256x256")  # fmt: skip


def foreground(device: torch.device) -> tuple[Tensor]:
    return (blobs(2, *SIZE, device)[:, 0] > 0,)


def logits(device: torch.device) -> tuple[Tensor, tuple[int, int]]:
    return blobs(2, 10, 12, device)[:, 0], SIZE


def runs(device: torch.device) -> tuple[RunLengths]:
    counts, offsets, _ = encode_masks_reference(*foreground(device))
    return (RunLengths(counts, offsets, SIZE),)


def boxes(device: torch.device) -> tuple[Tensor, Tensor, float]:
    corners = random(12, 2, device=device) * 3
    return torch.cat([corners, corners + 5], 1), random(12, device=device, seed=1).sigmoid(), 0.5


def scored_masks(device: torch.device) -> tuple[Tensor, Tensor, float]:
    return *foreground(device), random(2, device=device, seed=1).sigmoid(), 0.5


def frames(device: torch.device) -> tuple[Any, ...]:
    pixels = (random(1, *SIZE, 3, device=device).abs() * 90).clamp(max=255).to(torch.uint8)
    return pixels, (16, 16), MEAN, STD, 255.0


def statistics(found: Any) -> list[Tensor]:
    return [found.above, found.below, found.boxes]


def small_cases() -> Iterator[Case]:
    for dtype in (torch.bfloat16, torch.float32):
        yield memory_case(1, 1, dtype, side=4)
        yield self_attention_case(dtype)
        yield memory_case(1, 1, dtype, side=4, d=128)
        for window in (4, 0):
            yield attention_case(8, window, 2, 16, dtype)
        yield linear_gelu_case(40, 32, 64, dtype)
    yield layer_norm_case(16, 96, torch.float32)
    yield pair("preprocess", ANY, frames, resize_and_normalise_reference, resize_and_normalise, 1e-5)
    components = connected_components_reference, connected_components
    yield pair("connected_components", ANY, lambda on: (foreground(on)[0][:, None],), *components, 0)
    yield pair("mask_statistics", ANY, lambda on: (*logits(on), 0.0, 1.0),
               lambda *arguments: statistics(mask_statistics_reference(*arguments)),
               lambda *arguments: statistics(mask_statistics(*arguments)), 0)  # fmt: skip
    yield pair("upsample_and_pack", "pack", logits,
               lambda x, size: pack_masks_reference(upsampled(x, size) > 0), upsample_and_pack, 0)  # fmt: skip
    yield pair("pack_masks", "bits", foreground, pack_masks_reference, pack_masks, 0)
    yield pair("suppress_overlaps", "overlaps", lambda on: (blobs(2, *SIZE, on),),
               suppress_overlaps_reference, suppress_overlaps, 0)  # fmt: skip
    yield pair(
        "encode_masks", ANY, foreground, lambda x: encode_masks_reference(x)[:2], lambda x: encode_masks(x)[:2], 0
    )
    yield pair("encode_upsampled", "upsampled", logits,
               lambda x, size: encode_masks_reference(upsampled(x, size) > 0)[:2],
               lambda x, size: encode_upsampled(x, size)[:2], 0)  # fmt: skip
    yield pair("decode_masks", "decode", runs, decode_masks_reference, decode_masks, 0)
    yield pair("box_nms", ANY, boxes, box_nms_reference, box_nms, 0)
    yield pair("mask_nms", "masks", scored_masks, mask_nms_reference, mask_nms, 0)
