"""How far back a memory selection of one's own may look."""

from collections.abc import Callable
from typing import TypeVar

SelectionT = TypeVar("SelectionT", bound=Callable[..., object])


def reaching(frames: int) -> Callable[[SelectionT], SelectionT]:
    """Decorates a memory selection that looks back more frames than the model itself, or fewer.

    Streams keep the memories of so many frames, and ``init_state`` takes no smaller ``max_history``.

    Raises:
        ValueError: a negative number.
    """
    if frames < 0:
        raise ValueError(f"a memory selection cannot reach {frames} frames back; give 0 or more")

    def declare(select: SelectionT) -> SelectionT:
        select.reach = frames  # type: ignore[attr-defined]
        return select

    return declare
