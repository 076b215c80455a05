"""Computes bounding boxes of masks on the device."""

import torch
from torch import Tensor

from sam2fast.kernels.mask_ops import masks_to_boxes


def boxes_of(shown: Tensor) -> Tensor:
    """Returns boxes ``(B, M, 4)`` fp64, inclusive XYXY, of masks ``(B, M, H, W)`` bool; zeros for empty masks."""
    boxes = masks_to_boxes(shown)
    return torch.where(boxes[..., 2:3] < 0, 0, boxes).double()


def area_of(boxes: Tensor) -> Tensor:
    """Returns the areas ``(...)`` of boxes ``(..., 4)`` XYXY, with sides ``x1 - x0`` and ``y1 - y0``."""
    return (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """Returns the IoUs ``(B, M)`` of boxes ``(B, 4)`` and ``others (B, M, 4)``. The IoU with a box of zeros is 0."""
    boxes = boxes[:, None]
    low, high = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    union = area_of(boxes) + area_of(others) - shared
    exists = (others != 0).any(dim=2) & (union != 0)
    return torch.where(exists, shared / torch.where(exists, union, 1.0), 0.0)


def hull_of(boxes: Tensor, others: Tensor) -> Tensor:
    """Returns the smallest box around each pair of boxes ``(..., 4)``."""
    low, high = torch.minimum(boxes[..., :2], others[..., :2]), torch.maximum(boxes[..., 2:], others[..., 2:])
    return torch.cat([low, high], dim=-1)
