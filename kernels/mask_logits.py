"""Fuses the last steps of the mask decoder: adds high-resolution features, and computes GELU and mask logits."""

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from sam2fast.kernels._op import op, why_unsupported

__all__ = ["mask_logits", "mask_logits_reference"]

WIDEST = 256  # maximum number of channels: a program of the kernel processes all channels of a pixel


def _fake(x: Tensor, features: Tensor | None, weights: Tensor) -> Tensor:
    return weights.new_empty(*weights.shape[:2], 4 * x.shape[1], 4 * x.shape[2])


@op(
    shapes="x (B, H, W, 2, 2, 2, 2, C), features (B or 1, 4 * H, 4 * W, C) and weights (B, M, C)",
    fits=lambda x, features, _: features is None or tuple(features.shape[1:3]) == (4 * x.shape[1], 4 * x.shape[2]),
    unsupported=partial(why_unsupported, widest=WIDEST),
    fake=_fake,
    compile_key=lambda x, features, weights: (x.shape[-1], weights.shape[1], features is None),
)
def mask_logits(x: Tensor, features: Tensor | None, weights: Tensor) -> Tensor:
    """Computes the logit of each mask and pixel: the dot product of the mask's weights and the pixel's GELU channels.

    Args:
        x: Maps ``(B, H, W, 2, 2, 2, 2, C)`` of 4H x 4W pixels. Each block of 4x4 pixels consists of 2x2 blocks of 2x2
            pixels.
        features: Maps ``(B or 1, 4 * H, 4 * W, C)`` in row-major order, added to ``x`` before GELU, or None.
        weights: Weights ``(B, M, C)`` of M masks.

    Returns:
        Logits ``(B, M, 4 * H, 4 * W)`` in the dtype of ``weights``.

    Raises:
        ValueError: If the shapes do not match.
    """
    B, H, W, C = *x.shape[:3], x.shape[-1]
    if features is not None:
        blocks = features.unflatten(2, (W, 2, 2)).unflatten(1, (H, 2, 2))
        x = x + blocks.permute(0, 1, 4, 2, 5, 3, 6, 7)
    pixels = F.gelu(x).to(weights.dtype).reshape(B, 16 * H * W, C)
    logits = (weights @ pixels.mT).unflatten(2, (H, W, 2, 2, 2, 2))
    return logits.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(B, weights.shape[1], 4 * H, 4 * W)


mask_logits_reference = mask_logits.reference
