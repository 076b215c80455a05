"""Which memories a frame attends to: a pure function of frame numbers."""

from dataclasses import dataclass
from typing import Any

from sam2fast.modeling.selection_rule import (
    Selection,
    SelectionRules,
    closest_conditioning_frames,
    recent_frames,
    select_memories,
)

__all__ = ["MemoryRules", "Selection", "closest_conditioning_frames", "recent_frames", "select_memories"]


@dataclass(frozen=True)
class MemoryRules(SelectionRules):
    """The rules of a model, and what users of sam2fast may change."""

    memory_slots: int | None = None  # an approximation: fewer memories than num_maskmem

    @classmethod
    def of(cls, model: Any) -> "MemoryRules":
        """The rules of a model's configuration.

        Args:
            model: a :class:`~sam2fast.modeling.sam2_base.SAM2Base`.
        """
        return cls(
            num_maskmem=model.num_maskmem,
            stride=model.memory_temporal_stride_for_eval,
            max_conditioning=model.max_cond_frames_in_attn,
            use_pointers=model.use_obj_ptrs_in_encoder,
            max_pointers=model.max_obj_ptrs_in_encoder,
            only_past_pointers=model.only_obj_ptrs_in_the_past_for_eval,
            signed_distances=model.use_signed_tpos_enc_to_obj_ptrs,
        )

    @property
    def recent(self) -> int:
        """How many ordinary memories are attended to, at most."""
        return (self.num_maskmem if self.memory_slots is None else self.memory_slots) - 1

    @property
    def reach(self) -> int:
        """How many frames back an ordinary memory or pointer can be selected."""
        recent = self.recent
        oldest = (recent - 1) * self.stride + 1 if recent > 0 else 0
        return max(oldest, self.max_pointers - 1 if self.use_pointers else 0)
