"""Which memories a frame attends to: a pure function of frame numbers and scores, which users may replace."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from sam2fast.deprecated import RenamedAttribute
from sam2fast.modeling.selection_rule import (
    Selection,
    SelectionRules,
    closest_conditioning_frames,
    recent_frames,
    select_memories,
)

__all__ = [
    "MemoryRules",
    "MemorySelection",
    "Selection",
    "closest_conditioning_frames",
    "custom_selection",
    "recent_frames",
    "select_memories",
]


class MemorySelection(Protocol):
    """A function that replaces :func:`select_memories`.

    It is called on the CPU for each object and frame, also where CUDA graphs are used. A function that selects tracked
    frames further back than the model itself does declares that in an attribute ``reach``, in frames: streams and
    ``max_history`` keep that many.
    """

    def __call__(
        self,
        frame: int,
        conditioning: Mapping[int, Any],
        tracked: Mapping[int, Any],
        num_frames: int,
        reverse: bool,
        rules: "MemoryRules",
    ) -> "Selection":
        """As :func:`select_memories`; the values of the mappings are each frame's
        :class:`~sam2fast.tracking.state.FrameResult` with its ``mask``, ``iou`` and ``score``."""
        ...


@dataclass(frozen=True)
class MemoryRules(SelectionRules):
    """The rules of a model, and what users of sam2fast may change."""

    custom_reach: int | None = None  # declared by a custom memory selection
    own_reach = RenamedAttribute("custom_reach")
    memory_slots: int | None = None  # an approximation: fewer memories than num_maskmem

    @classmethod
    def of(cls, model: Any, memory_selection: MemorySelection | None = None) -> "MemoryRules":
        """The rules of a model's configuration.

        Args:
            model: a :class:`~sam2fast.modeling.sam2_base.SAM2Base`.
            memory_selection: the custom function that replaces :func:`select_memories`, if there is one.

        Raises:
            ValueError: ``memory_selection`` has a ``reach`` below 0.
        """
        declared = getattr(memory_selection, "reach", None)
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
            custom_reach=declared,
        )

    @property
    def recent(self) -> int:
        """How many ordinary memories are attended to, at most."""
        return (self.num_maskmem if self.memory_slots is None else self.memory_slots) - 1

    @property
    def reach(self) -> int:
        """How many frames back an ordinary memory or pointer can be selected."""
        if self.custom_reach is not None:
            return self.custom_reach
        oldest = (self.recent - 1) * self.stride + 1 if self.recent > 0 else 0
        return max(oldest, self.max_pointers - 1 if self.use_pointers else 0)


def custom_selection(function: MemorySelection, rules: MemoryRules, max_history: int | None) -> MemorySelection:
    """A user's function with its results checked.

    Args:
        function: replaces :func:`select_memories`.
        rules: of the model and this function.
        max_history: how many tracked frames of an object the session keeps; None for all.

    Raises:
        ValueError: ``max_history`` is less than the function's reach.
    """
    if max_history is not None and max_history < rules.reach:
        raise ValueError(
            f"memory_selection looks back {rules.reach} frames, but the session was opened with "
            f"max_history={max_history}; open it with {rules.reach} or more"
        )

    def select(
        frame: int,
        conditioning: Mapping[int, Any],
        tracked: Mapping[int, Any],
        num_frames: int,
        reverse: bool,
        rules: MemoryRules,
    ) -> Selection:
        read_only = MappingProxyType(conditioning), MappingProxyType(tracked)
        selection = function(frame, *read_only, num_frames, reverse, rules)
        return _checked(selection, frame, conditioning, tracked, rules)

    return select


def _checked(
    chosen: Any, frame: int, conditioning: Mapping[int, Any], tracked: Mapping[int, Any], rules: MemoryRules
) -> Selection:
    try:
        memories, pointers = ([(operator.index(t), operator.index(n)) for t, n in part] for part in chosen)
    except (TypeError, ValueError):
        raise _error(
            frame, f"returned {chosen!r}; expected a Selection: (frame, row) of memories, (frame, distance) of pointers"
        ) from None
    for kind, part in (("memory", memories), ("pointer", pointers)):
        for t, _ in part:
            if t not in conditioning and t not in tracked:
                raise _error(frame, f"selected the {kind} of frame {t}, which has none; see conditioning and tracked")
            if t not in conditioning and abs(frame - t) > rules.reach:
                raise _error(
                    frame,
                    f"selected the {kind} of frame {t}, {abs(frame - t)} frames away, beyond its reach of "
                    f"{rules.reach}; declare more in an attribute reach of the function",
                )
    for t, row in memories:
        if not 0 <= row < rules.num_maskmem:
            last = rules.num_maskmem - 1
            raise _error(frame, f"gave frame {t} row {row} of maskmem_tpos_enc; expected 0 to {last}")
    if pointers and not rules.use_pointers:
        raise _error(frame, "selected pointers, but the model attends to none (use_obj_ptrs_in_encoder is off)")
    return Selection(memories, pointers)


def _error(frame: int, fault: str) -> ValueError:
    return ValueError(f"memory_selection, on frame {frame}, {fault}")
