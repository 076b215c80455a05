"""Selects each object's mask by predicted IoU, and overwrites masks of absent objects."""

import torch
from torch import Tensor

from sam2fast.kernels._op import op, why_unsupported

__all__ = ["ABSENT", "choose_masks", "choose_masks_reference"]

ABSENT = -1024.0  # logit of every pixel in the mask of an absent object


def _select(x: Tensor, choice: Tensor) -> Tensor:
    return x.gather(1, choice.reshape(len(x), 1, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:]))


def empty_results(masks: Tensor, ious: Tensor, tokens: Tensor, scores: Tensor, *_: object) -> tuple[Tensor, ...]:
    """Returns empty tensors for the results of :func:`choose_masks`."""
    B, h, w, C = len(masks), *masks.shape[2:], tokens.shape[2]
    choice, seen = ious.new_empty(B, 1, dtype=torch.int64), scores.new_empty(B, 1, dtype=torch.bool)
    return masks.new_empty(B, 1, h, w), ious.new_empty(B, 1), tokens.new_empty(B, C), choice, seen


@op(
    shapes="masks (B, M, h, w), ious (B, M), tokens (B, M or 1, C) and scores (B, 1) of at least one mask",
    fits=lambda masks, ious, *_: ious.shape[1] > 0,
    unsupported=why_unsupported,
    fake=empty_results,
    is_chosen_late=True,
    compile_key=lambda masks, ious, *_: ious.shape[1],
)
def choose_masks(
    masks: Tensor, ious: Tensor, tokens: Tensor, scores: Tensor, presence: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Selects the mask with the largest predicted IoU for each of B objects. Among equal IoUs, selects the first mask.

    Args:
        masks: Logits ``(B, M, h, w)``.
        ious: Predicted IoUs ``(B, M)``.
        tokens: Output tokens ``(B, M or 1, C)`` of the masks.
        scores: Object scores ``(B, 1)``: logits of each object's presence.
        presence: Threshold of scores above which an object is present. If None, all objects are present.

    Returns:
        Selected logits ``(B, 1, h, w)``, IoUs ``(B, 1)``, tokens ``(B, C)``, indices of masks ``(B, 1)`` int64, and
        presence of objects ``(B, 1)`` bool. Logits of absent objects are -1024.

    Raises:
        ValueError: If the shapes do not match.
    """
    choice = ious.argmax(dim=1, keepdim=True)
    mask, token = _select(masks, choice), _select(tokens, choice) if tokens.shape[1] > 1 else tokens
    if presence is None:
        seen = torch.ones_like(scores, dtype=torch.bool)
    else:
        seen = scores > presence
        mask = mask.masked_fill((~seen)[:, :, None, None], ABSENT)
    return mask, ious.gather(1, choice), token[:, 0].clone(), choice, seen


choose_masks_reference = choose_masks.reference
