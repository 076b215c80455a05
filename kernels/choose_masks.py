"""Chooses each object's mask by its predicted IoU, and replaces masks of absent objects."""

import torch
from torch import Tensor

from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels._op import Op

__all__ = ["ABSENT", "choose_masks", "choose_masks_reference"]

ABSENT = -1024.0  # logit of masks of absent objects


def choose_masks(
    masks: Tensor, ious: Tensor, tokens: Tensor, scores: Tensor, presence: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Chooses the mask with the largest predicted IoU for each of B objects; the first of equal ones.

    Args:
        masks: Logits ``(B, M, h, w)``.
        ious: ``(B, M)``.
        tokens: ``(B, M or 1, C)`` of the masks.
        scores: ``(B, 1)`` logits of the objects' presence.
        presence: Score above which an object is present. None if all are.

    Returns:
        Logits ``(B, 1, h, w)``, -1024 for absent objects, the IoU ``(B, 1)``, the token ``(B, C)``, the number of the
        mask ``(B, 1)`` int64, and True ``(B, 1)`` for each present object.

    Raises:
        ValueError: If the shapes do not fit together.
    """
    B, M = ious.shape if ious.ndim == 2 else (0, 0)
    sizes = [tuple(x.shape) for x in (masks, ious, tokens, scores)]
    is_fitting = masks.ndim == 4 and sizes[0][:2] == (B, M) and scores.shape == (B, 1)
    if not (M and is_fitting and tokens.ndim == 3 and sizes[2][0] == B and sizes[2][1] in (1, M)):
        raise ValueError(
            "expected masks (B, M, h, w), ious (B, M), tokens (B, M or 1, C) and scores (B, 1), "
            f"got {', '.join(map(str, sizes))}"
        )
    return _choose_masks(masks, ious, tokens, scores, presence)


# ---- reference implementation ----


def choose_masks_reference(
    masks: Tensor, ious: Tensor, tokens: Tensor, scores: Tensor, presence: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Reference implementation of :func:`choose_masks`."""
    choice = ious.argmax(dim=1, keepdim=True)
    mask, token = _chosen(masks, choice), _chosen(tokens, choice) if tokens.shape[1] > 1 else tokens
    if presence is None:
        seen = torch.ones_like(scores, dtype=torch.bool)
    else:
        seen = scores > presence
        mask = mask.masked_fill((~seen)[:, :, None, None], ABSENT)
    return mask, ious.gather(1, choice), token[:, 0].clone(), choice, seen


def _chosen(x: Tensor, choice: Tensor) -> Tensor:
    return x.gather(1, choice.reshape(len(x), 1, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:]))


# ---- operator ----


def _unsupported(*given: object) -> str | None:
    wrong = [x.dtype for x in given if isinstance(x, Tensor) and x.dtype not in FLOATS]
    return f"does not take {wrong[0]}" if wrong else None


def _fake(
    masks: Tensor, ious: Tensor, tokens: Tensor, scores: Tensor, presence: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    (B, _, h, w), C = masks.shape, tokens.shape[2]
    choice, seen = ious.new_empty(B, 1, dtype=torch.int64), scores.new_empty(B, 1, dtype=torch.bool)
    return masks.new_empty(B, 1, h, w), ious.new_empty(B, 1), tokens.new_empty(B, C), choice, seen


_choose_masks = Op(
    "choose_masks",
    choose_masks_reference,
    "choose_masks_triton.choose_masks_triton",
    unsupported=_unsupported,
    fake=_fake,
    is_chosen_late=True,
    kind=lambda masks, ious, *_: ious.shape[1],
)
