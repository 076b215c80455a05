"""Defines the mask ops and their reference implementations."""

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.kernels._dispatch import why_no_scans
from sam2fast.kernels._op import Op, op, why_unsupported
from sam2fast.kernels.connected_components import connected_components

# Distance from the threshold to the logits of filled holes and removed sprinkles, as in SAM 2.
MARGIN = 10.0
# Logit of filled holes in the video predictor.
FILLED_IN_VIDEO = 0.1
# Upper limit of an object's logits at pixels of other objects.
SUPPRESSED = -10.0
# Maximum number of upsampled pixels in memory at once. A larger mask is upsampled alone. PIXELS_ON_CPU pixels fit the
# CPU's cache. On other devices, smaller chunks would need many more operations.
PIXELS, PIXELS_ON_CPU = 2**24, 2**20


class MaskStatistics(NamedTuple):
    """Stores counts and boxes of N upsampled masks, all int32. A box contains the pixels counted in ``area``."""

    area: Tensor  # (N) pixels above the threshold
    above: Tensor  # (N) pixels above threshold + offset
    below: Tensor  # (N) pixels above threshold - offset
    boxes: Tensor  # (N, 4) XYXY, including the last pixels; (W, H, -1, -1) for an empty mask


# ---- without kernels ----


def upsample_masks(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolates ``logits (N, C, h, w)`` bilinearly (``align_corners=False``) to ``size`` = (height, width)."""
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def masks_to_boxes(masks: Tensor) -> Tensor:
    """Returns boxes ``(..., 4)`` of bool masks ``(..., H, W)``: inclusive XYXY pixels; (W, H, -1, -1) for empty masks.

    Source: ``sam2.utils.misc.mask_to_box``.

    Raises:
        ValueError: If ``masks`` is not bool or has fewer than two dimensions.
    """
    _are_masks(masks)
    H, W = masks.shape[-2:]
    x = torch.arange(W, device=masks.device)
    y = torch.arange(H, device=masks.device)
    columns, rows = masks.any(dim=-2), masks.any(dim=-1)  # (..., W), (..., H)
    left, top = torch.where(columns, x, W).amin(-1), torch.where(rows, y, H).amin(-1)
    right, bottom = torch.where(columns, x, -1).amax(-1), torch.where(rows, y, -1).amax(-1)
    return torch.stack([left, top, right, bottom], dim=-1).to(torch.int32)


def fill_holes_and_remove_sprinkles(
    logits: Tensor, threshold: float = 0.0, max_hole_area: float = 0.0, max_sprinkle_area: float = 0.0
) -> Tensor:
    """Changes small background components to foreground, and small foreground components to background.

    All components are found in the input logits. Filling a hole thus does not enlarge the sprinkle around the hole.

    Args:
        logits: Logits ``(N, C, H, W)`` fp32.
        threshold: Logit above which a pixel is foreground.
        max_hole_area: Largest area in pixels of a background component that is set to ``threshold + 10``. 0 fills no
            holes.
        max_sprinkle_area: Largest area in pixels of a foreground component that is set to ``threshold - 10``. 0 removes
            no sprinkles.

    Returns:
        Logits ``(N, C, H, W)``, or the input itself if both areas are 0 or less.

    Source: ``sam2.utils.transforms.SAM2Transforms.postprocess_masks``, steps 1 and 2.
    """
    if max_hole_area <= 0 and max_sprinkle_area <= 0:
        return logits
    flat = logits.flatten(0, 1).unsqueeze(1)  # (N·C, 1, H, W)
    out = flat
    if max_hole_area > 0:
        out = torch.where(_small_components(flat <= threshold, max_hole_area), threshold + MARGIN, out)
    if max_sprinkle_area > 0:
        out = torch.where(_small_components(flat > threshold, max_sprinkle_area), threshold - MARGIN, out)
    return out.view_as(logits)


def _small_components(mask: Tensor, max_area: float) -> Tensor:
    _, areas = connected_components(mask)
    return mask & (areas <= max_area)


upsample_masks_reference, masks_to_boxes_reference = upsample_masks, masks_to_boxes
fill_holes_and_remove_sprinkles_reference = fill_holes_and_remove_sprinkles

# ---- ops that choose their implementation when they run (is_chosen_late) ----

_late = partial(op, is_chosen_late=True)


def _are_masks(masks: Tensor) -> bool:
    if masks.ndim < 2 or masks.dtype != torch.bool:
        raise ValueError(f"expected bool masks (..., H, W), got {masks.dtype} {tuple(masks.shape)}")
    return True


def is_size(logits: Tensor, size: tuple[int, int], *_: object) -> bool:
    """Checks logits ``(..., h, w)`` and the size (H, W) of masks.

    Raises:
        ValueError: If ``logits`` is not floating-point or has no pixels, or ``size`` is not positive.
    """
    if logits.ndim < 2 or not logits.is_floating_point() or 0 in logits.shape[-2:]:
        raise ValueError(
            f"expected floating logits (..., h, w) of at least one pixel, got {logits.dtype} {tuple(logits.shape)}"
        )
    height, width = size
    if height < 1 or width < 1 or height * width >= 2**31:
        raise ValueError(f"expected a size (H, W) of 1 to 2**31 - 1 pixels, got {tuple(size)}")
    return True


@_late(
    fits=is_size,
    cpu="mask_ops.sparse_upsampling.upsample_and_threshold_cpu",
    unsupported=why_unsupported,
    fake=lambda logits, size, *_: logits.new_empty(*logits.shape[:-2], *size, dtype=torch.bool),
)
def upsample_and_threshold(logits: Tensor, size: tuple[int, int], threshold: float = 0.0) -> Tensor:
    """Returns bool masks ``(..., H, W)``: True if ``logits (..., h, w)``, upsampled to ``size``, exceed the threshold.

    Equals ``upsample_masks(logits.float(), size) > threshold``, but holds only a part of the upsampled logits at once.

    Raises:
        ValueError: If ``logits`` is not floating-point or has no pixels, or ``size`` is not positive.
    """
    flat = logits.reshape(-1, *logits.shape[-2:])
    out = torch.empty(len(flat), *size, dtype=torch.bool, device=logits.device)
    for some in _chunks(flat, size):
        torch.gt(upsample_masks_reference(flat[some, None].float(), size)[:, 0], threshold, out=out[some])
    return out.view(*logits.shape[:-2], *size)


@_late(
    fits=is_size,
    cpu="mask_ops.sparse_upsampling.upsample_and_pack_cpu",
    unsupported=why_unsupported,
    fake=lambda logits, size, *_: logits.new_empty(*logits.shape[:-2], size[0], (size[1] + 7) // 8, dtype=torch.uint8),
)
def upsample_and_pack(logits: Tensor, size: tuple[int, int], threshold: float = 0.0) -> Tensor:
    """Computes ``pack_masks(upsample_and_threshold(logits, size, threshold))`` without holding the masks.

    Returns:
        Packed masks, uint8 ``(..., H, ceil(W / 8))``.

    Raises:
        ValueError: If an argument is invalid, see :func:`upsample_and_threshold`.
    """
    return pack_masks.reference(upsample_and_threshold.reference(logits, size, threshold))


@_late(
    fits=_are_masks,
    fake=lambda masks: masks.new_empty(*masks.shape[:-1], (masks.shape[-1] + 7) // 8, dtype=torch.uint8),
)
def pack_masks(masks: Tensor) -> Tensor:
    """Packs eight pixels per byte: bool masks ``(..., H, W)`` to uint8 ``(..., H, ceil(W / 8))``.

    Equals ``numpy.packbits(masks, axis=-1, bitorder="little")``: the leftmost pixel is the lowest bit, and bits beyond
    the width are 0.

    Raises:
        ValueError: If ``masks`` is not bool or has fewer than two dimensions.
    """
    bits = F.pad(masks.view(torch.uint8), (0, -masks.shape[-1] % 8)).unflatten(-1, (-1, 8))  # (..., H, W / 8, 8)
    return (bits << torch.arange(8, dtype=torch.uint8, device=masks.device)).sum(-1, dtype=torch.uint8)


def _are_packed(packed: Tensor, width: int) -> bool:
    if packed.ndim < 2 or packed.dtype != torch.uint8 or width < 0 or packed.shape[-1] != -(-width // 8):
        shape = f"(..., H, {-(-width // 8)})"
        raise ValueError(f"expected uint8 {shape} for a width of {width}, got {packed.dtype} {tuple(packed.shape)}")
    return True


@_late(
    fits=_are_packed,
    cpu="mask_ops.bits.unpack_masks_cpu",
    fake=lambda packed, width: packed.new_empty(*packed.shape[:-1], width, dtype=torch.bool),
)
def unpack_masks(packed: Tensor, width: int) -> Tensor:
    """Unpacks the result of :func:`pack_masks` to bool masks ``(..., H, width)``.

    Raises:
        ValueError: If ``packed`` is not uint8 ``(..., H, ceil(width / 8))``.
    """
    bits = packed[..., None] >> torch.arange(8, dtype=torch.uint8, device=packed.device) & 1
    return bits.flatten(-2)[..., :width].bool()


def counts_and_boxes(logits: Tensor, size: tuple[int, int], threshold: float, offset: float) -> tuple[Tensor, Tensor]:
    """Returns pixel counts ``(3, N)`` and boxes ``(N, 4)`` for :func:`mask_statistics`.

    Upsamples a few masks at a time.
    """
    counts, boxes = empty_statistics(logits)
    for some in _chunks(logits, size):
        values = upsample_masks_reference(logits[some, None].float(), size)[:, 0]
        for count, level in zip(counts, (threshold, threshold + offset, threshold - offset), strict=True):
            count[some] = torch.count_nonzero(values > level, dim=(1, 2))
        boxes[some] = masks_to_boxes_reference(values > threshold)
    return counts, boxes


def mask_statistics_reference(logits: Tensor, size: tuple[int, int], threshold: float, offset: float) -> MaskStatistics:
    """Reference implementation of :func:`mask_statistics`."""
    counts, boxes = counts_and_boxes(logits, size, threshold, offset)
    return MaskStatistics(counts[0], counts[1], counts[2], boxes)


def _chunks(logits: Tensor, size: tuple[int, int]) -> list[slice]:
    """Returns the slices of ``logits (N, h, w)`` that are upsampled to ``size`` at once."""
    step = max(1, (PIXELS_ON_CPU if logits.is_cpu else PIXELS) // (size[0] * size[1]))
    return [slice(start, start + step) for start in range(0, len(logits), step)]


def empty_statistics(logits: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    """Returns empty tensors for the results of :func:`counts_and_boxes`."""
    N = logits.shape[0]
    return logits.new_empty(3, N, dtype=torch.int32), logits.new_empty(N, 4, dtype=torch.int32)


mask_statistics_op = Op(
    "mask_statistics",
    counts_and_boxes,
    "mask_ops.launch.mask_statistics_triton",
    cpu="mask_ops.cpu.mask_statistics_cpu",
    unsupported=why_unsupported,
    fake=empty_statistics,
    is_chosen_late=True,
)

# ---- ops with a gradient ----


@op(shapes="logits (N, C, h, w)", fits=is_size, unsupported=lambda logits, *_: why_unsupported(logits))
def scaled_probabilities(
    logits: Tensor, size: tuple[int, int], scale: float, bias: float, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Computes ``scale * sigmoid + bias`` of ``logits (N, C, h, w)`` upsampled to ``size``, for the memory encoder.

    Args:
        logits: Floating-point logits, interpolated bilinearly (``align_corners=False``) in fp32.
        size: Size (H, W) of the result, in pixels.
        scale, bias: Factor and offset, such as ``sigmoid_scale_for_mem_enc`` and ``sigmoid_bias_for_mem_enc``.
        dtype: Dtype of the result. All operations are in fp32, and only the result is rounded.

    Returns:
        Tensor ``(N, C, H, W)``.

    Raises:
        ValueError: If ``logits`` or ``size`` is invalid.

    Source: ``sam2.modeling.sam2_base.SAM2Base._encode_new_memory``.
    """
    probabilities = torch.sigmoid(upsample_masks_reference(logits.float(), size))
    # rsub computes scale * probabilities + bias in one operation.
    return torch.rsub(probabilities, bias, alpha=-scale).to(dtype)


def fill_holes_in_mask_scores_reference(logits: Tensor, max_area: float) -> Tensor:
    """Reference implementation of :func:`fill_holes_in_mask_scores`."""
    return torch.where(_small_components(logits <= 0, max_area), FILLED_IN_VIDEO, logits)


def suppress_overlaps_reference(logits: Tensor) -> Tensor:
    """Reference implementation of :func:`suppress_overlaps`, with a gradient."""
    if len(logits) < 2:
        return logits
    owner = logits.argmax(dim=0, keepdim=True)  # first object with the largest logit; NaN counts as the largest
    keep = owner == torch.arange(len(logits), device=logits.device)[:, None, None, None]
    return torch.where(keep, logits, logits.clamp(max=SUPPRESSED))


def _fake_logits(logits: Tensor, *_: object) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


suppress_overlaps_op = Op(
    "suppress_overlaps",
    suppress_overlaps_reference,
    "mask_ops.launch.suppress_overlaps_triton",
    unsupported=why_unsupported,
    fake=_fake_logits,
)
fill_holes_in_mask_scores_op = Op(
    "fill_holes_in_mask_scores",
    fill_holes_in_mask_scores_reference,
    "connected_components_triton.fill_holes_triton",
    unsupported=lambda logits, max_area: why_unsupported(logits) or why_no_scans(),
    fake=_fake_logits,
)

upsample_and_threshold_reference = upsample_and_threshold.reference
upsample_and_pack_reference = upsample_and_pack.reference
pack_masks_reference, unpack_masks_reference = pack_masks.reference, unpack_masks.reference
scaled_probabilities_reference = scaled_probabilities.reference
