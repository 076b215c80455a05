"""Preprocesses images for the image encoder."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from sam2fast.kernels._op import op

__all__ = ["MEAN", "STD", "resize_and_normalise", "resize_and_normalise_reference"]

# Mean and standard deviation of pixels between 0 and 1, for SAM 2 and most related models.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _fits(pixels: Tensor, *_: object) -> bool:
    if 0 in pixels.shape[1:3]:
        raise ValueError(f"the image has no pixels: {tuple(pixels.shape)}")
    return pixels.dtype in (torch.uint8, torch.float32)


def _fake(pixels: Tensor, size: tuple[int, int], *_: object) -> Tensor:
    return pixels.new_empty(len(pixels), *size, 3, dtype=torch.float32).permute(0, 3, 1, 2)


@op(
    shapes="pixels (B, H, W, 3) of uint8 or float32",
    fits=_fits,
    layout=lambda out: out.contiguous(memory_format=torch.channels_last),
    fake=_fake,
    launches="preprocess",
)
def resize_and_normalise(
    pixels: Tensor, size: tuple[int, int], mean: Sequence[float], std: Sequence[float], white: float
) -> Tensor:
    """Resizes pixels bilinearly with antialiasing, and computes ``(pixels / white - mean) / std``.

    Args:
        pixels: Pixels ``(B, H, W, 3)`` uint8 or fp32.
        size: Height and width of the result.
        mean, std: Mean and standard deviation of the three colours, for pixels between 0 and 1.
        white: Largest value of a pixel, 255 or 1.

    Returns:
        Images ``(B, 3, *size)`` fp32. On GPUs, images are channels-last, for faster convolutions.

    Raises:
        ValueError: If ``pixels`` have another shape or dtype, or H or W is 0.

    Source: ``sam2.utils.transforms.SAM2Transforms``. The original's resizing equals torch's antialiased resizing.
    """
    if tuple(pixels.shape[1:3]) == tuple(size):
        image = pixels.permute(0, 3, 1, 2).contiguous().float()  # copies uint8 pixels, then converts
    elif pixels.device.type == "mps":  # torch has no antialiased resizing for MPS
        return resize_and_normalise_reference(pixels.cpu(), size, mean, std, white).to(pixels.device)
    else:
        image = pixels.permute(0, 3, 1, 2).float()
        image = F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)
    # Divisors are tensors on the device, since torch on CUDA multiplies by the reciprocal of a CPU scalar.
    on_device = [torch.tensor(values, device=image.device) for values in (white, mean, std)]
    whites, means, stds = (x.view(-1, 1, 1) for x in on_device)
    return (image / whites).sub_(means).div_(stds)  # without other tensors of the image's size


resize_and_normalise_reference = resize_and_normalise.reference
