"""Calls that fail leave a session as it was."""

from collections.abc import Iterable
from types import TracebackType

from sam2fast.tracking.session import TrackedObject, VideoSession


class UnchangedOnError:
    """A transaction: after an exception in its block, Ctrl-C included, the state is as it was before.

    Not a generator of :mod:`contextlib`: if Ctrl-C interrupts that module's own code, the generator is resumed when it
    is collected, and would undo what later calls have done.

    Args:
        state: its objects and ids are restored.
        objects: those that the block changes; their contents are restored.
    """

    def __init__(self, state: VideoSession, objects: Iterable[TrackedObject]) -> None:
        self._state, self._objects, self._ids = state, state.objects, state.obj_ids
        self._before = [(tracked, vars(tracked.copy())) for tracked in objects]

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            return
        self._state.objects, self._state.obj_ids = self._objects, self._ids
        for tracked, entries in self._before:
            vars(tracked).update(entries)
