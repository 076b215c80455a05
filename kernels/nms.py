"""Performs non-maximum suppression (NMS) of boxes and masks: keeps the highest score among overlapping items."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sam2fast.kernels._op import Op

__all__ = ["box_nms", "box_nms_reference", "mask_nms", "mask_nms_reference"]


def box_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Returns indices of the kept boxes, by descending score.

    A box is kept if its IoU with each kept box of a higher score is at most ``iou_threshold``. On a GPU, this function
    synchronises once, to read the number of kept boxes.

    Args:
        boxes: Boxes ``(N, 4)`` in XYXY format. IoUs are computed in fp64 for fp64 boxes, else in fp32.
        scores: Scores ``(N)``, ranked as in ``torch.sort``: among equal scores, the first ranks highest, and NaN ranks
            above all numbers.
        iou_threshold: Threshold of the IoU, rounded to the dtype of IoUs. The IoU of boxes with zero area, or with
            infinite or NaN coordinates, may be NaN (0/0). If the IoU is NaN, neither box suppresses the other box.

    Returns:
        Indices ``(K)`` int64, on the device of ``boxes``.

    Raises:
        ValueError: If a shape is invalid, or boxes are complex.

    Source: ``torchvision.ops.nms`` on GPUs. On the CPU, torchvision compares fp32 IoUs with the threshold in fp64.
    torchvision's results differ on the CPU only if an IoU equals the threshold rounded up to fp32.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or boxes.is_complex():
        raise ValueError(f"expected boxes (N, 4), got {boxes.dtype} {tuple(boxes.shape)}")
    _check_scores(scores, len(boxes))
    boxes = boxes if boxes.dtype == torch.float64 else boxes.float()
    return _box_nms(boxes, scores, float(iou_threshold))


def mask_nms(masks: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Returns indices of the kept masks, by descending score.

    A mask is kept if its IoU with each kept mask of a higher score is at most ``iou_threshold``. Empty masks are kept.
    On a GPU, this function synchronises once, to read the number of kept masks.

    Args:
        masks: Masks ``(N, H, W)`` bool.
        scores: Scores ``(N)``, see :func:`box_nms`.
        iou_threshold: Threshold of the IoU. IoUs of masks are computed in fp64.

    Returns:
        Indices ``(K)`` int64, on the device of ``masks``.

    Raises:
        ValueError: If a shape or dtype is invalid.
    """
    if masks.ndim != 3 or masks.dtype != torch.bool:
        raise ValueError(f"expected bool masks (N, H, W), got {masks.dtype} {tuple(masks.shape)}")
    _check_scores(scores, len(masks))
    return _mask_nms(masks, scores, float(iou_threshold))


def _check_scores(scores: Tensor, count: int) -> None:
    if scores.shape != (count,):
        raise ValueError(f"expected {count} scores, one per box or mask, got shape {tuple(scores.shape)}")


# ---- reference implementations, 64 boxes or masks at a time ----

# Number of boxes or masks in a block. IoUs between a block and all remaining boxes or masks are computed at once.
BLOCK = 64
# Number of pixels that a matrix product sums at once. Sums of 2**16 ones are exact in fp32.
PIXELS = 1 << 16

# Function of two index tensors (A) and (B) that returns bool (A, B), True for pairs with an IoU above the threshold.
Overlapping = Callable[[Tensor, Tensor], Tensor]


def box_nms_reference(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Reference implementation of :func:`box_nms`: compares blocks of 64 boxes with all remaining boxes."""
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
    """Reference implementation of :func:`mask_nms`: computes overlaps of 64 masks by exact fp32 matrix products."""
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
    """Returns ascending indices of the kept boxes or masks, given boxes or masks ordered by descending score."""
    remaining, keep = torch.arange(count, device=device), []
    while len(remaining):
        block, remaining = remaining[:BLOCK], remaining[BLOCK:]
        among = overlapping(block, block).tolist()
        indices: list[int] = []
        for i in range(len(block)):
            if not any(among[j][i] for j in indices):
                indices.append(i)
        keep.append(block[indices])
        remaining = remaining[~overlapping(keep[-1], remaining).any(0)]
    return torch.cat(keep) if keep else remaining


# ---- operators with data-dependent output shapes ----


def _fake(items: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return items.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


_operator = partial(Op, fake=_fake, is_chosen_late=True, launches="nms")
_box_nms = _operator("box_nms", box_nms_reference, "nms_triton.box_nms_triton", cpu="nms_cpu.box_nms_cpu")
_mask_nms = _operator("mask_nms", mask_nms_reference, "nms_triton.mask_nms_triton", cpu="nms_cpu.mask_nms_cpu")
