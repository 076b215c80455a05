"""Fuses a depthwise convolution and layer norm on channels-last maps: the first half of a ConvNeXt block."""

from functools import partial

import torch
from torch import Tensor

from sam2fast.kernels._cpu import conv2d
from sam2fast.kernels._op import op, why_unsupported
from sam2fast.kernels.layer_norm import layer_norm_reference

__all__ = ["depthwise_norm", "depthwise_norm_reference"]

WIDEST = 1024  # maximum number of channels: a program of the kernel processes all channels of a position


@op(
    shapes="x (B, H, W, C), weight (k, k, C) with an odd k, and vectors shift, bias, norm_weight and norm_bias (C)",
    fits=lambda x, shift, weight, *_: len(weight) % 2 == 1 and x.shape[-1] > 0,
    unsupported=partial(why_unsupported, leaves="convolutions", widest=WIDEST),
    prefers_torch=lambda x, *_: x.dtype == torch.float32,  # fp32 speed was not compared
    fake=lambda x, *_: x.new_empty(x.shape),
    compile_key=lambda x, shift, weight, *_: (x.shape[-1], len(weight), shift is None),
)
def depthwise_norm(
    x: Tensor, shift: Tensor | None, weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor, eps: float
) -> Tensor:
    """Computes a depthwise convolution with zero padding that keeps the map size, and layer norm over channels.

    Args:
        x: Maps ``(B, H, W, C)``.
        shift: Vector ``(C)``, added to each position of ``x`` but not to the padding, or None.
        weight: Weight ``(k, k, C)`` of the convolution, with an odd k.
        bias: Bias ``(C)`` of the convolution.
        norm_weight, norm_bias: Weight and bias ``(C)`` of the layer norm.
        eps: Value added to the variance.

    Returns:
        Maps ``(B, H, W, C)`` in the dtype of ``x``.

    Raises:
        ValueError: If the shapes do not match.
    """
    maps = (x if shift is None else x + shift).to(weight.dtype).permute(0, 3, 1, 2)
    maps = conv2d(maps, weight.permute(2, 0, 1)[:, None], bias, padding=len(weight) // 2, groups=maps.shape[1])
    return layer_norm_reference(maps.permute(0, 2, 3, 1), norm_weight, norm_bias, eps, x.dtype)


depthwise_norm_reference = depthwise_norm.reference
