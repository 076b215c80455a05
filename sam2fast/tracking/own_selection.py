"""A user's own choice of memories: what it is given, and what it may return."""

import operator
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from sam2fast.tracking.selection import MemoryRules, Selection

if TYPE_CHECKING:
    from sam2fast.tracking.state import FrameResult, TrackedObject, VideoState

# What follows the choices of a step: the session, the objects, the frame, whether time runs backwards, the choices.
Watch = Callable[["VideoState", Sequence["TrackedObject"], int, bool, Sequence[Selection]], None]


class MemorySelection(Protocol):
    """A function in the place of :func:`~sam2fast.tracking.selection.select_memories`.

    It is called on the CPU for each object and frame, also where steps are recorded. A function that selects tracked
    frames further back than the model itself would declares that in an attribute ``reach``, in frames: streams and
    ``max_history`` keep so many.
    """

    def __call__(
        self,
        frame: int,
        conditioning: Mapping[int, "FrameResult"],
        tracked: Mapping[int, "FrameResult"],
        num_frames: int,
        reverse: bool,
        rules: MemoryRules,
    ) -> Selection:
        """As ``select_memories``; the mappings have the results (``mask``, ``iou``, ``score``) of each frame too."""
        ...


def own_selection(state: "VideoState", rules: MemoryRules) -> Callable[..., Selection] | None:
    """The model's ``memory_selection`` with its results checked, or None if it has none.

    Raises:
        ValueError: the session's ``max_history`` is less than the function's reach.
    """
    own = getattr(state.bank.model, "memory_selection", None)
    if own is None:
        return None
    if state.max_history is not None and state.max_history < rules.reach:
        raise ValueError(
            f"memory_selection looks back {rules.reach} frames, but the session was opened with "
            f"max_history={state.max_history}; open it with {rules.reach} or more"
        )

    def select(
        frame: int,
        conditioning: Mapping[int, "FrameResult"],
        tracked: Mapping[int, "FrameResult"],
        num_frames: int,
        reverse: bool,
        rules: MemoryRules,
    ) -> Selection:
        given = MappingProxyType(conditioning), MappingProxyType(tracked)
        chosen = own(frame, *given, num_frames, reverse, rules)
        return _checked(chosen, frame, conditioning, tracked, rules)

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
