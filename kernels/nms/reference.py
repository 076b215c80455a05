"""Reference implementations of non-maximum suppression, 64 boxes or masks at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

# Boxes or masks that are decided together. Their overlaps with all remaining ones are held.
BLOCK = 64
# Pixels of masks that are multiplied at once: sums of this many ones are exact in fp32.
PIXELS = 1 << 16

# Which pairs of indices (A) and (B) overlap too much, bool (A, B).
Overlapping = Callable[[Tensor, Tensor], Tensor]


def box_nms_reference(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Reference implementation of :func:`box_nms`: 64 at a time, compared with all remaining ones."""
    order = scores.sort(descending=True, stable=True).indices
    boxes = boxes[order]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])

    def overlapping(a: Tensor, b: Tensor) -> Tensor:
        corner = torch.maximum(boxes[a, None, :2], boxes[b, :2])
        sides = (torch.minimum(boxes[a, None, 2:], boxes[b, 2:]) - corner).clamp(min=0)
        shared = sides[..., 0] * sides[..., 1]
        return shared / (areas[a, None] + areas[b] - shared) > iou_threshold

    return order[_keep(len(order), overlapping, boxes.device)]


def mask_nms_reference(masks: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Reference implementation of :func:`mask_nms`: 64 at a time, by exact fp32 matrix multiplications."""
    order = scores.sort(descending=True, stable=True).indices
    pixels = masks.flatten(1)  # (N, H·W)
    areas = pixels.sum(1)[order]

    def overlapping(a: Tensor, b: Tensor) -> Tensor:
        shared = torch.zeros(len(a), len(b), dtype=torch.int64, device=masks.device)
        for part in pixels.split(PIXELS, 1):
            shared += (part[order[a]].float() @ part[order[b]].float().T).to(torch.int64)
        return shared.double() / (areas[a, None] + areas[b] - shared).double() > iou_threshold

    return order[_keep(len(order), overlapping, masks.device)]


def _keep(count: int, overlapping: Overlapping, device: torch.device) -> Tensor:
    """Ascending indices of the items that no earlier kept item overlaps too much; there are ``count``, best first."""
    remaining, keep = torch.arange(count, device=device), []
    while len(remaining):
        block, remaining = remaining[:BLOCK], remaining[BLOCK:]
        among = overlapping(block, block).tolist()
        chosen: list[int] = []
        for i in range(len(block)):
            if not any(among[j][i] for j in chosen):
                chosen.append(i)
        keep.append(block[chosen])
        remaining = remaining[~overlapping(keep[-1], remaining).any(0)]
    return torch.cat(keep) if keep else remaining
