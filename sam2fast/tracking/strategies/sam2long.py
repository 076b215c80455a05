"""SAM2Long: tracks several hypotheses of each object, and selects the best hypothesis at the end of a pass.

Ding et al., "SAM2Long: Enhancing SAM 2 for Long Video Segmentation with a Training-Free Memory Tree", 2024.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from sam2fast.modeling.memory_selection import closest_conditioning_frames
from sam2fast.tracking.strategies.base import Attended, Decided, History, KeptResult, MaskCandidates, Strategy
from sam2fast.utils.async_copies import copy_to_device

Entry = TypeVar("Entry")

PROMPT_SCORE = 10.0  # object score of prompted frames in comparisons
LOWEST, HIGHEST = 0.95, 1.05  # range of the factors of attention keys


@dataclass(frozen=True)
class Sam2Long(Strategy):
    """SAM2Long, for any number of objects.

    Each object has several pathways. After a prompt, all pathways are equal. Every pathway tracks each frame. The
    pathways with the highest sum of log predicted IoUs since the prompt survive. If all pathways are uncertain that the
    object is present, the surviving pathways must have different predicted IoUs. An object attends to the previous
    frame, and to frames with high scores at any distance. Memories with a high object score get larger weights.

    The best pathway is known only at the end of a pass. So ``propagate_in_video`` tracks all frames of its pass before
    it yields the first result. A stream returns the masks of the best pathway so far.

    Tracking one object takes as much time as tracking ``paths`` objects. Each frame waits for the previous results.
    Pathways share the memories of frames before the branch. Attention to weighted memories has no Triton kernel.

    Unlike the published code, this class supports any number of objects, prompts on any frame, corrections and passes
    in both directions. A prompt extends only the best pathway. Holes are not filled.

    Args:
        paths: Number of pathways per object.
        memory_iou: Predicted IoU above which a frame is attended to, if its object score is above 0.
        uncertainty: Absolute object score up to which the presence of the object is uncertain.

    Raises:
        ValueError: If ``paths`` is below 1.
    """

    paths: int = 3
    memory_iou: float = 0.1
    uncertainty: float = 2.0

    fill_hole_area: ClassVar[float | None] = 0
    state_size: ClassVar[int] = 2  # sum of log IoUs; 1 if frames were tracked since the prompt, else 0
    record_size: ClassVar[int] = 1  # index of the parent
    has_factors: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.paths < 1:
            raise ValueError(f"paths is {self.paths}; expected 1 or more")

    @property
    def hypotheses(self) -> int:
        return self.paths

    def choose(self, candidates: MaskCandidates, state: Tensor) -> Decided:
        if candidates.prompted:
            return Decided(candidates.best())
        masks, objects = candidates.ious.shape[1], (-1, self.paths)
        total = state[:, :1] + (candidates.ious.double().clamp(min=0) + 1e-5).log()
        signed = torch.where(candidates.scores > 0, candidates.ious, -candidates.ious).double()
        # Equals Python's round(x, 2) exactly, since an fp32 value times 100 has at most 31 significant bits.
        values = (100 * signed).round()
        is_certain = (candidates.scores.abs() > self.uncertainty).view(objects).any(dim=1, keepdim=True)
        total, values = (x.view(len(is_certain), -1) for x in (total, values))
        survivors = self._survivors(total, values, is_certain, masks)

        # On the first frame after a prompt, all pathways select the best candidate, and the sum stays 0.
        is_first = state[:, 1].view(objects)[:, :1] == 0
        survivors = torch.where(is_first, candidates.best().view(objects)[:, :1], survivors)
        sums = torch.where(is_first, 0.0, total.gather(1, survivors)).view(-1, 1)
        parent, choice = (survivors // masks).view(-1, 1), (survivors % masks).view(-1, 1)
        return Decided(choice, torch.cat([sums, torch.ones_like(sums)], dim=1), parent.double(), parent=parent)

    def _survivors(self, total: Tensor, values: Tensor, is_certain: Tensor, masks: int) -> Tensor:
        """Returns indices ``(objects, paths)`` of the surviving candidates of ``total (objects, paths * masks)``."""
        order = total.argsort(dim=1, descending=True, stable=True)
        index = torch.arange(order.shape[1], device=order.device).expand_as(order)
        earlier = index[:, :, None] > index[:, None, :]
        values, parents = values.gather(1, order), order // masks
        is_new = ~(earlier & _equal(values)).any(dim=2)
        # If uncertain: candidates with new values, then the best candidates of pathways without new values, then all
        # others.
        is_represented = (_equal(parents) & is_new[:, None]).any(dim=2)
        is_best_of_path = ~(earlier & _equal(parents)).any(dim=2)
        later = torch.where(is_best_of_path & ~is_represented, parents, index + self.paths) + order.shape[1]
        rank = torch.where(is_certain | is_new, index, later)
        return order.gather(1, rank.argsort(dim=1)[:, : self.paths])

    def attend(self, history: History) -> Attended:
        rules = history.rules
        prompted = closest_conditioning_frames(history.frame, history.conditioning, rules.max_conditioning)
        longest = min(history.num_frames, rules.max_pointers) - 1
        recent = list(islice(self._good(history), longest))
        if history.neighbour in history.tracked and history.neighbour not in recent:
            recent.insert(0, history.neighbour)
        memories = [(t, rules.num_maskmem - 1) for t in prompted]
        memories += [(t, row) for row, t in enumerate(recent[: rules.recent])]
        pointers: list[tuple[int, int]] = []
        if rules.use_pointers:
            usable = [t for t in prompted if history.distance(t) >= 0 or not rules.only_past_pointers]
            pointers = [(t, abs(history.distance(t))) for t in usable]
            # The oldest frame has no pointer.
            pointers += [(t, rank) for rank, t in enumerate(recent[:-1][:longest], start=1)]
        if len(memories) == 1:
            return Attended(memories, pointers)
        of_memories, of_pointers = (_factors(history, [t for t, _ in part]) for part in (memories, pointers))
        return Attended(memories, pointers, factors=(of_memories, of_pointers))

    def keep(self, history: History) -> Collection[int]:
        return {history.neighbour, *islice(self._good(history), history.rules.max_pointers - 1)}

    def _good(self, history: History) -> Iterator[int]:
        """Yields tracked frames with a high predicted IoU and object score, nearest first."""
        for t in history.past():
            result = history.tracked.get(t)
            if result is not None and float(result.iou) > self.memory_iou and float(result.score) > 0:
                yield t


def _equal(x: Tensor) -> Tensor:
    """Returns ``(B, n, n)`` bool, True for pairs of equal values of ``x (B, n)``."""
    return x[:, :, None] == x[:, None, :]


def _factors(history: History, frames: Sequence[int]) -> list[float]:
    """Returns the factor of each frame's attention keys. Factors increase with the rank of the object score.

    If tracked frames have equal scores, the older frame has the lower rank.
    """
    prompted = [t for t in frames if t in history.conditioning]
    scored = [(PROMPT_SCORE, t) for t in prompted]
    scored += [(float(history.tracked[t].score), t) for t in reversed(frames) if t not in history.conditioning]
    step = (HIGHEST - LOWEST) / max(1, len(scored) - 1)
    ranked = {t: LOWEST + step * rank for rank, (_, t) in enumerate(sorted(scored, key=lambda one: one[0]))}
    return [ranked[t] for t in frames]


def continued(
    before: Sequence[Mapping[int, Entry]], parents: Sequence[int], frame: int, entries: Sequence[Entry]
) -> list[dict[int, Entry]]:
    """Returns the history of each hypothesis by frame: its parent's history and the new frame.

    Args:
        before: History of each hypothesis before the frame. A single history, as after a prompt, is the parent of all
            hypotheses.
        parents: Index of the hypothesis that each hypothesis extends.
        frame: Number of the new frame.
        entries: Entry of the new frame for each hypothesis.
    """
    histories = [before[parent if len(before) > 1 else 0] for parent in parents]
    pairs = zip(histories, entries, strict=True)
    return [{**{t: value for t, value in history.items() if t != frame}, frame: new} for history, new in pairs]


class Pathways:
    """Stores masks and scores of all hypotheses in a pass, and drops the results of hypotheses without successors.

    Attributes:
        frames: Frames that were tracked in the pass, in order.
    """

    def __init__(self) -> None:
        self.frames: list[int] = []
        # Predicted IoU, object score and mask, by object id, hypothesis and frame.
        self._paths: dict[Any, list[dict[int, tuple[Tensor, Tensor, Tensor]]]] = {}

    def add(self, frame: int, results: Mapping[Any, Sequence[KeptResult]]) -> None:
        """Waits for the results of each object's hypotheses on the frame, best first, and stores the results."""
        self.frames.append(frame)
        for obj_id, rows in results.items():
            parents = [int(row.record[0, 0]) if row.record.numel() else 0 for row in rows]
            arrived = [(row.iou[:, 0], row.score[:, 0], row.mask) for row in rows]
            self._paths[obj_id] = continued(self._paths.get(obj_id, [{}]), parents, frame, arrived)

    def best(self, frame: int, ids: Iterable[Any], device: torch.device) -> list[Tensor]:
        """Returns predicted IoUs ``(N,)``, object scores ``(N,)`` and masks ``(N, 1, h, w)`` of the best hypotheses."""
        parts = zip(*(self._paths[i][0][frame] for i in ids), strict=True)
        return [copy_to_device(torch.cat(part), device) for part in parts]
