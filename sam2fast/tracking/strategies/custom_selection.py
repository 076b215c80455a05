"""The old hook ``memory_selection`` as a strategy."""

from dataclasses import dataclass

from sam2fast.modeling.memory_selection import MemorySelection, custom_selection
from sam2fast.tracking.strategies.base import Attended, History, Strategy
from sam2fast.tracking.strategies.sam2 import Sam2


@dataclass(frozen=True)
class CustomSelection(Strategy):
    """SAM 2's rule with the memories that a ``memory_selection`` chooses.

    Args:
        function: replaces :func:`~sam2fast.modeling.memory_selection.select_memories`.
        max_history: how many tracked frames of an object the session keeps; None for all.
    """

    function: MemorySelection
    max_history: int | None = None

    def attend(self, history: History) -> Attended:
        frame, reverse, num_frames, conditioning, tracked, rules, _ = history
        select = custom_selection(self.function, rules, self.max_history)
        return Attended(*select(frame, conditioning, tracked, num_frames, reverse, rules))

    @classmethod
    def replacing(
        cls, strategy: Strategy, function: MemorySelection | None, max_history: int | None
    ) -> "Strategy | CustomSelection":
        """The strategy of a session, or the function's if there is one.

        Raises:
            RuntimeError: there is one, and the session has another strategy than SAM 2's own.
        """
        if function is None:
            return strategy
        if not isinstance(strategy, Sam2):
            raise RuntimeError(
                f"the session's strategy is {type(strategy).__name__}, which chooses memories itself; set "
                "memory_selection to None, or override attend() in a subclass of the strategy"
            )
        return cls(function, max_history)
