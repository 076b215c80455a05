"""Selects memories of confident frames, like the tracker of SAM 3."""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

from sam2fast.modeling.memory_selection import closest_conditioning_frames
from sam2fast.tracking.strategies.base import Attended, History, KeptResult, Strategy


@dataclass(frozen=True)
class Confident(Strategy):
    """Selects memories like SAM 3's video model, with SAM 2's weights.

    Memories and pointers come from the previous frame and the nearest confident frames, at any distance. Confidence is
    the predicted IoU times ``2 * sigmoid(score) - 1``. The temporal distance of a pointer is its rank by nearness.
    Objects attend to the first frame of the video only if it was prompted.

    If there are 15 confident frames before the previous frame, a step waits for the previous frame's score, to
    determine if there is a fifteenth pointer. With fewer confident frames, no step waits for the device.

    SAM 3 computes one confidence for all objects of a batch. In this class, each object has its own confidence. Holes
    are not filled.

    Args:
        least: Confidence above which a frame is confident.
        conditioning: Maximum number of prompted frames to attend to, nearest first. The model's limit may be lower.

    Raises:
        ValueError: If ``conditioning`` is below 2, since the nearest frames on both sides are attended to.
    """

    least: float = 0.01
    conditioning: int = 4

    fill_hole_area: ClassVar[float | None] = 0

    def __post_init__(self) -> None:
        if self.conditioning < 2:
            raise ValueError(f"conditioning is {self.conditioning}; expected 2 or more")

    def attend(self, history: History) -> Attended:
        rules, conditioning = history.rules, history.conditioning
        limit = min(self.conditioning, rules.max_conditioning) if rules.max_conditioning >= 0 else self.conditioning
        prompted = closest_conditioning_frames(history.frame, conditioning, limit)
        longest = min(history.num_frames, rules.max_pointers) - 1

        older = list(islice(self._good(history, history.past(rules.stride), skip=1), longest))
        # The neighbour takes the first row and the first rank, even without a result.
        recent = [history.neighbour, *older] if 0 <= history.neighbour < history.num_frames else []
        memories = [(t, rules.num_maskmem - 1) for t in prompted]
        memories += [(t, row) for row, t in enumerate(recent[: rules.recent]) if _has_result(history, t, prompted)]
        pointers: list[tuple[int, int]] = []
        if rules.use_pointers:
            pointers = [(t, history.distance(t)) for t in prompted if history.distance(t) >= 0]
            # The oldest confident frame has no pointer.
            if len(older) == longest and self._is_good(history, history.neighbour):
                recent = recent[:-1]
            ranks = enumerate(recent[:-1][:longest], start=1)
            pointers += [(t, rank) for rank, t in ranks if _has_result(history, t, prompted)]
        return Attended(memories, pointers)

    def keep(self, history: History) -> Collection[int]:
        stride, frames = history.rules.stride, set(super().keep(history))
        for frame in range(history.frame, history.frame - stride, -1):
            past = history._replace(frame=frame).past(stride)
            frames.update(islice(self._good(history, past, skip=0), history.rules.max_pointers))
        return frames

    def _good(self, history: History, frames: Iterator[int], skip: int) -> Iterator[int]:
        return (t for t in islice(frames, skip, None) if self._is_good(history, t))

    def _is_good(self, history: History, frame: int) -> bool:
        result = history.tracked.get(frame)
        is_allowed = frame > 0 or history.reverse
        return result is not None and is_allowed and confidence(result) > self.least


def confidence(result: KeptResult) -> float:
    """Returns the predicted IoU times ``2 * sigmoid(score) - 1``, or 0 if the object score is 0 or less."""
    score = float(result.score)
    return (2 / (1 + math.exp(-score)) - 1) * float(result.iou) if score > 0 else 0.0


def _has_result(history: History, frame: int, prompted: Collection[int]) -> bool:
    return frame in history.tracked or frame in history.conditioning and frame not in prompted
