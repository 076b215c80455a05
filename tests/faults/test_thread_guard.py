"""Unit tests of the guard against concurrent use."""

import pytest
from at_once import at_once

from sam2fast.utils.thread_guard import CallGuard, ConcurrentUseError


class Owner:
    def __init__(self) -> None:
        self.guard = CallGuard()


def refused(owner: Owner, changes: bool) -> bool:
    """Whether another thread is refused."""

    def visit() -> bool:
        try:
            with owner.guard.begin_call(owner, changes):
                return False
        except ConcurrentUseError:
            return True

    return bool(at_once(visit)[0])


def test_which_threads_are_refused():
    owner = Owner()
    with owner.guard.begin_call(owner, changes=False):
        assert not refused(owner, changes=False) and refused(owner, changes=True)
        with owner.guard.begin_call(owner, changes=True), owner.guard.begin_call(owner, changes=False):
            assert refused(owner, changes=False) and refused(owner, changes=True)
        assert not refused(owner, changes=False) and refused(owner, changes=True)
    assert not refused(owner, changes=True)


def test_a_call_interrupted_by_a_signal_is_finished():
    owner = Owner()

    def cut_off() -> None:
        visit = owner.guard.begin_call(owner, changes=True)
        visit.__enter__()
        assert refused(owner, changes=False)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        cut_off()
    del caught
    assert not refused(owner, changes=True)
