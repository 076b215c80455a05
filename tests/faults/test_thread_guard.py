"""The guard against two threads at once, alone."""

import copy
import pickle

import pytest
from at_once import at_once

from sam2fast.utils.thread_guard import ConcurrentUseError, ThreadGuard


class Owner:
    def __init__(self) -> None:
        self.guard = ThreadGuard()


def refused(owner: Owner, changes: bool) -> bool:
    """Whether another thread is refused now."""

    def visit() -> bool:
        try:
            with owner.guard.visit(owner, changes):
                return False
        except ConcurrentUseError:
            return True

    return bool(at_once(visit)[0])


def test_who_is_refused():
    owner = Owner()
    with owner.guard.visit(owner, changes=False):
        assert not refused(owner, changes=False) and refused(owner, changes=True)
        with owner.guard.visit(owner, changes=True), owner.guard.visit(owner, changes=False):
            assert refused(owner, changes=False) and refused(owner, changes=True)
        assert not refused(owner, changes=False) and refused(owner, changes=True)
    assert not refused(owner, changes=True)


def test_a_refused_thread_is_not_counted():
    owner = Owner()
    with owner.guard.visit(owner, changes=True):
        assert refused(owner, changes=True)
    with owner.guard.visit(owner, changes=True):
        pass
    assert not refused(owner, changes=True)


def test_a_call_that_a_signal_cut_off_is_over():
    owner = Owner()

    def cut_off() -> None:
        visit = owner.guard.visit(owner, changes=True)
        visit.__enter__()
        assert refused(owner, changes=False)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        cut_off()
    del caught
    assert not refused(owner, changes=True)


def test_copies_have_a_guard_of_their_own():
    owner = Owner()
    with owner.guard.visit(owner, changes=True):
        for twin in (copy.deepcopy(owner), pickle.loads(pickle.dumps(owner))):
            assert not refused(twin, changes=True)
