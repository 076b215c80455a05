"""Non-maximum suppression: of boxes or masks that overlap too much, the best is kept."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sam2fast.kernels._op import Op

__all__ = ["box_nms", "box_nms_reference", "mask_nms", "mask_nms_reference"]


def box_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that no better kept box overlaps by more than ``iou_threshold``, best first.

    Args:
        boxes: ``(N, 4)`` XYXY; overlaps are computed in float64 if that is their dtype, else in fp32.
        scores: ``(N)``; of equal ones the first is better, and NaN is better than any number (``torch.sort``).
        iou_threshold: a box is suppressed if its intersection over union with a better one is greater, compared in the
            dtype of the overlaps. Boxes without area, or with infinite or NaN coordinates, may have none (0/0): then
            neither suppresses the other.

    Returns:
        int64 ``(K)``, on the device of ``boxes``.

    Raises:
        ValueError: wrong shapes, or complex boxes.

    On a GPU it synchronises once, for the number that are kept.

    Source: ``torchvision.ops.nms`` on GPUs. On the CPU torchvision compares fp32 overlaps with the threshold in
    float64. That differs only where an overlap equals the threshold rounded up to fp32.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.is_complex():
        raise ValueError(f"expected boxes (N, 4), got {boxes.dtype} {tuple(boxes.shape)}")
    _check_scores(scores, len(boxes))
    boxes = boxes if boxes.dtype == torch.float64 else boxes.float()
    return _box_nms(boxes, scores, float(iou_threshold))


def mask_nms(masks: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the masks that no better kept mask overlaps by more than ``iou_threshold``, best first.

    The rule is that of :func:`box_nms`, on the pixels that masks share; empty masks overlap nothing and are kept.

    Args:
        masks: ``(N, H, W)`` bool.
        scores: ``(N)``, as for boxes.
        iou_threshold: a mask is suppressed if its intersection over union with a better one is greater. It is a
            quotient of pixels in float64.

    Returns:
        int64 ``(K)``, on the device of ``masks``.

    Raises:
        ValueError: wrong shapes or dtypes.

    On a GPU it synchronises once, for the number that are kept.
    """
    if masks.ndim != 3 or masks.dtype != torch.bool:
        raise ValueError(f"expected bool masks (N, H, W), got {masks.dtype} {tuple(masks.shape)}")
    _check_scores(scores, len(masks))
    return _mask_nms(masks, scores, float(iou_threshold))


def _check_scores(scores: Tensor, count: int) -> None:
    if scores.shape != (count,):
        raise ValueError(f"expected {count} scores, one for each, got shape {tuple(scores.shape)}")


# ---- reference implementations, 64 boxes or masks at a time ----

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


# ---- operators, whose number of results depends on values ----


def _fake(items: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return items.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


_operator = partial(Op, fake=_fake, is_chosen_late=True, launches="nms")
_box_nms = _operator("box_nms", box_nms_reference, "nms_triton.box_nms_triton", cpu="nms_cpu.box_nms_cpu")
_mask_nms = _operator("mask_nms", mask_nms_reference, "nms_triton.mask_nms_triton", cpu="nms_cpu.mask_nms_cpu")
