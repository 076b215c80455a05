"""Reference implementation of resizing and normalising."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_and_normalise_reference(
    pixels: Tensor, size: tuple[int, int], mean: Sequence[float], std: Sequence[float], white: float
) -> Tensor:
    """Reference implementation of :func:`resize_and_normalise`: torch's antialiased resizing, then normalising."""
    if tuple(pixels.shape[1:3]) == tuple(size):
        image = pixels.permute(0, 3, 1, 2).contiguous().float()  # moved as bytes
    elif pixels.device.type == "mps":  # has no antialiased resizing
        return resize_and_normalise_reference(pixels.cpu(), size, mean, std, white).to(pixels.device)
    else:
        image = pixels.permute(0, 3, 1, 2).float()
        image = F.interpolate(image, size=size, mode="bilinear", align_corners=False, antialias=True)
    # Divisors on the device: by a number on the CPU, CUDA multiplies by its reciprocal.
    on_device = [torch.tensor(values, device=image.device) for values in (white, mean, std)]
    whites, means, stds = (x.view(-1, 1, 1) for x in on_device)
    return (image / whites - means) / stds
