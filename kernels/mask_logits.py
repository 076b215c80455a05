"""Fuses the end of the mask decoder: high-resolution features are added, and GELU and products make logits of masks."""

import torch.nn.functional as F
from torch import Tensor

from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels._op import Op

__all__ = ["mask_logits", "mask_logits_reference"]

WIDEST = 256  # channels of a pixel, which a program holds together


def mask_logits(x: Tensor, features: Tensor | None, weights: Tensor) -> Tensor:
    """Computes logits of masks: products of a weight for each mask with the GELU of a map's pixels.

    Args:
        x: Maps ``(B, H, W, 2, 2, 2, 2, C)`` of 4H x 4W pixels, in blocks of 2x2 blocks of 2x2 pixels.
        features: Maps ``(B or 1, 4 * H, 4 * W, C)`` to be added, in the order of pixels, or None.
        weights: ``(B, M, C)`` of M masks.

    Returns:
        Logits ``(B, M, 4 * H, 4 * W)`` in the dtype of ``weights``.

    Raises:
        ValueError: If the shapes do not fit together.
    """
    B, H, W, *blocks, C = x.shape if x.ndim == 8 else (0, 0, 0, 0)
    sizes = () if features is None else tuple(features.shape)
    is_fitting = features is None or sizes[1:] == (4 * H, 4 * W, C) and sizes[0] in (1, B)
    if blocks != [2] * 4 or not is_fitting or weights.ndim != 3 or (weights.shape[0], weights.shape[2]) != (B, C):
        raise ValueError(
            "expected x (B, H, W, 2, 2, 2, 2, C), features (B or 1, 4 * H, 4 * W, C) and weights (B, M, C), "
            f"got {tuple(x.shape)}, {sizes or None} and {tuple(weights.shape)}"
        )
    return _mask_logits(x, features, weights)


# ---- reference implementation ----


def mask_logits_reference(x: Tensor, features: Tensor | None, weights: Tensor) -> Tensor:
    """Reference implementation of :func:`mask_logits`: one operation after the other."""
    B, H, W, C = *x.shape[:3], x.shape[-1]
    if features is not None:
        blocks = features.unflatten(2, (W, 2, 2)).unflatten(1, (H, 2, 2))
        x = x + blocks.permute(0, 1, 4, 2, 5, 3, 6, 7)
    pixels = F.gelu(x).to(weights.dtype).reshape(B, 16 * H * W, C)
    logits = (weights @ pixels.mT).unflatten(2, (H, W, 2, 2, 2, 2))
    return logits.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(B, weights.shape[1], 4 * H, 4 * W)


# ---- operator ----


def _unsupported(x: Tensor, *rest: object) -> str | None:
    if wrong := [each.dtype for each in (x, *rest) if isinstance(each, Tensor) and each.dtype not in FLOATS]:
        return f"does not take {wrong[0]}"
    return f"takes at most {WIDEST} channels, and got {x.shape[-1]}" if x.shape[-1] > WIDEST else None


def _fake(x: Tensor, features: Tensor | None, weights: Tensor) -> Tensor:
    B, M, _ = weights.shape
    return weights.new_empty(B, M, 4 * x.shape[1], 4 * x.shape[2])


_mask_logits = Op(
    "mask_logits",
    mask_logits_reference,
    "mask_logits_triton.mask_logits_triton",
    unsupported=_unsupported,
    fake=_fake,
    kind=lambda x, features, weights: (x.shape[-1], weights.shape[1], features is None),
)
