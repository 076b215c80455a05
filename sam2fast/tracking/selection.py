"""Which memories a frame attends to: pure functions of frame numbers, without a tensor."""

import operator
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from sam2fast.modeling.sam2_base import SAM2Base


@dataclass(frozen=True)
class MemoryRules:
    """What a model's configuration says about the choice of memories."""

    num_maskmem: int
    stride: int  # between the older of the recent frames
    max_conditioning: int  # -1 for no limit
    use_pointers: bool
    max_pointers: int
    only_past_pointers: bool
    signed_distances: bool
    own_reach: int | None = None  # declared by a function of the user's own in the place of select_memories
    memory_slots: int | None = None  # an approximation: fewer memories than num_maskmem

    @classmethod
    def of(cls, model: "SAM2Base") -> "MemoryRules":
        """
        Raises:
            ValueError: the model's ``memory_selection`` has a ``reach`` below 0.
        """
        declared = getattr(getattr(model, "memory_selection", None), "reach", None)
        if declared is not None and operator.index(declared) < 0:
            raise ValueError(f"the reach of memory_selection is {declared} frames; expected 0 or more")
        return cls(
            num_maskmem=model.num_maskmem,
            stride=model.memory_temporal_stride_for_eval,
            max_conditioning=model.max_cond_frames_in_attn,
            use_pointers=model.use_obj_ptrs_in_encoder,
            max_pointers=model.max_obj_ptrs_in_encoder,
            only_past_pointers=model.only_obj_ptrs_in_the_past_for_eval,
            signed_distances=model.use_signed_tpos_enc_to_obj_ptrs,
            own_reach=declared,
        )

    @property
    def recent(self) -> int:
        """How many ordinary memories are attended to, at most."""
        return (self.num_maskmem if self.memory_slots is None else self.memory_slots) - 1

    @property
    def reach(self) -> int:
        """How many frames back an ordinary memory or pointer can be selected."""
        if self.own_reach is not None:
            return self.own_reach
        oldest = (self.recent - 1) * self.stride + 1 if self.recent > 0 else 0
        return max(oldest, self.max_pointers - 1 if self.use_pointers else 0)


class Selection(NamedTuple):
    """Frames attended to, conditioning frames first."""

    memories: list[tuple[int, int]]  # frame, row of the model's maskmem_tpos_enc
    pointers: list[tuple[int, int]]  # frame, distance in frames


def select_memories(
    frame: int,
    conditioning: Collection[int],
    tracked: Collection[int],
    num_frames: int,
    reverse: bool,
    rules: MemoryRules,
) -> Selection:
    """What one object attends to on ``frame``.

    Args:
        frame: the frame to be tracked or corrected.
        conditioning: frames with a memory from the user's prompts.
        tracked: other frames with a memory; none of ``conditioning``.
        num_frames: length of the video.
        reverse: tracking goes backwards in time.
        rules: of the model.

    Raises:
        ValueError: there is no conditioning frame.

    Source: ``sam2.modeling.sam2_base.SAM2Base._prepare_memory_conditioned_features``, in evaluation.
    """
    if not conditioning:
        raise ValueError(f"no conditioning frame to track frame {frame} from")
    chosen = closest_conditioning_frames(frame, conditioning, rules.max_conditioning)

    def is_ordinary(t: int) -> bool:
        # A conditioning frame that was not chosen counts as one.
        return t in tracked or (t in conditioning and t not in chosen)

    memories = [(t, rules.num_maskmem - 1) for t in chosen]
    recent = recent_frames(frame, reverse, rules)
    memories += [(t, row) for row, t in reversed(list(enumerate(recent))) if is_ordinary(t)]

    pointers: list[tuple[int, int]] = []
    if rules.use_pointers:
        forward = -1 if reverse else 1
        for t in chosen:
            distance = (frame - t) * forward
            if distance >= 0 or not rules.only_past_pointers:
                pointers.append((t, distance if rules.signed_distances else abs(distance)))
        for distance in range(1, min(num_frames, rules.max_pointers)):
            t = frame - distance * forward
            if 0 <= t < num_frames and is_ordinary(t):
                pointers.append((t, distance))
    return Selection(memories, pointers)


def closest_conditioning_frames(frame: int, conditioning: Collection[int], limit: int) -> list[int]:
    """At most ``limit`` conditioning frames: the nearest before, the nearest from ``frame`` on, then by distance.

    Raises:
        ValueError: a limit of 0 or 1 that is exceeded; one of the two neighbours would have to go.

    Source: ``sam2.modeling.sam2_utils.select_closest_cond_frames``.
    """
    if limit == -1 or len(conditioning) <= limit:
        return list(conditioning)
    if limit < 2:
        raise ValueError(f"max_cond_frames_in_attn is {limit}; expected at least 2, or -1 for all")
    before = max((t for t in conditioning if t < frame), default=None)
    after = min((t for t in conditioning if t >= frame), default=None)
    chosen = [t for t in (before, after) if t is not None]
    others = sorted((t for t in conditioning if t not in chosen), key=lambda t: abs(t - frame))
    return chosen + others[: limit - len(chosen)]


def recent_frames(frame: int, reverse: bool, rules: MemoryRules) -> list[int]:
    """The ordinary frames that may be attended to, the nearest first.

    The nearest is the neighbour; the others are multiples of the stride.
    """
    r = rules.stride
    if reverse:
        first = -(-(frame + 2) // r) * r
        return [frame + 1, *(first + i * r for i in range(rules.recent - 1))][: rules.recent]
    first = (frame - 2) // r * r
    return [frame - 1, *(first - i * r for i in range(rules.recent - 1))][: rules.recent]
