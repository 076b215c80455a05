"""Custom ops inside a block, and the reach of a custom memory selection."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sam2fast.kernels._custom_ops import register_op, unregister_op
from sam2fast.kernels._dispatch import backend


@contextmanager
def override_op(op: str, implementation: Callable[..., Any], name: str = "own") -> Iterator[None]:
    """Context manager in which ``implementation`` computes ``op`` in this thread; other ops run as with ``auto``.

    The implementation may call the op's public function inside ``with backend("auto")``, to observe or change its
    arguments and results.

    Raises:
        ValueError: as :func:`register_op`.
    """
    register_op(op, implementation, name)
    try:
        with backend(name):
            yield
    finally:
        unregister_op(op, name)


SelectionT = TypeVar("SelectionT", bound=Callable[..., object])


def reaching(frames: int) -> Callable[[SelectionT], SelectionT]:
    """Decorator that declares how many frames a custom memory selection looks back.

    Streams keep the memories of that many frames, and ``init_state`` accepts no smaller ``max_history``.

    Raises:
        ValueError: a negative number.
    """
    if frames < 0:
        raise ValueError(f"a memory selection cannot reach {frames} frames back; give 0 or more")

    def declare(select: SelectionT) -> SelectionT:
        select.reach = frames  # type: ignore[attr-defined]
        return select

    return declare
