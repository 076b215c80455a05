"""Fuses a depthwise convolution and the layer norm of its result, on token-major maps: ConvNeXt's first half."""

import torch
from torch import Tensor

from sam2fast.kernels._cpu import conv2d
from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels._op import Op
from sam2fast.kernels.layer_norm import layer_norm_reference

__all__ = ["depthwise_norm", "depthwise_norm_reference"]

WIDEST = 1024  # channels of a position, which a program holds together


def depthwise_norm(
    x: Tensor,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
) -> Tensor:
    """Computes the layer norm over channels of a depthwise convolution, which keeps the map's size.

    Args:
        x: Maps ``(B, H, W, C)``, padded with zeros.
        shift: ``(C)`` to be added to each position of ``x``, but not to its padding, or None.
        weight: ``(k, k, C)`` of the convolution, with an odd k.
        bias: ``(C)`` of the convolution.
        norm_weight, norm_bias: ``(C)``.
        eps: Added to the variance.

    Returns:
        Maps ``(B, H, W, C)`` in the dtype of ``x``.

    Raises:
        ValueError: If the shapes do not fit together.
    """
    C = x.shape[-1] if x.ndim == 4 else 0
    k = weight.shape[0] if weight.ndim else 0
    vectors = [each for each in (shift, bias, norm_weight, norm_bias) if each is not None]
    if C == 0 or k % 2 == 0 or weight.shape != (k, k, C) or any(each.shape != (C,) for each in vectors):
        shapes = ", ".join(str(tuple(each.shape)) for each in (x, weight, *vectors))
        raise ValueError(f"expected x (B, H, W, C), weight (k, k, C) with an odd k, and vectors (C), got {shapes}")
    return _depthwise_norm(x, shift, weight, bias, norm_weight, norm_bias, eps)


# ---- reference implementation ----


def depthwise_norm_reference(
    x: Tensor,
    shift: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
) -> Tensor:
    """Reference implementation of :func:`depthwise_norm`: one operation after the other."""
    maps = (x if shift is None else x + shift).to(weight.dtype).permute(0, 3, 1, 2)
    maps = conv2d(maps, weight.permute(2, 0, 1)[:, None], bias, padding=len(weight) // 2, groups=maps.shape[1])
    return layer_norm_reference(maps.permute(0, 2, 3, 1), norm_weight, norm_bias, eps, x.dtype)


# ---- operator ----


def _unsupported(x: Tensor, *rest: object) -> str | None:
    if torch.is_autocast_enabled(x.device.type):
        return "leaves convolutions under autocast to torch"
    if wrong := [each.dtype for each in (x, *rest) if isinstance(each, Tensor) and each.dtype not in FLOATS]:
        return f"does not take {wrong[0]}"
    return f"takes at most {WIDEST} channels, and got {x.shape[-1]}" if x.shape[-1] > WIDEST else None


_depthwise_norm = Op(
    "depthwise_norm",
    depthwise_norm_reference,
    "depthwise_norm_triton.depthwise_norm_triton",
    unsupported=_unsupported,
    prefers_torch=lambda x, *_: x.dtype == torch.float32,  # where torch's convolutions were not measured
    fake=lambda x, *_: x.new_empty(x.shape),
    kind=lambda x, shift, weight, *_: (x.shape[-1], len(weight), shift is None),
)
