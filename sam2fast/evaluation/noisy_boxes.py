"""Simulates box prompts of true masks, for evaluation and training."""

import torch
from torch import Tensor

from sam2fast.kernels.mask_ops import masks_to_boxes


def noisy_boxes(masks: Tensor, uniform: Tensor, noise: float = 0.1, noise_bound: float = 20.0) -> Tensor:
    """Returns boxes ``(O, 4)`` fp32 of ``masks (O, 1, H, W)``. Each side of a box is moved by random noise.

    ``uniform (O, 4)`` is in [0, 1). A side moves by at most ``noise`` of the box's size and ``noise_bound`` pixels.
    """
    boxes = masks_to_boxes(masks)[:, 0].float()
    reach = ((boxes[:, 2:] - boxes[:, :2]) * noise).clamp(max=noise_bound).repeat(1, 2)
    height, width = masks.shape[-2:]
    last = boxes.new_tensor([width - 1, height - 1]).repeat(2)
    return (boxes + (2 * uniform.float() - 1) * reach).clamp(min=torch.zeros_like(last), max=last)
