"""Sums of pixel errors over a mask. All mask losses are computed from sums of pixel errors."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def mask_sums(logits: Tensor, targets: Tensor, gamma: float = 0.0, with_entropy: bool = False) -> Tensor:
    """Returns sums ``(..., 2 or 3, 2)`` of pixel errors over foreground and background.

    The backward pass needs only the inputs. Let ``s`` be the predicted probability of the wrong class, and ``ce =
    -log(1 - s)``. The first error of a pixel is ``s``, and the second error is ``ce * s**gamma``. If ``with_entropy``
    is True, the third error of a pixel is ``ce``.

    Args:
        logits: mask logits ``(..., P)`` for P pixels. The sums are in fp32, or in fp64 if the logits are in fp64.
        targets: bool masks of a shape that broadcasts to the shape of ``logits``.
    """
    return _MaskSums.apply(logits, targets, gamma, with_entropy)


def dice_from_sums(sums: Tensor, area: Tensor) -> Tensor:
    """Returns ``1 - (2 Σpy + 1) / (Σp + Σy + 1)``, ``(...)``, for targets of ``area (...)`` pixels."""
    hit, false = area - sums[..., 0, 0], sums[..., 0, 1]
    return 1 - (2 * hit + 1) / (hit + false + area + 1)


def focal_from_sums(sums: Tensor, alpha: float) -> Tensor:
    """Returns the focal loss ``(...)``, summed over the pixels of each mask.

    If ``alpha`` is not negative, foreground has weight ``alpha``, and background has weight ``1 - alpha``.
    """
    on, off = sums[..., 1, 0], sums[..., 1, 1]
    return alpha * on + (1 - alpha) * off if alpha >= 0 else on + off


def balanced_entropy_from_sums(sums: Tensor, area: Tensor, num_pixels: int) -> Tensor:
    """Averages the mean cross entropies of foreground and background. A mean over an empty region is 0."""
    on, off = sums[..., 2, 0], sums[..., 2, 1]
    return 0.5 * (on / area.clamp(min=1) + off / (num_pixels - area).clamp(min=1))


class _MaskSums(torch.autograd.Function):
    """Autograd function of :func:`mask_sums`."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, gamma: float, with_entropy: bool) -> Tensor:
        ctx.save_for_backward(logits, targets)
        ctx.gamma, ctx.with_entropy = gamma, with_entropy
        wrong, entropy, foreground = _wrongness(logits, targets)
        sums = []
        for value in (wrong, entropy * wrong**gamma, entropy)[: 3 if with_entropy else 2]:
            on = (value * foreground).sum(-1)
            sums.append(torch.stack([on, value.sum(-1) - on], dim=-1))
        return torch.stack(sums, dim=-2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        logits, targets = ctx.saved_tensors
        wrong, entropy, foreground = _wrongness(logits, targets)

        def weight(i: int) -> Tensor:
            on, off = grad[..., i, 0, None], grad[..., i, 1, None]
            return torch.addcmul(off, on - off, foreground)

        # Derivatives of the probability s and the cross entropy ce by the wrong class's logit: s' = s (1 - s) and ce' =
        # s.
        right = 1 - wrong
        result = weight(0).mul_(right).mul_(wrong)
        result += entropy.mul_(right).mul_(ctx.gamma).add_(wrong).mul_(wrong**ctx.gamma).mul_(weight(1))
        if ctx.with_entropy:
            result += weight(2).mul_(wrong)
        return result.mul_(1 - 2 * foreground).to(logits.dtype), None, None, None


def _wrongness(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the wrong class's probability, cross entropy and float targets in fp32, or in fp64 for fp64 logits."""
    if logits.dtype != torch.float64:
        logits = logits.float()
    foreground = targets.to(logits.dtype)
    against = logits * (1 - 2 * foreground)
    return torch.sigmoid(against), F.softplus(against, threshold=40), foreground
