"""Non-maximum suppression as torch operators: one node in a graph; the implementation is chosen when it runs.

The number of kept items depends on the values. In a graph it is an unbacked size.
"""

import torch
from torch import Tensor

from sam2fast.kernels._dispatch import use_triton
from sam2fast.kernels._operators import register_operator
from sam2fast.kernels.nms.cpu import box_nms_cpu, mask_nms_cpu
from sam2fast.kernels.nms.reference import box_nms_reference, mask_nms_reference


@register_operator("sam2fast::box_nms")
def box_nms_operator(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices, int64, of the boxes ``(N, 4)`` that are kept; see :func:`~sam2fast.kernels.nms.box_nms`."""
    if use_triton("nms", boxes, scores):
        from sam2fast.kernels.nms.kernel import box_nms_triton

        return box_nms_triton(boxes, scores, iou_threshold)
    of_device = box_nms_cpu if boxes.is_cpu else box_nms_reference
    return of_device(boxes, scores, iou_threshold)


@register_operator("sam2fast::mask_nms")
def mask_nms_operator(masks: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices, int64, of the masks ``(N, H, W)`` that are kept; see :func:`~sam2fast.kernels.nms.mask_nms`."""
    if use_triton("nms", masks, scores):
        from sam2fast.kernels.nms.kernel import mask_nms_triton

        return mask_nms_triton(masks, scores, iou_threshold)
    of_device = mask_nms_cpu if masks.is_cpu else mask_nms_reference
    return of_device(masks, scores, iou_threshold)


@box_nms_operator.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


@mask_nms_operator.register_fake
def _(masks: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    return masks.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)
