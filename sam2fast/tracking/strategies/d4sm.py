"""DAM4SAM for several objects, by its authors. Temporal encodings of memories depend on positions in a list.

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

PLACES, DISTRACTORS, EVERY = 8, 3, 5  # size of the memory list; maximum number of distractors; stride of recent frames
POINTERS = 15  # maximum number of pointers, in addition to the prompt's pointer
RECENT, DISTRACTOR = 1, 2  # types of memories


class Memories(NamedTuple):
    """Stores the lists of memories of B objects after a frame, oldest first, without the prompt; fp64."""

    ages: Tensor  # (B, PLACES) ages in frames
    types: Tensor  # (B, PLACES) RECENT, DISTRACTOR, or 0 for empty entries at the end
    pointers: Tensor  # (B, POINTERS) ages in frames plus 1, newest first; 0 for empty entries
    pending: Tensor  # (B, 1) 1 if the last entry becomes a DISTRACTOR on the next frame
    number: Tensor  # (B, 1) number of frames since the prompt

    @classmethod
    def of(cls, state: Tensor) -> "Memories":
        """Unpacks a state ``(B, LIST)``."""
        return cls(*state.split([PLACES, PLACES, POINTERS, 1, 1], dim=1))

    def older(self) -> "Memories":
        """Returns the list of memories one frame later."""
        pointers = torch.where(self.pointers > 0, self.pointers + 1, 0.0)
        return self._replace(ages=self.ages + 1, pointers=pointers, number=self.number + 1)

    def with_pending(self) -> "Memories":
        """Turns pending entries into DISTRACTOR entries. If there are too many DISTRACTOR entries, drops the oldest."""
        is_last = self._indices() == self._length() - 1
        types = torch.where(is_last & (self.pending > 0), float(DISTRACTOR), self.types)
        return self._replace(types=types, pending=torch.zeros_like(self.pending))._limited(DISTRACTOR, 0)

    def with_frame(self) -> "Memories":
        """Returns the list of memories with the current frame, for objects that are visible on this frame."""
        newest = torch.cat([torch.ones_like(self.number), self.pointers[:, :-1]], dim=1)
        is_recent = self.types == RECENT
        index = torch.where(is_recent, self._indices(), -1).amax(dim=1, keepdim=True)
        age = self.ages.gather(1, index.clamp(min=0))
        stays = (index < 0) | (torch.remainder(self.number - age, EVERY) == 0)
        is_new = self._indices() == torch.where(stays, self._length(), index)
        ages, types = torch.where(is_new, 0.0, self.ages), torch.where(is_new, float(RECENT), self.types)
        return self._replace(ages=ages, types=types, pointers=newest)._limited(RECENT, PLACES - 2)

    def _limited(self, type_: int, length: int) -> "Memories":
        """If the list is longer than ``length``, drops the oldest entry of a type with over ``DISTRACTORS`` entries."""
        is_type = self.types == type_
        is_first = is_type & (is_type.cumsum(dim=1) == 1)
        leaves = is_first & (is_type.sum(dim=1, keepdim=True) > DISTRACTORS) & (self._length() > length)
        order = torch.where(leaves, PLACES, self._indices()).argsort(dim=1)
        types = torch.where(leaves, 0.0, self.types)
        return self._replace(ages=self.ages.gather(1, order), types=types.gather(1, order))

    def _indices(self) -> Tensor:
        return torch.arange(PLACES, device=self.types.device).expand(len(self.types), -1)

    def _length(self) -> Tensor:
        return (self.types > 0).sum(dim=1, keepdim=True)


LIST = 2 * PLACES + POINTERS + 2


@dataclass(frozen=True)
class D4sm(Strategy):
    """DAM4SAM as its authors published it for several objects.

    Memories form a list: the prompt, recent frames on which the object was visible, and up to three frames with a
    distractor. Recent frames are the newest frame, and earlier frames at multiples of five frames from the prompt. The
    temporal encoding of a recent frame depends on the number of later entries in the list. Pointers come from the
    prompt and the newest 15 frames on which the object was visible. Frames on which the object is not visible do not
    change the list, so that memories do not age while the object is absent.

    Each step waits for the list of memories of the previous frame. Candidates are compared at the size of the video, so
    large videos take longer.

    Unlike the published code, this class supports prompts on any frame, corrections and passes in both directions. In
    addition to the list of memories, an object attends to other prompted frames. A prompt empties the list of memories.
    """

    fill_hole_area: ClassVar[float | None] = 8
    state_size: ClassVar[int] = SIZES + LIST
    record_size: ClassVar[int] = LIST + 1  # the list of memories, and 1 if the frame has a distractor
    has_span: ClassVar[bool] = True
    at_video_size: ClassVar[bool] = True

    def choose(self, candidates: MaskCandidates, state: Tensor) -> Decided:
        choice, masks = candidates.best(), candidates.masks
        if candidates.prompted and candidates.conditioning:
            return Decided(choice)
        if candidates.prompted:  # a correction becomes the first entry of the list
            corrected = Memories.of(state[:, SIZES:]).with_frame()
            return Decided(choice, torch.cat([state[:, :SIZES], *corrected], 1), _record(corrected, choice < 0))
        assert self.fill_hole_area is not None
        filled = fill_holes_in_mask_scores(gather_chosen(masks, choice), self.fill_hole_area)
        is_selected = torch.arange(masks.shape[1], device=masks.device) == choice
        masks = torch.where(is_selected[..., None, None], filled, masks)
        shown = upsample_and_threshold(masks, candidates.video_size)
        before = Sizes.of(state[:, :SIZES])
        iou = candidates.ious.gather(1, choice)
        is_added, updated = find_distractors(shown, choice, iou, before, last=1)
        # Sizes change only if the object is visible. If the object is not visible, no distractor is found.
        is_visible = gather_chosen(shown, choice).flatten(1).any(dim=1, keepdim=True)
        sizes = Sizes(*(torch.where(is_visible, new, old) for new, old in zip(updated, before, strict=True)))
        sizes = sizes._replace(since=updated.since)

        memories = Memories.of(state[:, SIZES:]).older().with_pending()
        extended = memories.with_frame()._replace(pending=is_added.double())
        after = [torch.where(is_visible, new, old) for new, old in zip(extended, memories, strict=True)]
        return Decided(choice, torch.cat([*sizes, *after], dim=1), _record(after, is_added))

    def attend(self, history: History) -> Attended:
        rules = history.rules
        prompted = closest_conditioning_frames(history.frame, history.conditioning, rules.max_conditioning)
        memories, pointers = self._frames(history)
        last = len(memories) - 1
        attended = [(t, rules.num_maskmem - 1) for t in prompted]
        for index, (t, type_) in enumerate(memories):
            if t in history.tracked:
                attended.append((t, rules.num_maskmem - 1 if type_ == DISTRACTOR else last - index))
        ranked: list[tuple[int, int]] = []
        if rules.use_pointers:
            ranked = [(t, abs(history.distance(t))) for t in prompted]
            ranked += [(t, rank) for rank, t in enumerate(pointers, start=1) if t in history.tracked]
        return Attended(attended, ranked, max(1, len(pointers)))

    def keep(self, history: History) -> Collection[int]:
        # Memory lists of later frames contain only frames of the previous list, the current frame and later frames.
        memories, pointers = self._frames(history)
        return {*(t for t, _ in memories), *pointers, *super().keep(history)}

    def _frames(self, history: History) -> tuple[list[tuple[int, int]], list[int]]:
        """Returns the neighbour's list of memories (frame and type, oldest first), and its pointers' frames."""
        result = history.before
        if result is None:
            return [], []
        ages, types, pointers, *_ = Memories.of(result.record[:, :LIST])
        step = 1 if history.reverse else -1
        memories = [
            (history.neighbour + step * int(age), int(type_))
            for age, type_ in zip(ages[0].tolist(), types[0].tolist(), strict=True)
            if type_
        ]
        return memories, [history.neighbour + step * int(age - 1) for age in pointers[0].tolist() if age]


def _record(memories: Iterable[Tensor], is_added: Tensor) -> Tensor:
    return torch.cat([*memories, is_added.double()], dim=1)
