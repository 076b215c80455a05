"""Preprocessing of images for the image encoder."""

from collections.abc import Sequence
from typing import List  # noqa: UP035  (what the oldest supported torch reads in a schema)

import torch
from torch import Tensor

from sam2fast.kernels._dispatch import use_triton
from sam2fast.kernels._operators import call_with_gradient, register_operator
from sam2fast.kernels.preprocess.reference import resize_and_normalise_reference

__all__ = ["resize_and_normalise", "resize_and_normalise_reference"]


def resize_and_normalise(
    pixels: Tensor, size: tuple[int, int], mean: Sequence[float], std: Sequence[float], white: float
) -> Tensor:
    """Bilinear resizing with antialiasing, then ``(pixels / white - mean) / std``.

    Args:
        pixels: ``(B, H, W, 3)`` uint8 or fp32.
        size: height and width of the result.
        mean, std: three numbers each, of pixels between 0 and 1.
        white: the largest value of a pixel, 255 or 1.

    Returns:
        ``(B, 3, *size)`` fp32; on GPUs in channels-last memory order, which convolutions prefer.

    Raises:
        ValueError: the pixels have another shape or dtype, or there are none.

    Source: ``sam2.utils.transforms.SAM2Transforms``, whose resizing equals torch's.
    """
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype not in (torch.uint8, torch.float32):
        raise ValueError(f"expected pixels (B, H, W, 3), uint8 or float32, got {tuple(pixels.shape)}, {pixels.dtype}")
    if 0 in pixels.shape[1:3]:
        raise ValueError(f"the image has no pixels: {tuple(pixels.shape)}")
    mean, std = list(mean), list(std)
    if use_triton("preprocess", pixels):
        return call_with_gradient(resize_and_normalise_operator, pixels, *size, mean, std, white)
    return resize_and_normalise_reference(pixels, size, mean, std, white)


def _by_reference(pixels: Tensor, height: int, width: int, mean: list[float], std: list[float], white: float) -> Tensor:
    image = resize_and_normalise_reference(pixels, (height, width), mean, std, white)
    return image.contiguous(memory_format=torch.channels_last)


@register_operator("sam2fast::resize_and_normalise", _by_reference)
def resize_and_normalise_operator(
    pixels: Tensor,
    height: int,
    width: int,
    mean: List[float],  # noqa: UP006
    std: List[float],  # noqa: UP006
    white: float,
) -> Tensor:
    """Pixels to fp32 ``(B, 3, height, width)``, channels last in memory."""
    from sam2fast.kernels.preprocess.kernel import resize_and_normalise_triton

    return resize_and_normalise_triton(pixels, (height, width), mean, std, white)


@resize_and_normalise_operator.register_fake
def _(pixels: Tensor, height: int, width: int, mean: list[float], std: list[float], white: float) -> Tensor:
    out = pixels.new_empty(len(pixels), height, width, 3, dtype=torch.float32)
    return out.permute(0, 3, 1, 2)
