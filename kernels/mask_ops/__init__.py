"""Post-processes mask logits: holes, sprinkles, upsampling, boxes, packed bits, overlaps."""

import torch

from sam2fast.kernels._cpu import is_cpu_inference
from sam2fast.kernels.mask_ops.cpu import suppress_overlaps_cpu
from sam2fast.kernels.mask_ops.reference import (
    MaskStatistics,
    fill_holes_and_remove_sprinkles,
    fill_holes_and_remove_sprinkles_reference,
    fill_holes_in_mask_scores_op,
    fill_holes_in_mask_scores_reference,
    is_size,
    mask_statistics_op,
    mask_statistics_reference,
    masks_to_boxes,
    masks_to_boxes_reference,
    pack_masks,
    pack_masks_reference,
    scaled_probabilities,
    scaled_probabilities_reference,
    suppress_overlaps_op,
    suppress_overlaps_reference,
    unpack_masks,
    unpack_masks_reference,
    upsample_and_pack,
    upsample_and_pack_reference,
    upsample_and_threshold,
    upsample_and_threshold_reference,
    upsample_masks,
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


def fill_holes_in_mask_scores(mask: torch.Tensor, max_area: float) -> torch.Tensor:
    """Sets the logits of background components of at most ``max_area`` pixels to 0.1, for the video predictor.

    Args:
        mask: Logits ``(N, 1, H, W)``. A pixel is background if its logit is not greater than 0.
        max_area: Largest area of a filled component, in pixels of ``mask``. The area must be positive.

    Raises:
        ValueError: If ``max_area`` is not positive.

    Source: ``sam2.utils.misc.fill_holes_in_mask_scores``.
    """
    if max_area <= 0:
        raise ValueError(f"max_area must be positive, got {max_area}")
    return fill_holes_in_mask_scores_op(mask, max_area)


def scaled_masks(
    logits: torch.Tensor, size: tuple[int, int], scale: float, bias: float, is_binary: bool, dtype: torch.dtype
) -> torch.Tensor:
    """Computes ``scale * mask + bias`` from mask logits upsampled to ``size``.

    Args:
        logits: Mask logits ``(B, 1, h, w)``.
        size: Size (H, W) of the result, in pixels.
        scale, bias: Factor and offset of the mask.
        is_binary: If True, the mask is 1 where logits are above 0, else 0. If False, the mask is the sigmoid of logits.
        dtype: Dtype of the result if probabilities are upsampled. Without upsampling, probabilities have the dtype of
            ``logits``. Binary masks are fp32.

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


def mask_statistics(
    logits: torch.Tensor, size: tuple[int, int], threshold: float = 0.0, offset: float = 1.0
) -> MaskStatistics:
    """Computes areas, boxes and stability counts of masks. Masks are ``logits (N, h, w)`` upsampled to ``size``.

    At most 64 MiB of upsampled masks, or a single mask, are in memory at once. Pixels with NaN are background.

    Args:
        logits: Floating-point logits ``(N, h, w)``, interpolated bilinearly (``align_corners=False``) in fp32.
        size: Size (H, W) of the masks, in pixels. The size may be smaller than (h, w).
        threshold: Logit above which a pixel is foreground.
        offset: Difference in logits between the threshold and two levels: ``above`` counts pixels over threshold +
            offset, and ``below`` pixels over threshold - offset. The stability score is ``above / below``.

    Raises:
        ValueError: If ``logits`` or ``size`` is invalid.

    Source: ``sam2.utils.amg.calculate_stability_score`` and ``batched_mask_to_box``.
    """
    if logits.ndim != 3:
        raise ValueError(f"expected logits (N, h, w), got {tuple(logits.shape)}")
    is_size(logits, size)
    counts, boxes = mask_statistics_op(logits, (size[0], size[1]), threshold, offset)
    return MaskStatistics(counts[0], counts[1], counts[2], boxes)


def suppress_overlaps(logits: torch.Tensor) -> torch.Tensor:
    """Assigns each pixel to the object with the largest logit, and clamps all other logits to at most -10.

    Among equal logits, the first object gets the pixel. NaN counts as the largest logit.

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
