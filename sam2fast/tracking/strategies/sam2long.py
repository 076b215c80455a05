"""SAM2Long: several hypotheses of each object, each with memories of its own, and the best one when the video ends.

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

Kept = TypeVar("Kept")

PROMPT_SCORE = 10.0  # of a prompted frame among the others' object scores
LOWEST, HIGHEST = 0.95, 1.05  # factors of keys


@dataclass(frozen=True)
class Sam2Long(Strategy):
    """SAM2Long, for any number of objects.

    Each object has several pathways, which are equal at first. On each frame every pathway is tracked, and the
    candidates of all of them compete by the sum of the logarithms of the predicted IoUs since the prompt. Where the
    object's presence is uncertain for all pathways, those that go on differ in their predicted IoUs. Memories are of
    the neighbour and of frames that scored well, however long ago; those with a high object score weigh more.

    Which pathway is the best is known when a pass ends. So ``propagate_in_video`` tracks all frames of its pass before
    it yields the first. A stream gives the masks of what is the best pathway until then.

    An object takes the time of ``paths`` objects, and its last results are waited for on every frame. Pathways share
    the memories of their common past. Attention to weighted memories runs without a Triton kernel.

    Unlike the published code it takes any number of objects, prompts on any frame, corrections and passes in both
    directions: a prompt continues the best pathway alone. Holes are not filled.

    Args:
        paths: pathways of each object.
        memory_iou: a frame is remembered if its predicted IoU is above this, and its object score above 0.
        uncertainty: a frame is uncertain if no pathway has an object score beyond this, up or down.

    Raises:
        ValueError: there is no pathway.
    """

    paths: int = 3
    memory_iou: float = 0.1
    uncertainty: float = 2.0

    fill_hole_area: ClassVar[float | None] = 0
    state_size: ClassVar[int] = 2  # the sum of logarithms, and 1 behind the first frame after a prompt
    record_size: ClassVar[int] = 1  # parent
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
        # As exact as Python's rounding to two decimals: fp32 times 100 has no more than 31 bits.
        values = (100 * signed).round()
        is_certain = (candidates.scores.abs() > self.uncertainty).view(objects).any(dim=1, keepdim=True)
        total, values = (x.view(len(is_certain), -1) for x in (total, values))
        kept = self._kept(total, values, is_certain, masks)

        # The first frame has one pathway, whose candidate does not count.
        is_first = state[:, 1].view(objects)[:, :1] == 0
        kept = torch.where(is_first, candidates.best().view(objects)[:, :1], kept)
        sums = torch.where(is_first, 0.0, total.gather(1, kept)).view(-1, 1)
        parent, choice = (kept // masks).view(-1, 1), (kept % masks).view(-1, 1)
        return Decided(choice, torch.cat([sums, torch.ones_like(sums)], dim=1), parent.double(), parent=parent)

    def _kept(self, total: Tensor, values: Tensor, is_certain: Tensor, masks: int) -> Tensor:
        """Indices ``(objects, paths)`` of the candidates that go on, of ``total (objects, paths * masks)``."""
        order = total.argsort(dim=1, descending=True, stable=True)
        place = torch.arange(order.shape[1], device=order.device).expand_as(order)
        earlier = place[:, :, None] > place[:, None, :]
        values, parents = values.gather(1, order), order // masks
        is_new = ~(earlier & _equal(values)).any(dim=2)
        # Then the best candidates of pathways that have none among these.
        is_represented = (_equal(parents) & is_new[:, None]).any(dim=2)
        is_own_best = ~(earlier & _equal(parents)).any(dim=2)
        further = torch.where(is_own_best & ~is_represented, parents, place + self.paths) + order.shape[1]
        rank = torch.where(is_certain | is_new, place, further)
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
            # The oldest frame gives none.
            pointers += [(t, rank) for rank, t in enumerate(recent[:-1][:longest], start=1)]
        if len(memories) == 1:
            return Attended(memories, pointers)
        of_memories, of_pointers = (_factors(history, [t for t, _ in part]) for part in (memories, pointers))
        return Attended(memories, pointers, factors=(of_memories, of_pointers))

    def keep(self, history: History) -> Collection[int]:
        return {history.neighbour, *islice(self._good(history), history.rules.max_pointers - 1)}

    def _good(self, history: History) -> Iterator[int]:
        """Frames that scored well, the nearest first."""
        for t in history.past():
            result = history.tracked.get(t)
            if result is not None and float(result.iou) > self.memory_iou and float(result.score) > 0:
                yield t


def _equal(x: Tensor) -> Tensor:
    """``(B, n, n)`` bool: which of ``x (B, n)`` are equal."""
    return x[:, :, None] == x[:, None, :]


def _factors(history: History, frames: Sequence[int]) -> list[float]:
    """Factors of frames by the rank of their object scores: prompted ones first, and then the newest first.

    Of equal scores the older frame's counts as the lower.
    """
    prompted = [t for t in frames if t in history.conditioning]
    scored = [(PROMPT_SCORE, t) for t in prompted]
    scored += [(float(history.tracked[t].score), t) for t in reversed(frames) if t not in history.conditioning]
    step = (HIGHEST - LOWEST) / max(1, len(scored) - 1)
    ranked = {t: LOWEST + step * rank for rank, (_, t) in enumerate(sorted(scored, key=lambda one: one[0]))}
    return [ranked[t] for t in frames]


def continued(
    before: Sequence[Mapping[int, Kept]], parents: Sequence[int], frame: int, kept: Sequence[Kept]
) -> list[dict[int, Kept]]:
    """Returns the history of each hypothesis by frame: its parent's history and the new frame.

    Args:
        before: History of each hypothesis so far. If there is only one, as after a prompt, all continue it.
        parents: Index of the hypothesis that each hypothesis continues.
        kept: The new frame's entry of each history.
    """
    histories = [before[parent if len(before) > 1 else 0] for parent in parents]
    pairs = zip(histories, kept, strict=True)
    return [{**{t: value for t, value in history.items() if t != frame}, frame: new} for history, new in pairs]


class Pathways:
    """Stores masks and scores of all hypotheses in a pass, and drops the results of hypotheses that ended.

    Attributes:
        frames: The frames of the pass so far.
    """

    def __init__(self) -> None:
        self.frames: list[int] = []
        # Predicted IoU, score and mask by frame, of each hypothesis of each object.
        self._paths: dict[Any, list[dict[int, tuple[Tensor, Tensor, Tensor]]]] = {}

    def add(self, frame: int, results: Mapping[Any, Sequence[KeptResult]]) -> None:
        """Stores the results of each object's hypotheses on the frame, the best one first. Waits for them."""
        self.frames.append(frame)
        for obj_id, rows in results.items():
            parents = [int(row.record[0, 0]) if row.record.numel() else 0 for row in rows]
            arrived = [(row.iou[:, 0], row.score[:, 0], row.mask) for row in rows]
            self._paths[obj_id] = continued(self._paths.get(obj_id, [{}]), parents, frame, arrived)

    def best(self, frame: int, ids: Iterable[Any], device: torch.device) -> list[Tensor]:
        """Returns predicted IoUs ``(N,)``, scores ``(N,)`` and masks ``(N, 1, h, w)`` of the best hypotheses."""
        parts = zip(*(self._paths[i][0][frame] for i in ids), strict=True)
        return [copy_to_device(torch.cat(part), device) for part in parts]
