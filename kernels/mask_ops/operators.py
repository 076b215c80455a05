"""The mask ops as torch operators: one node in a graph each."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sam2fast.kernels._dispatch import FLOATS, why_no_scans
from sam2fast.kernels._op import Op
from sam2fast.kernels.mask_ops.reference import (
    counts_and_boxes,
    fill_holes_in_mask_scores_reference,
    pack_masks_reference,
    scaled_probabilities_reference,
    suppress_overlaps_reference,
    unpack_masks_reference,
    upsample_and_pack_reference,
    upsample_and_threshold_reference,
)

Size = tuple[int, int]


def _unsupported(logits: Tensor, *_: object) -> str | None:
    return None if logits.dtype in FLOATS else f"does not take {logits.dtype}"


def _late(name: str, reference: Callable[..., Any], fake: Callable[..., Any], **others: Any) -> Op:
    return Op(name, reference, f"mask_ops.launch.{name}_triton", fake=fake, is_chosen_late=True, **others)


def _fake_logits(logits: Tensor, *_: object) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _fake_statistics(logits: Tensor, size: Size, threshold: float, offset: float) -> tuple[Tensor, Tensor]:
    N = logits.shape[0]
    return logits.new_empty(3, N, dtype=torch.int32), logits.new_empty(N, 4, dtype=torch.int32)


def _fake_masks(logits: Tensor, size: Size, threshold: float) -> Tensor:
    return logits.new_empty(*logits.shape[:-2], *size, dtype=torch.bool)


def _fake_bits(logits: Tensor, size: Size, threshold: float) -> Tensor:
    return logits.new_empty(*logits.shape[:-2], size[0], (size[1] + 7) // 8, dtype=torch.uint8)


def _fake_packed(masks: Tensor) -> Tensor:
    return masks.new_empty(*masks.shape[:-1], (masks.shape[-1] + 7) // 8, dtype=torch.uint8)


def _fake_unpacked(packed: Tensor, width: int) -> Tensor:
    return packed.new_empty(*packed.shape[:-1], width, dtype=torch.bool)


mask_statistics_op = _late(
    "mask_statistics",
    counts_and_boxes,
    _fake_statistics,
    cpu="mask_ops.cpu.mask_statistics_cpu",
    unsupported=_unsupported,
)
upsample_and_threshold_op = _late(
    "upsample_and_threshold",
    upsample_and_threshold_reference,
    _fake_masks,
    cpu="mask_ops.sparse_upsampling.upsample_and_threshold_cpu",
    unsupported=_unsupported,
)
upsample_and_pack_op = _late(
    "upsample_and_pack",
    upsample_and_pack_reference,
    _fake_bits,
    cpu="mask_ops.sparse_upsampling.upsample_and_pack_cpu",
    unsupported=_unsupported,
)
pack_masks_op = _late("pack_masks", pack_masks_reference, _fake_packed)
unpack_masks_op = _late("unpack_masks", unpack_masks_reference, _fake_unpacked)
scaled_probabilities_op = Op(
    "scaled_probabilities",
    scaled_probabilities_reference,
    "mask_ops.launch.scaled_probabilities_triton",
    unsupported=_unsupported,
)
suppress_overlaps_op = Op(
    "suppress_overlaps",
    suppress_overlaps_reference,
    "mask_ops.launch.suppress_overlaps_triton",
    unsupported=_unsupported,
    fake=_fake_logits,
)
fill_holes_in_mask_scores_op = Op(
    "fill_holes_in_mask_scores",
    fill_holes_in_mask_scores_reference,
    "connected_components_triton.fill_holes_triton",
    unsupported=lambda logits, max_area: _unsupported(logits) or why_no_scans(),
    fake=_fake_logits,
)
