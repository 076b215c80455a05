"""SAM 2's own rule."""

from dataclasses import dataclass

from sam2fast.tracking.strategies.base import Strategy


@dataclass(frozen=True)
class Sam2(Strategy):
    """The mask with the highest predicted IoU; the nearest memories, by a fixed stride; the nearest pointers."""
