"""The torch twins of non-maximum suppression, 64 boxes or masks at a time."""

from collections.abc import Callable

import torch
from torch import Tensor

# Boxes or masks that are decided on together: their overlaps with all that are left are held.
BLOCK = 64
# Pixels of masks that are multiplied at once: sums of so many ones are exact in fp32.
PIXELS = 1 << 16

# Which pairs of indices (A) and (B) overlap too much, bool (A, B).
Overlapping = Callable[[Tensor, Tensor], Tensor]


def box_nms_reference(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """The twin of :func:`box_nms`: 64 at a time, compared with all that are left."""
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
    """The twin of :func:`mask_nms`: 64 at a time, their shared pixels by products that fp32 holds exactly."""
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
    """Indices, rising, of what no earlier kept one overlaps too much, of so many, best first."""
    left, kept = torch.arange(count, device=device), []
    while len(left):
        block, left = left[:BLOCK], left[BLOCK:]
        among = overlapping(block, block).tolist()
        chosen: list[int] = []
        for i in range(len(block)):
            if not any(among[j][i] for j in chosen):
                chosen.append(i)
        kept.append(block[chosen])
        left = left[~overlapping(kept[-1], left).any(0)]
    return torch.cat(kept) if kept else left
