"""Defines the reference implementations of the mask ops, and the operators."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.kernels._dispatch import FLOATS, why_no_scans
from sam2fast.kernels._op import Op
from sam2fast.kernels.connected_components import connected_components

# Distance of a filled hole or a removed sprinkle from the threshold, in logits (the original's constant).
MARGIN = 10.0
# Logit of a filled hole in the video predictor.
FILLED_IN_VIDEO = 0.1
# Upper limit of an overlapped object's logits.
SUPPRESSED = -10.0
# Maximum pixels of upsampled logits held at once; at least one mask is held. On the CPU they fit the cache. On other
# devices fewer masks at a time would need many more operations.
PIXELS, PIXELS_ON_CPU = 2**24, 2**20


class MaskStatistics(NamedTuple):
    """Stores counts and boxes of N masks at full size, all int32. A box contains the pixels counted in ``area``."""

    area: torch.Tensor  # (N) pixels above the threshold
    above: torch.Tensor  # (N) pixels above threshold + offset
    below: torch.Tensor  # (N) pixels above threshold - offset
    boxes: torch.Tensor  # (N, 4) inclusive XYXY; (W, H, -1, -1) for an empty mask


def fill_holes_and_remove_sprinkles_reference(
    logits: torch.Tensor, threshold: float, max_hole_area: float, max_sprinkle_area: float
) -> torch.Tensor:
    """Reference implementation of :func:`fill_holes_and_remove_sprinkles`: replaces components up to these areas."""
    flat = logits.flatten(0, 1).unsqueeze(1)  # (N·C, 1, H, W)
    out = flat
    if max_hole_area > 0:
        out = torch.where(_small_components(flat <= threshold, max_hole_area), threshold + MARGIN, out)
    if max_sprinkle_area > 0:
        out = torch.where(_small_components(flat > threshold, max_sprinkle_area), threshold - MARGIN, out)
    return out.view_as(logits)


def fill_holes_in_mask_scores_reference(logits: torch.Tensor, max_area: float) -> torch.Tensor:
    """Reference implementation of :func:`fill_holes_in_mask_scores`: replaces components up to this area."""
    return torch.where(_small_components(logits <= 0, max_area), FILLED_IN_VIDEO, logits)


def _small_components(mask: torch.Tensor, max_area: float) -> torch.Tensor:
    _, areas = connected_components(mask)
    return mask & (areas <= max_area)


def upsample_masks_reference(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Reference implementation of :func:`upsample_masks`: calls torch's interpolation."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def masks_to_boxes_reference(masks: torch.Tensor) -> torch.Tensor:
    """Reference implementation of :func:`masks_to_boxes`: finds the first and last column and row with a pixel."""
    H, W = masks.shape[-2:]
    x = torch.arange(W, device=masks.device)
    y = torch.arange(H, device=masks.device)
    columns, rows = masks.any(dim=-2), masks.any(dim=-1)  # (..., W), (..., H)
    left, top = torch.where(columns, x, W).amin(-1), torch.where(rows, y, H).amin(-1)
    right, bottom = torch.where(columns, x, -1).amax(-1), torch.where(rows, y, -1).amax(-1)
    return torch.stack([left, top, right, bottom], dim=-1).to(torch.int32)


def mask_statistics_reference(
    logits: torch.Tensor, size: tuple[int, int], threshold: float, offset: float
) -> MaskStatistics:
    """Reference implementation of :func:`mask_statistics`: processes a few masks at a time at full size."""
    N, device = len(logits), logits.device
    counts = torch.empty(3, N, dtype=torch.int32, device=device)
    boxes = torch.empty(N, 4, dtype=torch.int32, device=device)
    for some in _chunks(logits, size):
        values = upsample_masks_reference(logits[some, None].float(), size)[:, 0]
        for count, level in zip(counts, (threshold, threshold + offset, threshold - offset), strict=True):
            count[some] = torch.count_nonzero(values > level, dim=(1, 2))
        boxes[some] = masks_to_boxes_reference(values > threshold)
    return MaskStatistics(counts[0], counts[1], counts[2], boxes)


def counts_and_boxes(
    logits: torch.Tensor, size: tuple[int, int], threshold: float, offset: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the results of :func:`mask_statistics_reference` as tensors ``(3, N)`` and ``(N, 4)``."""
    area, above, below, boxes = mask_statistics_reference(logits, size, threshold, offset)
    return torch.stack([area, above, below]), boxes


def _chunks(logits: torch.Tensor, size: tuple[int, int]) -> list[slice]:
    """Returns the slices of ``logits (N, h, w)`` that are upsampled to ``size`` at once."""
    step = max(1, (PIXELS_ON_CPU if logits.is_cpu else PIXELS) // (size[0] * size[1]))
    return [slice(start, start + step) for start in range(0, len(logits), step)]


def upsample_and_threshold_reference(logits: torch.Tensor, size: tuple[int, int], threshold: float) -> torch.Tensor:
    """Reference implementation of :func:`upsample_and_threshold`: processes a few masks at a time at full size."""
    flat = logits.reshape(-1, *logits.shape[-2:])
    out = torch.empty(len(flat), *size, dtype=torch.bool, device=logits.device)
    for some in _chunks(flat, size):
        torch.gt(upsample_masks_reference(flat[some, None].float(), size)[:, 0], threshold, out=out[some])
    return out.view(*logits.shape[:-2], *size)


def scaled_probabilities_reference(
    logits: torch.Tensor, size: tuple[int, int], scale: float, bias: float, dtype: torch.dtype
) -> torch.Tensor:
    """Reference implementation of :func:`scaled_probabilities`: upsamples, takes the sigmoid, and scales."""
    probabilities = torch.sigmoid(upsample_masks_reference(logits.float(), size))
    # scale * probabilities + bias, as one operation
    return torch.rsub(probabilities, bias, alpha=-scale).to(dtype)


def upsample_and_pack_reference(logits: torch.Tensor, size: tuple[int, int], threshold: float) -> torch.Tensor:
    """Reference implementation of :func:`upsample_and_pack`: computes masks, then packs them."""
    return pack_masks_reference(upsample_and_threshold_reference(logits, size, threshold))


def pack_masks_reference(masks: torch.Tensor) -> torch.Tensor:
    """Reference implementation of :func:`pack_masks`: sums eight shifted bits."""
    bits = F.pad(masks.view(torch.uint8), (0, -masks.shape[-1] % 8)).unflatten(-1, (-1, 8))  # (..., H, W / 8, 8)
    return (bits << torch.arange(8, dtype=torch.uint8, device=masks.device)).sum(-1, dtype=torch.uint8)


def unpack_masks_reference(packed: torch.Tensor, width: int) -> torch.Tensor:
    """Reference implementation of :func:`unpack_masks`: shifts each byte eight times."""
    bits = packed[..., None] >> torch.arange(8, dtype=torch.uint8, device=packed.device) & 1
    return bits.flatten(-2)[..., :width].bool()


def suppress_overlaps_reference(logits: torch.Tensor) -> torch.Tensor:
    """Reference implementation of :func:`suppress_overlaps`: uses the index of the largest logit. It has a gradient."""
    if len(logits) < 2:
        return logits
    owner = logits.argmax(dim=0, keepdim=True)  # the first among equals; NaN counts as the largest
    keep = owner == torch.arange(len(logits), device=logits.device)[:, None, None, None]
    return torch.where(keep, logits, logits.clamp(max=SUPPRESSED))


# ---- operators ----

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
unpack_masks_op = _late("unpack_masks", unpack_masks_reference, _fake_unpacked, cpu="mask_ops.bits.unpack_masks_cpu")
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
