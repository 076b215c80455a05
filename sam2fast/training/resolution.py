"""Losses at less than the image's resolution."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2fast.training.model import PredictedFrame


class AtResolution(nn.Module):
    """Another loss, computed on masks of ``size`` x ``size`` pixels.

    The decoder's masks are a quarter as wide as the image. Where their upsampling and the loss at full size cost as
    much as the model itself, as they do for a small one, half the width loses little.

    Args:
        loss: any of :mod:`sam2fast.training.losses`.
        size: side of the masks; must divide the images' side.
    """

    def __init__(self, loss: nn.Module, size: int) -> None:
        super().__init__()
        self.loss = loss
        self.size = size

    @property
    def where(self) -> float:
        """The share of the training that is done, for losses that change with it."""
        return float(getattr(self.loss, "where", 0.0))

    @where.setter
    def where(self, value: float) -> None:
        if hasattr(self.loss, "where"):
            setattr(self.loss, "where", value)  # noqa: B010 (a module's attributes are tensors to mypy)

    def forward(self, frames: Sequence[PredictedFrame], masks: Tensor) -> dict[str, Tensor]:
        """The loss of predicted frames against true ``masks (T, O, S, S)``.

        Raises:
            ValueError: the size does not divide the masks'.
        """
        if masks.shape[-1] < self.size or masks.shape[-1] % self.size:
            raise ValueError(f"masks of {masks.shape[-1]} pixels cannot be sampled at {self.size}")
        smaller = [replace(frame, multimasks_high_res=self._resized(frame.multimasks)) for frame in frames]
        return self.loss(smaller, sample_masks(masks, self.size))

    def _resized(self, masks: Sequence[Tensor]) -> list[Tensor]:
        size = (self.size, self.size)
        return [F.interpolate(m, size=size, mode="bilinear", align_corners=False) for m in masks]


def sample_masks(masks: Tensor, size: int) -> Tensor:
    """``masks (..., S, S)`` at the centres of ``size`` x ``size`` cells.

    With an even stride the centre lies between four pixels; cells take the one above it on the left and the one below
    it on the right in turn, like the squares of a chessboard, so that outlines are not shifted.
    """
    stride = masks.shape[-1] // size
    before, after = (stride - 1) // 2, stride // 2
    cell = torch.arange(size, device=masks.device)
    chequered = (cell[:, None] + cell) % 2 == 0
    first, second = (masks[..., start::stride, start::stride] for start in (before, after))
    return torch.where(chequered, first, second)
