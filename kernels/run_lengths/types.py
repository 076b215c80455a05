"""Run lengths of many masks, and where masks lie on a canvas."""

from typing import NamedTuple

from torch import Tensor


class RunLengths(NamedTuple):
    """Masks as lengths of runs, down the columns from left to right, background and foreground in turn.

    The same counts as COCO's uncompressed ones, ``{"size": [H, W], "counts": [...]}``.
    """

    counts: Tensor  # (total) int32, pixels; a mask's first run is background and may be 0
    offsets: Tensor  # (N + 1) int64, where each mask's runs begin in counts, and their number
    size: tuple[int, int]  # (H, W)


class Placement(NamedTuple):
    """Where a mask lies on a larger canvas, which is background elsewhere."""

    origin: tuple[int, int]  # (y, x) of its top left pixel
    canvas: tuple[int, int]  # (H, W)
