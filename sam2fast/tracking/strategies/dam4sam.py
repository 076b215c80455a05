"""DAM4SAM: attends to frames that show a distractor beside the object, in addition to recent frames.

Videnovic et al., "A Distractor-Aware Memory for Visual Object Tracking with SAM2", 2024.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
from torch import Tensor

from sam2fast.kernels.mask_ops import upsample_and_threshold
from sam2fast.modeling.sam2_base import gather_chosen
from sam2fast.tracking.strategies.base import Attended, Decided, History, MaskCandidates, Strategy
from sam2fast.tracking.strategies.introspection import SIZES, Sizes, find_distractors


@dataclass(frozen=True)
class Dam4Sam(Strategy):
    """DAM4SAM, for any number of objects.

    If another candidate shows something outside of the selected mask, the frame has a distractor. The memory of a frame
    with a distractor is encoded from the binary mask. From two frames later on, a frame with a distractor counts as
    prompted. An object attends to at most four frames of both types: the newest, the first, and the next newest. Other
    memories come from the previous frame and from every fifth frame on which the object was visible, at any distance.

    Each step waits for the previous frame's results, to know if the object was visible. Candidates are compared at the
    size of the video, so large videos take longer.

    Unlike the published code, this class supports any number of objects, prompts on any frame, corrections and passes
    in both directions. Holes are not filled. Images are resized as in SAM 2.

    Args:
        conditioning: Maximum number of prompted frames and frames with a distractor to attend to.
        every: Stride of other memories in frames: the newest visible frame, and multiples of ``every``.

    Raises:
        ValueError: If ``conditioning`` or ``every`` is below 1.
    """

    conditioning: int = 4
    every: int = 5

    fill_hole_area: ClassVar[float | None] = 0
    state_size: ClassVar[int] = SIZES
    record_size: ClassVar[int] = 3  # area in low-resolution pixels, Sizes.since and Sizes.frames
    has_span: ClassVar[bool] = True
    at_video_size: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, value in (("conditioning", self.conditioning), ("every", self.every)):
            if value < 1:
                raise ValueError(f"{name} is {value}; expected 1 or more")

    def choose(self, candidates: MaskCandidates, state: Tensor) -> Decided:
        choice = candidates.best()
        visible = (gather_chosen(candidates.masks, choice) > 0).sum(dim=(2, 3)).double()
        if candidates.prompted:
            return Decided(choice, record=torch.cat([visible, torch.zeros_like(visible).expand(-1, 2)], dim=1))
        shown = upsample_and_threshold(candidates.masks, candidates.video_size)
        iou = candidates.ious.gather(1, choice)
        is_added, after = find_distractors(shown, choice, iou, Sizes.of(state), last=0)
        record = torch.cat([visible, after.since, after.frames], dim=1)
        return Decided(choice, torch.cat(after, dim=1), record, is_added)

    def attend(self, history: History) -> Attended:
        rules, prompted = history.rules, history.conditioning
        first = max(prompted, key=history.distance)
        anchors = self._conditioning(history, first)
        recent = list(islice(self._recent(history, anchors), rules.recent + 1 - len(anchors)))
        memories = [(t, rules.num_maskmem - 1) for t in anchors] + [(t, row) for row, t in enumerate(recent)]
        reach = max(1, min(history.distance(first) + 1, rules.max_pointers) - 1)
        pointers: list[tuple[int, int]] = []
        if rules.use_pointers:
            pointers = [(t, abs(history.distance(t))) for t in anchors]
            if rules.only_past_pointers:
                pointers = [(t, distance) for t, distance in pointers if history.distance(t) >= 0]
            near = islice(history.past(), reach)
            pointers += [(t, history.distance(t)) for t in near if t not in anchors and self._is_visible(history, t)]
        return Attended(memories, pointers, reach)

    def keep(self, history: History) -> Collection[int]:
        ordinary = (t for t in history.past() if self._is_ordinary(history, t, ()))
        newest = list(islice(ordinary, 1))
        older = islice((t for t in ordinary if t % self.every == 0), history.rules.recent)
        return {*super().keep(history), *islice(self._added(history), self.conditioning + 1), *newest, *older}

    def _conditioning(self, history: History, first: int) -> list[int]:
        """Returns prompted frames and frames with a distractor: newest, ``first``, nearest. Omits the neighbour."""
        most, limit = self.conditioning, history.rules.max_conditioning
        added = list(islice(self._added(history), most + 1))
        known = sorted({*added, *history.conditioning} - {history.neighbour}, key=lambda t: abs(history.distance(t)))
        newest = [t for t in known if history.distance(t) > 1][:1]
        return list(dict.fromkeys([*newest, first, *known]))[: min(most, limit) if limit >= 0 else most]

    def _added(self, history: History) -> Iterator[int]:
        """Yields frames with a distractor, nearest first. Finds these frames by the distances in records."""
        back, t = 1 if history.reverse else -1, history.neighbour
        while True:
            result = history.tracked.get(t)
            if result is None:
                further = [i for i in history.tracked if (i - t) * back > 0]
                if not further:
                    return
                t = min(further, key=lambda i: abs(i - t))
                continue
            _, since, count = map(int, result.record[0].tolist())
            if since == 1:
                yield t
            # Jumps to the last frame with a distractor. From a frame with a distractor, jumps by one frame. If no frame
            # has a distractor, jumps past the first tracked frame.
            jump = since - 1 if since > 1 else 1 if since == 1 else max(1, count)
            t += back * (jump if history.is_along(t) else 1)

    def _recent(self, history: History, anchors: Collection[int]) -> Iterator[int]:
        """Yields the newest frame on which the object was visible, then multiples of ``every``, nearest first."""
        past = history.past()
        newest = next(past, -1)  # the neighbour
        if newest in anchors or not self._is_visible(history, newest):
            newest = next((t for t in past if self._is_ordinary(history, t, anchors)), -1)
        if newest >= 0:
            yield newest
        yield from (t for t in past if t % self.every == 0 and self._is_ordinary(history, t, anchors))

    def _is_ordinary(self, history: History, frame: int, anchors: Collection[int]) -> bool:
        result = history.tracked.get(frame)
        if result is None or frame in anchors:
            return False
        visible, since, _ = result.record[0].tolist()
        return visible >= 1 and since != 1

    def _is_visible(self, history: History, frame: int) -> bool:
        if frame in history.tracked:
            return bool(history.tracked[frame].record[0, 0] >= 1)
        return frame in history.conditioning and bool((history.conditioning[frame].mask > 0).any())
