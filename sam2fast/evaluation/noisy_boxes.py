"""Simulates box prompts of true masks, for evaluation and training."""

import torch
from torch import Tensor

from sam2fast.kernels.mask_ops import masks_to_boxes


def noisy_boxes(masks: Tensor, uniform: Tensor, noise: float = 0.1, noise_bound: float = 20.0) -> Tensor:
    """Returns boxes ``(O, 4)`` fp32 of ``masks (O, 1, H, W)``, with each side moved by random noise.

    Args:
        uniform: Random numbers ``(O, 4)`` in [0, 1).
        noise: Maximum shift of a side, as a fraction of the box's width or height.
        noise_bound: Maximum shift of a side, in pixels.
    """
    boxes = masks_to_boxes(masks)[:, 0].float()
    reach = ((boxes[:, 2:] - boxes[:, :2]) * noise).clamp(max=noise_bound).repeat(1, 2)
    height, width = masks.shape[-2:]
    last = boxes.new_tensor([width - 1, height - 1]).repeat(2)
    return (boxes + (2 * uniform.float() - 1) * reach).clamp(min=torch.zeros_like(last), max=last)
