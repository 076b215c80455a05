"""From low-resolution mask logits to the masks a user sees: holes, sprinkles, upsampling, boxes."""

import torch

from sam2fast.kernels._dispatch import use_triton
from sam2fast.kernels.mask_ops.reference import (
    fill_holes_and_remove_sprinkles_reference,
    fill_holes_in_mask_scores_reference,
    masks_to_boxes_reference,
    upsample_masks_reference,
)

__all__ = [
    "fill_holes_and_remove_sprinkles",
    "fill_holes_and_remove_sprinkles_reference",
    "fill_holes_in_mask_scores",
    "fill_holes_in_mask_scores_reference",
    "masks_to_boxes",
    "masks_to_boxes_reference",
    "upsample_masks",
    "upsample_masks_reference",
]


def fill_holes_and_remove_sprinkles(
    logits: torch.Tensor, threshold: float = 0.0, max_hole_area: float = 0.0, max_sprinkle_area: float = 0.0
) -> torch.Tensor:
    """Turns small background components into foreground and small foreground components into background.

    Both are found on the given logits, so a filled hole does not save the sprinkle around it.

    Args:
        logits: ``(N, C, H, W)`` fp32.
        threshold: a pixel is foreground if its logit is greater.
        max_hole_area: background components of at most this many pixels are set to ``threshold + 10``; 0 for none.
        max_sprinkle_area: foreground components of at most this many pixels are set to ``threshold - 10``; 0 for none.

    Returns:
        ``(N, C, H, W)``; the input itself where there is nothing to do.

    Source: ``sam2.utils.transforms.SAM2Transforms.postprocess_masks``, steps 1 and 2.
    """
    if max_hole_area <= 0 and max_sprinkle_area <= 0:
        return logits
    return fill_holes_and_remove_sprinkles_reference(logits, threshold, max_hole_area, max_sprinkle_area)


def fill_holes_in_mask_scores(mask: torch.Tensor, max_area: float) -> torch.Tensor:
    """The video predictor's flavour: background components of at most ``max_area`` pixels are set to 0.1.

    Args:
        mask: ``(N, 1, H, W)`` logits; a pixel is background if its logit is not greater than 0.
        max_area: in pixels of ``mask``, positive.

    Raises:
        ValueError: ``max_area`` is not positive.

    Source: ``sam2.utils.misc.fill_holes_in_mask_scores``.
    """
    if max_area <= 0:
        raise ValueError(f"max_area must be positive, got {max_area}")
    return fill_holes_in_mask_scores_reference(mask, max_area)


def upsample_masks(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear interpolation (``align_corners=False``) of ``logits (N, C, h, w)`` to ``size`` = (height, width)."""
    use_triton("upsample_masks", logits)
    return upsample_masks_reference(logits, size)


def masks_to_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Boxes ``(..., 4)`` in inclusive XYXY pixels around bool masks ``(..., H, W)``; (W, H, -1, -1) for an empty one.

    Source: ``sam2.utils.misc.mask_to_box``.

    Raises:
        ValueError: ``masks`` are not bool or have fewer than two dimensions.
    """
    if masks.ndim < 2 or masks.dtype != torch.bool:
        raise ValueError(f"expected bool masks (..., H, W), got {masks.dtype} {tuple(masks.shape)}")
    use_triton("masks_to_boxes", masks)
    return masks_to_boxes_reference(masks)
