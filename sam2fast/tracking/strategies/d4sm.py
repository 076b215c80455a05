"""DAM4SAM for several objects, by its authors: positions in an ordered list of memories become their rows.

Videnovic et al., "Distractor-Aware Memory-Based Visual Object Tracking", 2025.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from sam2fast.kernels.mask_ops import fill_holes_in_mask_scores, upsample_and_threshold
from sam2fast.modeling.memory_selection import closest_conditioning_frames
from sam2fast.modeling.sam2_base import gather_chosen
from sam2fast.tracking.strategies.base import Attended, Decided, History, MaskCandidates, Strategy
from sam2fast.tracking.strategies.introspection import SIZES, Sizes, find_distractors

PLACES, DISTRACTORS, EVERY = 8, 3, 5  # length of the list; frames with a distractor in it; frames between recent ones
POINTERS = 15  # besides the prompt's
RECENT, DISTRACTOR = 1, 2  # kinds of memories


class Memories(NamedTuple):
    """Stores the list of B objects after a frame, without the prompt, the oldest first; fp64."""

    ages: Tensor  # (B, PLACES) frames ago
    kinds: Tensor  # (B, PLACES) RECENT, DISTRACTOR, or 0 behind the last
    pointers: Tensor  # (B, POINTERS) frames ago plus 1, the newest first; 0 for none
    pending: Tensor  # (B, 1) 1 if the last entry becomes a distractor
    number: Tensor  # (B, 1) number of the frame, counted from the prompt

    @classmethod
    def of(cls, state: Tensor) -> "Memories":
        """Reads a state ``(B, LIST)``."""
        return cls(*state.split([PLACES, PLACES, POINTERS, 1, 1], dim=1))

    def older(self) -> "Memories":
        """Returns the list one frame later."""
        pointers = torch.where(self.pointers > 0, self.pointers + 1, 0.0)
        return self._replace(ages=self.ages + 1, pointers=pointers, number=self.number + 1)

    def with_pending(self) -> "Memories":
        """Makes a pending entry a memory with a distractor. If there are too many, the oldest leaves."""
        is_last = self._places() == self._length() - 1
        kinds = torch.where(is_last & (self.pending > 0), float(DISTRACTOR), self.kinds)
        return self._replace(kinds=kinds, pending=torch.zeros_like(self.pending))._limited(DISTRACTOR, 0)

    def with_frame(self) -> "Memories":
        """Adds this frame, on which the object is visible."""
        newest = torch.cat([torch.ones_like(self.number), self.pointers[:, :-1]], dim=1)
        is_recent = self.kinds == RECENT
        place = torch.where(is_recent, self._places(), -1).amax(dim=1, keepdim=True)
        age = self.ages.gather(1, place.clamp(min=0))
        is_kept = (place < 0) | (torch.remainder(self.number - age, EVERY) == 0)
        is_new = self._places() == torch.where(is_kept, self._length(), place)
        ages, kinds = torch.where(is_new, 0.0, self.ages), torch.where(is_new, float(RECENT), self.kinds)
        return self._replace(ages=ages, kinds=kinds, pointers=newest)._limited(RECENT, PLACES - 2)

    def _limited(self, kind: int, length: int) -> "Memories":
        """Drops the oldest entry of a kind with more than ``DISTRACTORS``, if the list is longer than ``length``."""
        is_kind = self.kinds == kind
        is_first = is_kind & (is_kind.cumsum(dim=1) == 1)
        leaves = is_first & (is_kind.sum(dim=1, keepdim=True) > DISTRACTORS) & (self._length() > length)
        order = torch.where(leaves, PLACES, self._places()).argsort(dim=1)
        kinds = torch.where(leaves, 0.0, self.kinds)
        return self._replace(ages=self.ages.gather(1, order), kinds=kinds.gather(1, order))

    def _places(self) -> Tensor:
        return torch.arange(PLACES, device=self.kinds.device).expand(len(self.kinds), -1)

    def _length(self) -> Tensor:
        return (self.kinds > 0).sum(dim=1, keepdim=True)


LIST = 2 * PLACES + POINTERS + 2


@dataclass(frozen=True)
class D4sm(Strategy):
    """DAM4SAM as its authors published it for several objects.

    Memories are a list: the prompt, recent frames on which the object was seen, and up to three frames with a
    distractor. Recent frames are the newest, and earlier ones at multiples of five frames from the prompt. Their rows
    count the entries behind them. Pointers come from the prompt and the newest 15 frames on which the object was seen.
    Frames without the object change nothing, so that memories do not age while it is away.

    Every frame waits for the last frame's list. Candidates are compared at the size of the video, which takes time for
    large videos.

    Unlike the published code, it supports prompts on any frame, corrections and passes in both directions. Other
    prompted frames are attended to besides the list. A prompt empties the list.
    """

    fill_hole_area: ClassVar[float | None] = 8
    state_size: ClassVar[int] = SIZES + LIST
    record_size: ClassVar[int] = LIST + 1  # the list, and 1 on a frame with a distractor
    has_span: ClassVar[bool] = True
    at_video_size: ClassVar[bool] = True

    def choose(self, candidates: MaskCandidates, state: Tensor) -> Decided:
        choice, masks = candidates.best(), candidates.masks
        if candidates.prompted and candidates.conditioning:
            return Decided(choice)
        if candidates.prompted:  # a correction is the first of the list
            corrected = Memories.of(state[:, SIZES:]).with_frame()
            return Decided(choice, torch.cat([state[:, :SIZES], *corrected], 1), _record(corrected, choice < 0))
        assert self.fill_hole_area is not None
        chosen = fill_holes_in_mask_scores(gather_chosen(masks, choice), self.fill_hole_area)
        is_chosen = torch.arange(masks.shape[1], device=masks.device) == choice
        masks = torch.where(is_chosen[..., None, None], chosen, masks)
        shown = upsample_and_threshold(masks, candidates.video_size)
        before = Sizes.of(state[:, :SIZES])
        iou = candidates.ious.gather(1, choice)
        is_added, found = find_distractors(shown, choice, iou, before, last=1)
        # Only frames on which the object is visible have sizes. On others there is no ratio, and nothing is added.
        is_visible = gather_chosen(shown, choice).flatten(1).any(dim=1, keepdim=True)
        sizes = Sizes(*(torch.where(is_visible, new, old) for new, old in zip(found, before, strict=True)))
        sizes = sizes._replace(since=found.since)

        memories = Memories.of(state[:, SIZES:]).older().with_pending()
        seen = memories.with_frame()._replace(pending=is_added.double())
        after = [torch.where(is_visible, new, old) for new, old in zip(seen, memories, strict=True)]
        return Decided(choice, torch.cat([*sizes, *after], dim=1), _record(after, is_added))

    def attend(self, history: History) -> Attended:
        rules = history.rules
        chosen = closest_conditioning_frames(history.frame, history.conditioning, rules.max_conditioning)
        memories, pointers = self._frames(history)
        last = len(memories) - 1
        attended = [(t, rules.num_maskmem - 1) for t in chosen]
        for place, (t, kind) in enumerate(memories):
            if t in history.tracked:
                attended.append((t, rules.num_maskmem - 1 if kind == DISTRACTOR else last - place))
        ranked: list[tuple[int, int]] = []
        if rules.use_pointers:
            ranked = [(t, abs(history.distance(t))) for t in chosen]
            ranked += [(t, rank) for rank, t in enumerate(pointers, start=1) if t in history.tracked]
        return Attended(attended, ranked, max(1, len(pointers)))

    def keep(self, history: History) -> Collection[int]:
        # The list after this frame has only entries of the list before it, and this frame.
        memories, pointers = self._frames(history)
        return {*(t for t, _ in memories), *pointers, *super().keep(history)}

    def _frames(self, history: History) -> tuple[list[tuple[int, int]], list[int]]:
        """Returns frames and kinds of the neighbour's memories, the oldest first, and of pointers, the newest first."""
        result = history.before
        if result is None:
            return [], []
        ages, kinds, pointers, *_ = Memories.of(result.record[:, :LIST])
        step = 1 if history.reverse else -1
        memories = [
            (history.neighbour + step * int(age), int(kind))
            for age, kind in zip(ages[0].tolist(), kinds[0].tolist(), strict=True)
            if kind
        ]
        return memories, [history.neighbour + step * int(age - 1) for age in pointers[0].tolist() if age]


def _record(memories: Iterable[Tensor], is_added: Tensor) -> Tensor:
    return torch.cat([*memories, is_added.double()], dim=1)
