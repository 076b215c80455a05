"""Settings of a tracker."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from sam2fast.modeling.memory_selection import Selection
from sam2fast.tracking.approximations import EXACT, Approximations
from sam2fast.tracking.session import TrackedObject
from sam2fast.tracking.strategies import SAM2, Strategy

# Called with the selections of a step before it is computed: session, objects, frame, reverse, selections. Of several
# hypotheses only the best is the session's object itself.
SelectionWatch: TypeAlias = Callable[[Any, Sequence[TrackedObject], int, bool, Sequence[Selection]], None]


@dataclass
class TrackingOptions:
    """Settings of a tracker. They may be changed at any time, and take effect on the next frame unless said."""

    fill_hole_area: float = 0  # background components up to this many low-resolution pixels are filled; 0 for none
    non_overlap_masks: bool = False  # in returned masks only the object with the largest logit keeps a pixel
    clear_non_cond_mem_around_input: bool = False  # a prompt removes the object's tracked frames around it
    add_all_frames_to_correct_as_cond: bool = False  # a correction makes its frame a conditioning frame
    selection_watch: SelectionWatch | None = None
    fast: bool | None = None  # CUDA graphs: None where they pay and are safe; True everywhere; False nowhere
    approximations: Approximations = EXACT  # of sessions opened from now on
    strategy: Strategy = SAM2  # likewise
