"""Run lengths as torch operators: one node in a graph; the implementation is chosen when it runs.

The number of runs depends on the masks. In a graph it is an unbacked size.
"""

from typing import List  # noqa: UP035  (what the oldest supported torch reads in a schema)

import torch
from torch import Tensor

from sam2fast.kernels._dispatch import FLOATS, use_triton
from sam2fast.kernels._operators import register_operator
from sam2fast.kernels.run_lengths.cpu import decode_masks_cpu, encode_masks_cpu, encode_upsampled_cpu
from sam2fast.kernels.run_lengths.reference import (
    Placement,
    RunLengths,
    decode_masks_reference,
    encode_masks_reference,
    encode_upsampled_reference,
)


@register_operator("sam2fast::encode_masks")
def encode_masks_operator(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Counts and offsets."""
    if use_triton("run_lengths", masks):
        from sam2fast.kernels.run_lengths.kernel import encode_masks_triton

        runs = encode_masks_triton(masks)
    else:
        runs = encode_masks_cpu(masks) if masks.is_cpu else encode_masks_reference(masks)
    return runs.counts, runs.offsets


@register_operator("sam2fast::encode_upsampled")
def encode_upsampled_operator(
    logits: Tensor,
    size: List[int],  # noqa: UP006
    threshold: float,
    origin: List[int],  # noqa: UP006
    canvas: List[int],  # noqa: UP006
) -> tuple[Tensor, Tensor]:
    """Counts and offsets."""
    placement, sides = Placement((origin[0], origin[1]), (canvas[0], canvas[1])), (size[0], size[1])
    reason = None if logits.dtype in FLOATS else f"does not take {logits.dtype}"
    if use_triton("run_lengths", logits, unsupported_reason=reason):
        from sam2fast.kernels.run_lengths.kernel import encode_upsampled_triton

        runs = encode_upsampled_triton(logits, sides, threshold, placement)
    else:
        encode = encode_upsampled_cpu if logits.is_cpu else encode_upsampled_reference
        runs = encode(logits.detach(), sides, threshold, placement)
    return runs.counts, runs.offsets


@register_operator("sam2fast::decode_masks")
def decode_masks_operator(counts: Tensor, offsets: Tensor, height: int, width: int) -> Tensor:
    """Counts, int32, and where those of each mask begin, int64 ``(N + 1)``, to bool ``(N, height, width)``."""
    runs = RunLengths(counts, offsets, (height, width))
    if use_triton("run_lengths", counts, offsets):
        from sam2fast.kernels.run_lengths.kernel import decode_masks_triton

        return decode_masks_triton(runs)
    return decode_masks_cpu(runs) if counts.is_cpu else decode_masks_reference(runs)


@encode_masks_operator.register_fake
def _(masks: Tensor) -> tuple[Tensor, Tensor]:
    return _of_unknown_length(masks)


@encode_upsampled_operator.register_fake
def _(
    logits: Tensor,
    size: List[int],  # noqa: UP006
    threshold: float,
    origin: List[int],  # noqa: UP006
    canvas: List[int],  # noqa: UP006
) -> tuple[Tensor, Tensor]:
    return _of_unknown_length(logits)


@decode_masks_operator.register_fake
def _(counts: Tensor, offsets: Tensor, height: int, width: int) -> Tensor:
    return counts.new_empty(offsets.shape[0] - 1, height, width, dtype=torch.bool)


def _of_unknown_length(masks: Tensor) -> tuple[Tensor, Tensor]:
    total = torch.library.get_ctx().new_dynamic_size()
    return masks.new_empty(total, dtype=torch.int32), masks.new_empty(masks.shape[0] + 1, dtype=torch.int64)
