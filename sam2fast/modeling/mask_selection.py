"""Selection of an object's mask among the decoder's masks of an ambiguous prompt or a tracked frame."""

from typing import Protocol

import torch
from torch import Tensor


class MaskSelection(Protocol):
    """A custom selection between M > 1 masks of each of B objects."""

    def __call__(self, masks: Tensor, ious: Tensor, scores: Tensor) -> Tensor:
        """
        Args:
            masks: ``(B, M, h, w)`` fp32 logits at the decoder's size; -1024 everywhere for an absent object.
            ious: ``(B, M)`` predicted IoU of each mask.
            scores: ``(B, 1)`` logit of the object's presence.

        Returns:
            ``(B, 1)`` int64 on the same device: which mask, from 0.
        """
        ...


class HypothesisSelection(MaskSelection, Protocol):
    """A selection whose rows are hypotheses, which others may replace."""

    @property
    def parents(self) -> Tensor | None:
        """``(B,)`` int64: the row whose masks the last call selected from for each row; None for its own."""
        ...


def select_masks(selection: MaskSelection | None, masks: Tensor, ious: Tensor, scores: Tensor) -> Tensor:
    """Indices ``(B, 1)`` of the selected masks; without a custom selection, those with the highest IoU.

    Raises:
        ValueError: the selection did not return indices of masks. Their values are not checked while a CUDA graph is
            captured.
    """
    B, M = ious.shape
    if selection is None or M == 1:
        return ious.argmax(dim=-1, keepdim=True)
    choice = selection(masks, ious, scores)
    if not isinstance(choice, Tensor):
        raise ValueError(f"mask_selection returned {type(choice).__name__}; expected an int64 tensor ({B}, 1)")
    if choice.shape != (B, 1) or choice.dtype != torch.int64 or choice.device != ious.device:
        raise ValueError(
            f"mask_selection returned {choice.dtype} {tuple(choice.shape)} on {choice.device}; "
            f"expected int64 ({B}, 1) on {ious.device}"
        )
    if B and not _is_capturing(choice):
        low, high = (int(end) for end in choice.aminmax())
        if low < 0 or high >= M:
            raise ValueError(f"mask_selection returned indices from {low} to {high}; expected 0 to {M - 1}")
    return choice


def gather_chosen(x: Tensor, choice: Tensor) -> Tensor:
    """``(B, 1, ...)`` of ``x (B, M, ...)``, by indices ``(B, 1)``."""
    # Not take_along_dim, which computes indices of its own.
    return x.gather(1, choice.reshape(*choice.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:]))


def _is_capturing(x: Tensor) -> bool:
    return x.is_cuda and torch.cuda.is_current_stream_capturing()
