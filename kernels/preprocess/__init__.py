"""Pixels as an image comes, to what the image encoder takes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sam2fast.kernels._dispatch import use_triton
from sam2fast.kernels._operators import call_with_gradient
from sam2fast.kernels.preprocess.operators import resize_and_normalise_operator
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
        ``(B, 3, *size)`` fp32; on GPUs its memory is in the order ``(B, *size, 3)``, as convolutions like it best.

    Raises:
        ValueError: the pixels have another shape or dtype, or there are none.

    Source: ``sam2.utils.transforms.SAM2Transforms``, to whose resizing that of torch is equal.
    """
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype not in (torch.uint8, torch.float32):
        raise ValueError(f"expected pixels (B, H, W, 3), uint8 or float32, got {tuple(pixels.shape)}, {pixels.dtype}")
    if 0 in pixels.shape[1:3]:
        raise ValueError(f"the image has no pixels: {tuple(pixels.shape)}")
    mean, std = list(mean), list(std)
    if use_triton("preprocess", pixels):
        return call_with_gradient(resize_and_normalise_operator, pixels, *size, mean, std, white)
    return resize_and_normalise_reference(pixels, size, mean, std, white)
