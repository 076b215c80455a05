"""Boxes of masks, on the device."""

import torch
from torch import Tensor


def boxes_of(shown: Tensor) -> Tensor:
    """First and last column and row x0, y0, x1, y1 ``(B, M, 4)`` fp64 of masks ``(B, M, H, W)`` bool; zeros for empty
    ones."""
    ends = []
    for line in (shown.any(dim=2), shown.any(dim=3)):
        size = line.shape[2]
        places = torch.arange(size, dtype=torch.float64, device=shown.device)
        first = torch.where(line, places, float(size)).amin(dim=2)
        ends.append((first, torch.where(line, places, -1.0).amax(dim=2)))
    (x0, x1), (y0, y1) = ends
    return torch.where((x1 >= 0)[..., None], torch.stack([x0, y0, x1, y1], dim=2), 0.0)


def area_of(boxes: Tensor) -> Tensor:
    """``(...)`` of boxes ``(..., 4)``, whose sides are the differences of their ends."""
    return (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1)


def overlaps(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU ``(B, M)`` of boxes ``(B, 4)`` and ``(B, M, 4)``; 0 for those that are zeros."""
    boxes = boxes[:, None]
    low, high = torch.maximum(boxes[..., :2], others[..., :2]), torch.minimum(boxes[..., 2:], others[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    union = area_of(boxes) + area_of(others) - shared
    exists = (others != 0).any(dim=2) & (union != 0)
    return torch.where(exists, shared / torch.where(exists, union, 1.0), 0.0)


def hull_of(boxes: Tensor, others: Tensor) -> Tensor:
    """The smallest boxes around pairs of boxes."""
    low, high = torch.minimum(boxes[..., :2], others[..., :2]), torch.maximum(boxes[..., 2:], others[..., 2:])
    return torch.cat([low, high], dim=-1)
