"""Fuses the steps of SAM 2's ``MaskDownSampler``: a strided convolution, layer norm and GELU, on channels-last maps."""

from typing import Any

import torch
from torch import Tensor

from sam2fast.kernels._cpu import conv2d
from sam2fast.kernels._launch import ANY
from sam2fast.kernels._op import op, why_unsupported
from sam2fast.kernels.layer_norm import layer_norm_reference
from sam2fast.kernels.mask_ops import scaled_masks

__all__ = ["downsample_logits", "downsample_logits_reference", "downsample_map", "downsample_map_reference"]

WIDEST = 256  # maximum number of output channels: a program of the kernel computes all channels of a position
NARROW = 64  # maximum number of output channels for which the kernel is memory-bound
FIRST = 4  # number of output channels of the first convolution that the kernel supports


def shape_class(channels: int) -> str:
    """Returns the shape class of a convolution: "wide" for more than 64 output channels, else "*"."""
    return "wide" if channels > NARROW else ANY


def result_shape(size: tuple[int, int], weight: Tensor, stride: int, padding: int) -> tuple[int, int, int]:
    """Returns the shape (H', W', N) of the convolution's result, for an input map of size ``size`` = (H, W)."""
    H, W = ((side + 2 * padding - weight.shape[1]) // stride + 1 for side in size)
    return H, W, len(weight)


def _unsupported_map(x: Tensor, weight: Tensor, *rest: object) -> str | None:
    return why_unsupported(
        x, weight, *rest, leaves="convolutions", alike=(x, weight), channels=len(weight), widest=WIDEST
    )


def _unsupported_logits(logits: Tensor, weight: Tensor, *rest: object) -> str | None:
    reason = why_unsupported(logits, weight, *rest, leaves="convolutions")
    return reason or (None if len(weight) == FIRST else f"supports only {FIRST} channels, got {len(weight)}")


def _fake_map(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return weight.new_empty(len(x), *result_shape(x.shape[1:3], weight, *rest[3:5]))  # type: ignore[arg-type]


def _fake_logits(logits: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return weight.new_empty(len(logits), *result_shape(rest[3], weight, *rest[7:9]))


_OPTIONS: dict[str, Any] = {
    "fits": lambda x, weight, *_: weight.numel() > 0,
    "prefers_torch": lambda x, weight, *_: weight.dtype == torch.float32,  # fp32 speed was not compared
    "compile_key": lambda x, weight, *_: weight.shape,
}


@op(
    shapes="maps x (B, H, W, C), weight (N, k, k, C) and vectors bias, norm_weight and norm_bias (N)",
    unsupported=_unsupported_map,
    fake=_fake_map,
    **_OPTIONS,
)
def downsample_map(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    stride: int,
    padding: int,
    eps: float,
) -> Tensor:
    """Computes a convolution, layer norm over channels, and the exact GELU.

    Args:
        x: Maps ``(B, H, W, C)``.
        weight: Weight ``(N, k, k, C)`` of the convolution.
        bias, norm_weight, norm_bias: Bias of the convolution, weight and bias of the norm, each ``(N)``.
        stride, padding: Stride and zero padding of the convolution, on both axes.
        eps: Value added to the variance.

    Returns:
        Maps ``(B, H', W', N)`` in the dtype of ``weight``, with ``H' = (H + 2 * padding - k) // stride + 1``.

    Raises:
        ValueError: If the shapes do not match.
    """
    maps = conv2d(x.to(weight.dtype).permute(0, 3, 1, 2), weight.permute(0, 3, 1, 2), bias, stride, padding)
    return layer_norm_reference(maps.permute(0, 2, 3, 1), norm_weight, norm_bias, eps, weight.dtype, gelu=True)


@op(
    shapes="logits (B, 1, h, w), weight (N, k, k, 1) and vectors bias, norm_weight and norm_bias (N)",
    unsupported=_unsupported_logits,
    fake=_fake_logits,
    **_OPTIONS,
)
def downsample_logits(
    logits: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    size: tuple[int, int],
    scale: float,
    shift: float,
    is_binary: bool,
    stride: int,
    padding: int,
    eps: float,
) -> Tensor:
    """Computes the first downsampling step of mask logits: :func:`scaled_masks`, then :func:`downsample_map`.

    Args:
        logits: Mask logits ``(B, 1, h, w)``.
        weight: Weight ``(N, k, k, 1)`` of the convolution.
        size, scale, shift, is_binary: Arguments of :func:`scaled_masks`; ``shift`` is passed as ``bias``.
        bias, norm_weight, norm_bias, stride, padding, eps: See :func:`downsample_map`.

    Returns:
        Maps ``(B, H', W', N)`` in the dtype of ``weight``.

    Raises:
        ValueError: If the shapes do not match.
    """
    x = scaled_masks(logits, (size[0], size[1]), scale, shift, is_binary, weight.dtype)
    x = x.reshape(*x.shape[::2], x.shape[3], 1)  # torch takes these strides as channels-last
    return downsample_map_reference(x, weight, bias, norm_weight, norm_bias, stride, padding, eps)


downsample_logits_reference, downsample_map_reference = downsample_logits.reference, downsample_map.reference
