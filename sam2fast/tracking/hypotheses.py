"""Several hypotheses of an object: each has a history of its own, and the first is the best.

On each frame a strategy with several says which hypothesis of the frame before each one continues, its ``parent``
(:class:`~sam2fast.tracking.strategies.base.Strategy`). Only a prompt ends them: it continues the best one alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from sam2fast.tracking.outputs import FrameResult, TrackScores
from sam2fast.utils.async_copies import copy_to_device

Kept = TypeVar("Kept")


def best_with_others(results: Sequence[FrameResult], hypotheses: int) -> list[FrameResult]:
    """The first of each object's ``hypotheses`` results, with the others."""
    best = list(results[::hypotheses])
    for i, result in enumerate(best):
        result.others = tuple(results[i * hypotheses + 1 : (i + 1) * hypotheses])
    return best


def continued(
    before: Sequence[Mapping[int, Kept]], rows: Sequence[FrameResult], frame: int, kept: Sequence[Kept]
) -> list[dict[int, Kept]]:
    """The history of each hypothesis by frame: that of its parent, and then the new frame.

    Args:
        before: of the hypotheses so far. All continue the first if it is the only one, as after a prompt.
        rows: results of the hypotheses on the frame.
        kept: of each hypothesis what its history has of the frame.
    """
    parents = [before[row.parent if len(before) > 1 else 0] for row in rows]
    pairs = zip(parents, kept, strict=True)
    return [{**{t: value for t, value in parent.items() if t != frame}, frame: new} for parent, new in pairs]


class Pathways:
    """Results of each hypothesis of the objects of a pass; those of hypotheses that ended are freed."""

    def __init__(self) -> None:
        self.frames: list[int] = []
        # Of each object, for each hypothesis, its masks, IoUs and scores by frame.
        self._paths: dict[Any, list[dict[int, tuple[Tensor, Tensor, Tensor]]]] = {}

    def add(self, frame: int, ids: Iterable[Any], results: Mapping[Any, FrameResult]) -> None:
        """Results that are not stored yet; waits for them."""
        self.frames.append(frame)
        for obj_id in ids:
            rows = results[obj_id], *results[obj_id].others
            arrived = [row.arrived() for row in rows]
            self._paths[obj_id] = continued(self._paths.get(obj_id, [{}]), rows, frame, arrived)

    def best(self, frame: int, ids: Iterable[Any], device: torch.device) -> TrackScores:
        """Of the hypotheses that are the best now."""
        masks, ious, scores = (torch.cat(x) for x in zip(*(self._paths[i][0][frame] for i in ids), strict=True))
        return TrackScores(*(copy_to_device(x, device) for x in (ious[:, 0], scores[:, 0], masks)))
