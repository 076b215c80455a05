"""Steps of the memory encoder's mask downsampler: a strided convolution, layer norm and GELU, on token-major maps."""

import torch
from torch import Tensor

from sam2fast.kernels._cpu import conv2d
from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels._launch import ANY
from sam2fast.kernels._op import Op
from sam2fast.kernels.layer_norm import layer_norm_reference
from sam2fast.kernels.mask_ops import scaled_masks

__all__ = [
    "downsample_logits",
    "downsample_logits_reference",
    "downsample_map",
    "downsample_map_reference",
]

WIDEST = 256  # channels of a result, which a program holds together
NARROW = 64  # channels up to which memory is the limit
FIRST = 4  # channels of the first result, which a thread holds together


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
    """Computes the first step from logits: :func:`scaled_masks`, then :func:`downsample_map`.

    Args:
        logits: Logits ``(B, 1, h, w)`` of masks.
        weight: ``(N, k, k, 1)`` of the convolution.
        size, scale, shift, is_binary: Arguments of :func:`scaled_masks`; ``shift`` is its ``bias``.
        bias, norm_weight, norm_bias, stride, padding, eps: Arguments of :func:`downsample_map`.

    Returns:
        Maps ``(B, H', W', N)`` in the dtype of ``weight``.

    Raises:
        ValueError: If the shapes do not fit together.
    """
    _check(logits, 1, weight, bias, norm_weight, norm_bias)
    return _downsample_logits(
        logits, weight, bias, norm_weight, norm_bias, size, scale, shift, is_binary, stride, padding, eps
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
    """Computes the exact GELU of the layer norm over channels of a convolution.

    Args:
        x: Maps ``(B, H, W, C)``.
        weight: ``(N, k, k, C)`` of the convolution.
        bias, norm_weight, norm_bias: ``(N)``.
        stride, padding: Stride and zero padding of the convolution, on both axes.
        eps: Added to the variance.

    Returns:
        Maps ``(B, H', W', N)`` in the dtype of ``weight``, with ``H' = (H + 2 * padding - k) // stride + 1``.

    Raises:
        ValueError: If the shapes do not fit together.
    """
    _check(x, x.shape[-1] if x.ndim else 0, weight, bias, norm_weight, norm_bias)
    return _downsample_map(x, weight, bias, norm_weight, norm_bias, stride, padding, eps)


def _check(x: Tensor, channels: int, weight: Tensor, *vectors: Tensor) -> None:
    N, k = weight.shape[:2] if weight.ndim == 4 else (0, 0)
    fits = x.ndim == 4 and weight.shape == (N, k, k, channels) and weight.numel() > 0
    if not fits or any(each.shape != (N,) for each in vectors):
        shapes = ", ".join(str(tuple(each.shape)) for each in (x, weight, *vectors))
        raise ValueError(
            f"expected logits (B, 1, h, w) or maps (B, H, W, C), weight (N, k, k, C) and vectors (N), got {shapes}"
        )


def shape_class(channels: int) -> str:
    """Returns the shape class of maps with ``channels`` channels."""
    return "wide" if channels > NARROW else ANY


def result_shape(size: tuple[int, int], weight: Tensor, stride: int, padding: int) -> tuple[int, int, int]:
    """Returns (H', W', N) of a map of ``size``."""
    H, W = ((side + 2 * padding - weight.shape[1]) // stride + 1 for side in size)
    return H, W, len(weight)


# ---- reference implementations ----


def downsample_logits_reference(
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
    """Reference implementation of :func:`downsample_logits`: one operation after the other."""
    x = scaled_masks(logits, (size[0], size[1]), scale, shift, is_binary, weight.dtype)
    x = x.reshape(*x.shape[::2], x.shape[3], 1)  # with strides by which convolutions keep the order
    return downsample_map_reference(x, weight, bias, norm_weight, norm_bias, stride, padding, eps)


def downsample_map_reference(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    stride: int,
    padding: int,
    eps: float,
) -> Tensor:
    """Reference implementation of :func:`downsample_map`: one operation after the other."""
    maps = conv2d(x.to(weight.dtype).permute(0, 3, 1, 2), weight.permute(0, 3, 1, 2), bias, stride, padding)
    return layer_norm_reference(maps.permute(0, 2, 3, 1), norm_weight, norm_bias, eps, weight.dtype, gelu=True)


# ---- operators ----


def _unsupported(x: Tensor, *rest: object) -> str | None:
    if torch.is_autocast_enabled(x.device.type):
        return "leaves convolutions under autocast to torch"
    if wrong := [each.dtype for each in (x, *rest) if isinstance(each, Tensor) and each.dtype not in FLOATS]:
        return f"does not take {wrong[0]}"
    return None


def _unsupported_logits(logits: Tensor, weight: Tensor, *rest: object) -> str | None:
    reason = _unsupported(logits, weight, *rest)
    return reason or (None if len(weight) == FIRST else f"takes {FIRST} channels, and got {len(weight)}")


def _unsupported_map(x: Tensor, weight: Tensor, *rest: object) -> str | None:
    reason = _unsupported(x, weight, *rest)
    if reason is None and x.dtype != weight.dtype:
        return f"takes maps and weights of one dtype, and got {x.dtype} and {weight.dtype}"
    return reason or (None if len(weight) <= WIDEST else f"takes at most {WIDEST} channels, and got {len(weight)}")


def _fake_logits(logits: Tensor, weight: Tensor, *rest: object) -> Tensor:
    size, stride, padding = rest[3], rest[7], rest[8]
    return weight.new_empty(len(logits), *result_shape(size, weight, stride, padding))  # type: ignore[arg-type]


def _fake_map(x: Tensor, weight: Tensor, *rest: object) -> Tensor:
    stride, padding = rest[3], rest[4]
    return weight.new_empty(len(x), *result_shape(x.shape[1:3], weight, stride, padding))  # type: ignore[arg-type]


def _prefers_torch(x: Tensor, weight: Tensor, *_: object) -> bool:
    return weight.dtype == torch.float32  # where torch's convolutions were not measured


_downsample_logits = Op(
    "downsample_logits",
    downsample_logits_reference,
    "mask_downsampler_triton.downsample_logits_triton",
    unsupported=_unsupported_logits,
    prefers_torch=_prefers_torch,
    fake=_fake_logits,
    kind=lambda logits, weight, *_: weight.shape,
)
_downsample_map = Op(
    "downsample_map",
    downsample_map_reference,
    "mask_downsampler_triton.downsample_map_triton",
    unsupported=_unsupported_map,
    prefers_torch=_prefers_torch,
    fake=_fake_map,
    kind=lambda x, weight, *_: weight.shape,
)
