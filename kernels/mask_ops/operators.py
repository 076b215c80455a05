"""The mask ops as torch operators: one node in a graph each; the implementation is chosen when it runs."""

from typing import Any, List  # noqa: UP035  (what the oldest supported torch reads in a schema)

import torch
from torch import Tensor

from sam2fast.kernels._dispatch import FLOATS, use_triton
from sam2fast.kernels._operators import reference_backward, register_operator
from sam2fast.kernels.mask_ops.cpu import mask_statistics_cpu
from sam2fast.kernels.mask_ops.reference import (
    FILLED_IN_VIDEO,
    fill_holes_in_mask_scores_reference,
    mask_statistics_reference,
    pack_masks_reference,
    scaled_probabilities_reference,
    suppress_overlaps_reference,
    unpack_masks_reference,
    upsample_and_threshold_reference,
)
from sam2fast.kernels.mask_ops.sparse_upsampling import upsample_and_threshold_cpu

Size = List[int]  # noqa: UP006


def _unsupported_reason(logits: Tensor) -> str | None:
    return None if logits.dtype in FLOATS else f"does not take {logits.dtype}"


@register_operator("sam2fast::mask_statistics")
def mask_statistics_operator(logits: Tensor, size: Size, threshold: float, offset: float) -> tuple[Tensor, Tensor]:
    """Counts and boxes of :class:`MaskStatistics`, int32 ``(3, N)`` and ``(N, 4)``, of logits ``(N, h, w)``."""
    height, width = size
    if use_triton("mask_statistics", logits, unsupported_reason=_unsupported_reason(logits)):
        from sam2fast.kernels.mask_ops.launch import mask_statistics_triton

        return mask_statistics_triton(logits, (height, width), threshold, offset)
    if logits.is_cpu:
        area, above, below, boxes = mask_statistics_cpu(logits, (height, width), threshold, offset)
    else:
        area, above, below, boxes = mask_statistics_reference(logits, (height, width), threshold, offset)
    return torch.stack([area, above, below]), boxes


@mask_statistics_operator.register_fake
def _(logits: Tensor, size: Size, threshold: float, offset: float) -> tuple[Tensor, Tensor]:
    N = logits.shape[0]
    return logits.new_empty(3, N, dtype=torch.int32), logits.new_empty(N, 4, dtype=torch.int32)


@register_operator("sam2fast::upsample_and_threshold")
def upsample_and_threshold_operator(logits: Tensor, size: Size, threshold: float) -> Tensor:
    """Logits ``(..., h, w)`` to bool masks ``(..., H, W)`` of ``size``."""
    height, width = size
    if use_triton("upsample_and_threshold", logits, unsupported_reason=_unsupported_reason(logits)):
        from sam2fast.kernels.mask_ops.launch import upsample_and_threshold_triton

        return upsample_and_threshold_triton(logits, (height, width), threshold)
    return _upsample_and_threshold(logits, (height, width), threshold)


def _upsample_and_threshold(logits: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    of_device = upsample_and_threshold_cpu if logits.is_cpu else upsample_and_threshold_reference
    return of_device(logits, size, threshold)


@upsample_and_threshold_operator.register_fake
def _(logits: Tensor, size: Size, threshold: float) -> Tensor:
    return logits.new_empty(*logits.shape[:-2], *size, dtype=torch.bool)


@register_operator("sam2fast::upsample_and_pack")
def upsample_and_pack_operator(logits: Tensor, size: Size, threshold: float) -> Tensor:
    """Logits ``(..., h, w)`` to masks of ``size`` with eight pixels in a byte, uint8 ``(..., H, ceil(W / 8))``."""
    height, width = size
    if use_triton("upsample_and_pack", logits, unsupported_reason=_unsupported_reason(logits)):
        from sam2fast.kernels.mask_ops.launch import upsample_and_pack_triton

        return upsample_and_pack_triton(logits, (height, width), threshold)
    return pack_masks_reference(_upsample_and_threshold(logits, (height, width), threshold))


@upsample_and_pack_operator.register_fake
def _(logits: Tensor, size: Size, threshold: float) -> Tensor:
    return logits.new_empty(*logits.shape[:-2], size[0], (size[1] + 7) // 8, dtype=torch.uint8)


@register_operator("sam2fast::pack_masks")
def pack_masks_operator(masks: Tensor) -> Tensor:
    """Bool masks ``(..., H, W)`` to uint8 ``(..., H, ceil(W / 8))``."""
    if use_triton("pack_masks", masks):
        from sam2fast.kernels.mask_ops.launch import pack_masks_triton

        return pack_masks_triton(masks)
    return pack_masks_reference(masks)


@pack_masks_operator.register_fake
def _(masks: Tensor) -> Tensor:
    return masks.new_empty(*masks.shape[:-1], (masks.shape[-1] + 7) // 8, dtype=torch.uint8)


@register_operator("sam2fast::unpack_masks")
def unpack_masks_operator(packed: Tensor, width: int) -> Tensor:
    """Packed masks, uint8 ``(..., H, ceil(width / 8))``, to bool ``(..., H, width)``."""
    if use_triton("unpack_masks", packed):
        from sam2fast.kernels.mask_ops.launch import unpack_masks_triton

        return unpack_masks_triton(packed, width)
    return unpack_masks_reference(packed, width)


@unpack_masks_operator.register_fake
def _(packed: Tensor, width: int) -> Tensor:
    return packed.new_empty(*packed.shape[:-1], width, dtype=torch.bool)


def by_triton(op: str, logits: Tensor) -> bool:
    """Whether to call the operator of one of the ops below; their reference implementations have gradients."""
    return use_triton(op, logits, unsupported_reason=_unsupported_reason(logits))


def _fill_holes_reference(logits: Tensor, max_area: float) -> Tensor:
    return fill_holes_in_mask_scores_reference(logits, max_area).contiguous()


@register_operator("sam2fast::fill_holes_in_mask_scores", _fill_holes_reference)
def fill_holes_in_mask_scores_operator(logits: Tensor, max_area: float) -> Tensor:
    """As :func:`~sam2fast.kernels.mask_ops.fill_holes_in_mask_scores`."""
    from sam2fast.kernels.connected_components.kernel import fill_holes_triton

    return fill_holes_triton(logits, max_area, FILLED_IN_VIDEO)


@fill_holes_in_mask_scores_operator.register_fake
def _(logits: Tensor, max_area: float) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _setup_holes(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0], output)


def _backward_holes(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    logits, out = ctx.saved_tensors
    return torch.where((logits <= 0) & (out > 0), 0, grad), None  # filled pixels are constants


fill_holes_in_mask_scores_operator.register_autograd(_backward_holes, setup_context=_setup_holes)


@register_operator("sam2fast::scaled_probabilities", scaled_probabilities_reference)
def scaled_probabilities_operator(logits: Tensor, size: Size, scale: float, bias: float, dtype: torch.dtype) -> Tensor:
    """As :func:`~sam2fast.kernels.mask_ops.scaled_probabilities`."""
    from sam2fast.kernels.mask_ops.launch import scaled_probabilities_triton

    return scaled_probabilities_triton(logits, (size[0], size[1]), scale, bias, dtype)


@scaled_probabilities_operator.register_fake
def _(logits: Tensor, size: Size, scale: float, bias: float, dtype: torch.dtype) -> Tensor:
    return logits.new_empty(*logits.shape[:-2], *size, dtype=dtype)


def _setup_probabilities(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, *ctx.rest = inputs
    ctx.save_for_backward(logits)


def _backward_probabilities(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    found = reference_backward(
        scaled_probabilities_reference, ctx.saved_tensors, ctx.rest, ctx.needs_input_grad[:1], grad
    )
    return *found, None, None, None, None


scaled_probabilities_operator.register_autograd(_backward_probabilities, setup_context=_setup_probabilities)


@register_operator("sam2fast::suppress_overlaps", suppress_overlaps_reference)
def suppress_overlaps_operator(logits: Tensor) -> Tensor:
    """Logits to as many of the same shape and dtype; see :func:`~sam2fast.kernels.mask_ops.suppress_overlaps`."""
    from sam2fast.kernels.mask_ops.launch import suppress_overlaps_triton

    return suppress_overlaps_triton(logits)


@suppress_overlaps_operator.register_fake
def _(logits: Tensor) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return reference_backward(suppress_overlaps_reference, ctx.saved_tensors, (), ctx.needs_input_grad, grad)


suppress_overlaps_operator.register_autograd(_backward, setup_context=_setup)
