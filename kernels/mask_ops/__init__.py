"""Post-processes mask logits: holes, sprinkles, upsampling, boxes, packed bits, overlaps."""

import torch

from sam2fast.kernels._cpu import is_cpu_inference
from sam2fast.kernels.mask_ops.cpu import suppress_overlaps_cpu
from sam2fast.kernels.mask_ops.reference import (
    MaskStatistics,
    fill_holes_and_remove_sprinkles_reference,
    fill_holes_in_mask_scores_op,
    fill_holes_in_mask_scores_reference,
    mask_statistics_op,
    mask_statistics_reference,
    masks_to_boxes_reference,
    pack_masks_op,
    pack_masks_reference,
    scaled_probabilities_op,
    scaled_probabilities_reference,
    suppress_overlaps_op,
    suppress_overlaps_reference,
    unpack_masks_op,
    unpack_masks_reference,
    upsample_and_pack_op,
    upsample_and_pack_reference,
    upsample_and_threshold_op,
    upsample_and_threshold_reference,
    upsample_masks_reference,
)

__all__ = [
    "MaskStatistics",
    "fill_holes_and_remove_sprinkles",
    "fill_holes_and_remove_sprinkles_reference",
    "fill_holes_in_mask_scores",
    "fill_holes_in_mask_scores_reference",
    "mask_statistics",
    "mask_statistics_reference",
    "masks_to_boxes",
    "masks_to_boxes_reference",
    "pack_masks",
    "pack_masks_reference",
    "scaled_masks",
    "scaled_probabilities",
    "scaled_probabilities_reference",
    "suppress_overlaps",
    "suppress_overlaps_reference",
    "unpack_masks",
    "unpack_masks_reference",
    "upsample_and_pack",
    "upsample_and_pack_reference",
    "upsample_and_threshold",
    "upsample_and_threshold_reference",
    "upsample_masks",
    "upsample_masks_reference",
]


def fill_holes_and_remove_sprinkles(
    logits: torch.Tensor, threshold: float = 0.0, max_hole_area: float = 0.0, max_sprinkle_area: float = 0.0
) -> torch.Tensor:
    """Turns small background components into foreground and small foreground components into background.

    Both are found in the input logits: a filled hole does not enlarge the sprinkle around it.

    Args:
        logits: Logits ``(N, C, H, W)`` fp32.
        threshold: Logit above which a pixel is foreground.
        max_hole_area: Largest area in pixels of background components to set to ``threshold + 10``. 0 for none.
        max_sprinkle_area: Largest area in pixels of foreground components to set to ``threshold - 10``. 0 for none.

    Returns:
        Logits ``(N, C, H, W)``, or the input itself if both areas are 0 or less.

    Source: ``sam2.utils.transforms.SAM2Transforms.postprocess_masks``, steps 1 and 2.
    """
    if max_hole_area <= 0 and max_sprinkle_area <= 0:
        return logits
    return fill_holes_and_remove_sprinkles_reference(logits, threshold, max_hole_area, max_sprinkle_area)


def fill_holes_in_mask_scores(mask: torch.Tensor, max_area: float) -> torch.Tensor:
    """Sets background components of at most ``max_area`` pixels to 0.1, for the video predictor.

    Args:
        mask: Logits ``(N, 1, H, W)``. A pixel is background if its logit is not greater than 0.
        max_area: Largest area in pixels of ``mask``, positive.

    Raises:
        ValueError: If ``max_area`` is not positive.

    Source: ``sam2.utils.misc.fill_holes_in_mask_scores``.
    """
    if max_area <= 0:
        raise ValueError(f"max_area must be positive, got {max_area}")
    return fill_holes_in_mask_scores_op(mask, max_area)


def upsample_masks(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Interpolates ``logits (N, C, h, w)`` bilinearly (``align_corners=False``) to ``size`` = (height, width)."""
    return upsample_masks_reference(logits, size)


def scaled_probabilities(
    logits: torch.Tensor, size: tuple[int, int], scale: float, bias: float, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Computes ``scale * sigmoid + bias`` of ``logits (N, C, h, w)`` upsampled to ``size``, for the memory encoder.

    Args:
        logits: Floating-point logits, interpolated bilinearly (``align_corners=False``) in fp32.
        size: Size (H, W) of the result, in pixels.
        scale, bias: Factor and offset, such as ``sigmoid_scale_for_mem_enc`` and ``sigmoid_bias_for_mem_enc``.
        dtype: Dtype of the result, which is rounded once.

    Returns:
        Tensor ``(N, C, H, W)``.

    Raises:
        ValueError: If ``logits`` or ``size`` is not as described.

    Source: ``sam2.modeling.sam2_base.SAM2Base._encode_new_memory``.
    """
    if logits.ndim != 4:
        raise ValueError(f"expected logits (N, C, h, w), got {tuple(logits.shape)}")
    return scaled_probabilities_op(logits, _checked_size(logits, size), scale, bias, dtype)


def scaled_masks(
    logits: torch.Tensor, size: tuple[int, int], scale: float, bias: float, is_binary: bool, dtype: torch.dtype
) -> torch.Tensor:
    """Computes ``scale * mask + bias`` of ``logits (B, 1, h, w)`` upsampled to ``size``.

    Args:
        logits: Logits of masks.
        size: Size (H, W) of the result, in pixels.
        scale, bias: Factor and offset.
        is_binary: If True, a mask is 1 where logits are above 0, otherwise their sigmoid.
        dtype: Dtype of the result, if that is no wider than ``logits``.

    Returns:
        Tensor ``(B, 1, H, W)``.

    Source: ``sam2.modeling.sam2_base.SAM2Base._encode_new_memory``.
    """
    is_large = logits.shape[-2:] == size
    if is_binary:
        logits = logits if is_large else upsample_masks(logits, size)
        return torch.rsub((logits > 0).float(), bias, alpha=-scale)
    if is_large:
        return torch.rsub(torch.sigmoid(logits), bias, alpha=-scale)
    return scaled_probabilities(logits, size, scale, bias, dtype)


def masks_to_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Returns boxes ``(..., 4)``, inclusive XYXY pixels, of bool masks ``(..., H, W)``; (W, H, -1, -1) for empty masks.

    Source: ``sam2.utils.misc.mask_to_box``.

    Raises:
        ValueError: If ``masks`` is not bool or has fewer than two dimensions.
    """
    if masks.ndim < 2 or masks.dtype != torch.bool:
        raise ValueError(f"expected bool masks (..., H, W), got {masks.dtype} {tuple(masks.shape)}")
    return masks_to_boxes_reference(masks)


def mask_statistics(
    logits: torch.Tensor, size: tuple[int, int], threshold: float = 0.0, offset: float = 1.0
) -> MaskStatistics:
    """Computes areas, boxes and the counts of the stability score of ``logits (N, h, w)`` upsampled to ``size``.

    At most 64 MiB of upsampled logits, or the logits of one mask, are held at once. NaN counts as background.

    Args:
        logits: Floating-point logits ``(N, h, w)``, interpolated bilinearly (``align_corners=False``) in fp32.
        size: Size (H, W) of the masks, in pixels. It may be smaller than (h, w).
        threshold: Logit above which a pixel is foreground.
        offset: Distance of the two other levels from the threshold, in logits. The stability score
            is ``above / below``.

    Raises:
        ValueError: If ``logits`` or ``size`` is not as described.

    Source: ``sam2.utils.amg.calculate_stability_score`` and ``batched_mask_to_box``.
    """
    if logits.ndim != 3:
        raise ValueError(f"expected logits (N, h, w), got {tuple(logits.shape)}")
    counts, boxes = mask_statistics_op(logits, _checked_size(logits, size), threshold, offset)
    return MaskStatistics(counts[0], counts[1], counts[2], boxes)


def upsample_and_threshold(logits: torch.Tensor, size: tuple[int, int], threshold: float = 0.0) -> torch.Tensor:
    """Returns bool masks ``(..., H, W)``: True if ``logits (..., h, w)``, upsampled to ``size``, exceed the threshold.

    Equals ``upsample_masks(logits.float(), size) > threshold``, without holding all upsampled logits.

    Raises:
        ValueError: If ``logits`` is not floating-point or has no pixels, or ``size`` is not positive.
    """
    return upsample_and_threshold_op(logits, _checked_size(logits, size), threshold)


def upsample_and_pack(logits: torch.Tensor, size: tuple[int, int], threshold: float = 0.0) -> torch.Tensor:
    """Computes ``pack_masks(upsample_and_threshold(logits, size, threshold))`` without holding the masks.

    Returns:
        Packed masks, uint8 ``(..., H, ceil(W / 8))``.

    Raises:
        ValueError: If an argument is invalid, see :func:`upsample_and_threshold`.
    """
    return upsample_and_pack_op(logits, _checked_size(logits, size), threshold)


def pack_masks(masks: torch.Tensor) -> torch.Tensor:
    """Packs eight pixels per byte: bool masks ``(..., H, W)`` to uint8 ``(..., H, ceil(W / 8))``.

    Equals ``numpy.packbits(masks, axis=-1, bitorder="little")``: the leftmost pixel is the lowest bit, and bits beyond
    the width are 0.

    Raises:
        ValueError: If ``masks`` is not bool or has fewer than two dimensions.
    """
    if masks.ndim < 2 or masks.dtype != torch.bool:
        raise ValueError(f"expected bool masks (..., H, W), got {masks.dtype} {tuple(masks.shape)}")
    return pack_masks_op(masks)


def unpack_masks(packed: torch.Tensor, width: int) -> torch.Tensor:
    """Unpacks the result of :func:`pack_masks` to bool masks ``(..., H, width)``.

    Raises:
        ValueError: If ``packed`` is not uint8 ``(..., H, ceil(width / 8))``.
    """
    if packed.ndim < 2 or packed.dtype != torch.uint8 or width < 0 or packed.shape[-1] != -(-width // 8):
        shape = f"(..., H, {-(-width // 8)})"
        raise ValueError(f"expected uint8 {shape} for masks {width} wide, got {packed.dtype} {tuple(packed.shape)}")
    return unpack_masks_op(packed, width)


def suppress_overlaps(logits: torch.Tensor) -> torch.Tensor:
    """Gives each pixel to the object with the largest logit there, and lowers all other logits to at most -10.

    Among equal logits, the first object keeps the pixel. NaN counts as the largest.

    Args:
        logits: Floating-point logits ``(N, 1, H, W)`` of N objects on one frame.

    Returns:
        Logits ``(N, 1, H, W)``, or the input itself if there are fewer than two objects.

    Raises:
        ValueError: If ``logits`` has another shape or is not floating-point.

    Source: ``sam2.modeling.sam2_base.SAM2Base._apply_non_overlapping_constraints``.
    """
    if logits.ndim != 4 or logits.shape[1] != 1 or not logits.is_floating_point():
        raise ValueError(f"expected floating logits (N, 1, H, W), got {logits.dtype} {tuple(logits.shape)}")
    if len(logits) < 2:
        return logits
    if suppress_overlaps_op.uses_kernel(logits):
        return suppress_overlaps_op.run(logits)
    return suppress_overlaps_cpu(logits) if is_cpu_inference(logits) else suppress_overlaps_reference(logits)


def _checked_size(logits: torch.Tensor, size: tuple[int, int]) -> tuple[int, int]:
    if logits.ndim < 2 or not logits.is_floating_point() or 0 in logits.shape[-2:]:
        raise ValueError(
            f"expected floating logits (..., h, w) of at least one pixel, got {logits.dtype} {tuple(logits.shape)}"
        )
    height, width = size
    if height < 1 or width < 1 or height * width >= 2**31:
        raise ValueError(f"expected a size (H, W) of 1 to 2**31 - 1 pixels, got {tuple(size)}")
    return height, width
