"""Selection of an object's mask among the decoder's masks of an ambiguous prompt or a tracked frame."""

from typing import Protocol

from torch import Tensor


class HypothesisSelection(Protocol):
    """Replaces the selection of the highest predicted IoU between M masks of each of B rows.

    Rows are hypotheses; one may take over the masks of another (:attr:`parents`).
    """

    @property
    def parents(self) -> Tensor | None:
        """``(B,)`` int64: the row whose masks the last call selected from for each row; None for its own."""
        ...

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


def gather_chosen(x: Tensor, choice: Tensor) -> Tensor:
    """``(B, 1, ...)`` of ``x (B, M, ...)``, by indices ``(B, 1)``."""
    # Not take_along_dim, which computes indices of its own.
    return x.gather(1, choice.reshape(*choice.shape, *[1] * (x.ndim - 2)).expand(-1, -1, *x.shape[2:]))
