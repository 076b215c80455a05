"""Selects the memories that a frame attends to, as in SAM 2. Only frame numbers determine the selection.

This file imports only the standard library, because exported trackers contain it.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple


@dataclass(frozen=True)
class MemoryRules:
    """Settings of memory selection from a model's configuration."""

    num_maskmem: int
    stride: int  # distance in frames between recent memories; the nearest memory is always 1 frame away
    max_conditioning: int  # maximum number of conditioning memories, -1 for no limit
    use_pointers: bool
    max_pointers: int
    only_past_pointers: bool  # if True, ignores pointers of later conditioning frames
    signed_distances: bool  # if True, distances to later conditioning frames are negative
    memory_slots: int | None = None  # smaller number that replaces num_maskmem, as an approximation

    @classmethod
    def of(cls, model: Any) -> "MemoryRules":
        """Returns the rules of a :class:`~sam2fast.modeling.sam2_base.SAM2Base`."""
        return cls(
            num_maskmem=model.num_maskmem,
            stride=model.memory_temporal_stride_for_eval,
            max_conditioning=model.max_cond_frames_in_attn,
            use_pointers=model.use_obj_ptrs_in_encoder,
            max_pointers=model.max_obj_ptrs_in_encoder,
            only_past_pointers=model.only_obj_ptrs_in_the_past_for_eval,
            signed_distances=model.use_signed_tpos_enc_to_obj_ptrs,
        )

    @cached_property
    def recent(self) -> int:
        """Maximum number of non-conditioning memories that a frame attends to."""
        return (self.num_maskmem if self.memory_slots is None else self.memory_slots) - 1

    @cached_property
    def reach(self) -> int:
        """Maximum distance in frames to a non-conditioning memory or pointer."""
        oldest = (self.recent - 1) * self.stride + 1 if self.recent > 0 else 0
        return max(oldest, self.max_pointers - 1 if self.use_pointers else 0)


class Selection(NamedTuple):
    """Frames that a frame attends to, conditioning frames first."""

    memories: list[tuple[int, int]]  # frame, row of the model's maskmem_tpos_enc
    pointers: list[tuple[int, int]]  # frame of the pointer, distance in frames


def select_memories(
    frame: int,
    conditioning: Collection[int],
    tracked: Collection[int],
    num_frames: int,
    reverse: bool,
    rules: MemoryRules,
) -> Selection:
    """Selects the memories and pointers for one object on ``frame``.

    Args:
        frame: Frame to track or correct.
        conditioning: Frames that have a memory from prompts.
        tracked: Other frames that have a memory.
        num_frames: Length of the video.
        reverse: If True, tracking goes backwards in time.
        rules: Settings of the model.

    Raises:
        ValueError: If there is no conditioning frame.

    Source: ``sam2.modeling.sam2_base.SAM2Base._prepare_memory_conditioned_features`` in evaluation mode.
    """
    if not conditioning:
        raise ValueError(f"no conditioning frame to track frame {frame} from")
    selected = closest_conditioning_frames(frame, conditioning, rules.max_conditioning)
    # Conditioning frames that were not selected are treated as tracked frames.
    others = {t for t in conditioning if t not in selected} if len(selected) < len(conditioning) else ()

    memories = [(t, rules.num_maskmem - 1) for t in selected]
    recent = recent_frames(frame, reverse, rules)
    memories += [(t, row) for row, t in reversed(list(enumerate(recent))) if t in tracked or t in others]

    pointers: list[tuple[int, int]] = []
    if rules.use_pointers:
        forward = -1 if reverse else 1
        for t in selected:
            distance = (frame - t) * forward
            if distance >= 0 or not rules.only_past_pointers:
                pointers.append((t, distance if rules.signed_distances else abs(distance)))
        count = min(num_frames, rules.max_pointers)
        if reverse:
            behind = range(frame + 1, min(frame + count, num_frames))
        else:
            behind = range(frame - 1, max(frame - count, -1), -1)
        pointers += [(t, distance) for distance, t in enumerate(behind, 1) if t in tracked or t in others]
    return Selection(memories, pointers)


def closest_conditioning_frames(frame: int, conditioning: Collection[int], limit: int) -> list[int]:
    """Returns at most ``limit`` conditioning frames for ``frame``.

    Above the limit, the order is: nearest earlier frame, nearest frame at or after ``frame``, other frames by distance.

    Raises:
        ValueError: If ``limit`` is 0 or 1, and there are more frames than ``limit``.

    Source: ``sam2.modeling.sam2_utils.select_closest_cond_frames``.
    """
    if limit == -1 or len(conditioning) <= limit:
        return list(conditioning)
    if limit < 2:
        raise ValueError(f"max_cond_frames_in_attn is {limit}; expected at least 2, or -1 for all")
    before = max((t for t in conditioning if t < frame), default=None)
    after = min((t for t in conditioning if t >= frame), default=None)
    neighbours = [t for t in (before, after) if t is not None]
    others = sorted((t for t in conditioning if t not in neighbours), key=lambda t: abs(t - frame))
    return neighbours + others[: limit - len(neighbours)]


def recent_frames(frame: int, reverse: bool, rules: MemoryRules) -> list[int]:
    """Returns non-conditioning frames to attend to, nearest first: the adjacent frame, then multiples of the stride."""
    r, count = rules.stride, rules.recent
    if reverse:
        first = -(-(frame + 2) // r) * r
        return [frame + 1, *range(first, first + (count - 1) * r, r)][:count]
    first = (frame - 2) // r * r
    return [frame - 1, *range(first, first - (count - 1) * r, -r)][:count]
