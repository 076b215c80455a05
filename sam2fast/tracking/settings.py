"""Defines the settings of a tracker, which are attributes of the model."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from sam2fast.modeling.memory_selection import Selection
from sam2fast.modeling.sam2_base import SAM2Base
from sam2fast.tracking.approximations import EXACT, Approximations, ApproximationsLike
from sam2fast.tracking.session import TrackedObject
from sam2fast.tracking.strategies import SAM2, Strategy, StrategyLike, strategy_of
from sam2fast.utils.thread_guard import CallGuard, exclusive

# Function that is called before each step. The arguments are the session, objects, frame, reverse, and each object's
# selection. If an object has several hypotheses, each hypothesis is passed as an object. The best hypothesis is the
# session's object.
SelectionWatch: TypeAlias = Callable[[Any, Sequence[TrackedObject], int, bool, Sequence[Selection]], None]


class TrackingModel(SAM2Base):
    """SAM 2 with the settings of a tracker. Settings may change at any time. Most take effect on the next frame.

    Attributes:
        selection_watch: Function that is called before each step with the memories that the step attends to, or None.
        fast: Use of CUDA graphs: None for use on NVIDIA GPUs with Triton if graphs are faster and safe, True for use on
            every device, False for no use.
        guard: Guard of the settings that are read when a session is opened. Threads may share the model, and each
            session has its own guard.
    """

    fill_hole_area: float  # maximum area of filled holes, in low-resolution pixels; 0: no hole is filled
    non_overlap_masks: bool  # in returned masks, only the object with the largest logit keeps a pixel
    clear_non_cond_mem_around_input: bool  # a prompt removes the object's tracked results near the frame
    add_all_frames_to_correct_as_cond: bool  # a correction makes its frame a conditioning frame
    fast: bool | None = None
    explains_eager: bool = False  # if True, the reason why steps are not recorded is logged once
    _approximations = EXACT
    _strategy: Strategy = SAM2

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.selection_watch: SelectionWatch | None = None
        self.guard = CallGuard()

    @property
    def approximations(self) -> Approximations:
        """Approximations of sessions opened later. By default none. See docs/approximations.md.

        Takes the values of ``build_sam2_video_predictor(..., approximations=...)``. An open or saved session keeps its
        approximations.

        Raises:
            ValueError, TypeError: If a name is unknown, or a value is invalid for this model. The setting is unchanged.
            ConcurrentUseError: If another thread is opening a session.
        """
        return self._approximations

    @approximations.setter
    @exclusive
    def approximations(self, requested: ApproximationsLike) -> None:
        approximations = Approximations.of(requested)
        slots, most = approximations.memory_slots, self.num_maskmem
        if slots is not None and slots > most:
            raise ValueError(f"memory_slots={slots} is more than the {most} memories that this model attends to")
        self._approximations = approximations

    @property
    def strategy(self) -> Strategy:
        """Rule that selects masks and memories in sessions opened later. By default SAM 2's rule.

        Takes the values of ``build_sam2_video_predictor(..., strategy=...)``.

        Raises:
            ValueError: If the name is unknown. The setting is unchanged.
            TypeError: If the value is neither a name nor a hashable instance. The setting is unchanged.
        """
        return self._strategy

    @strategy.setter
    @exclusive
    def strategy(self, requested: StrategyLike) -> None:
        self._strategy = strategy_of(requested)
