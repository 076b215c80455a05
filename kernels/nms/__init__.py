"""Non-maximum suppression: of boxes or masks that overlap too much, the best is kept."""

import torch
from torch import Tensor

from sam2fast.kernels._operators import call
from sam2fast.kernels.nms.operators import box_nms_operator, mask_nms_operator
from sam2fast.kernels.nms.reference import box_nms_reference, mask_nms_reference

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
    return call(box_nms_operator, boxes, scores, float(iou_threshold))


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
    return call(mask_nms_operator, masks, scores, float(iou_threshold))


def _check_scores(scores: Tensor, count: int) -> None:
    if scores.shape != (count,):
        raise ValueError(f"expected {count} scores, one for each, got shape {tuple(scores.shape)}")
