"""Refuses concurrent calls on one object, and limits torch to one thread after a fork."""

import functools
import inspect
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

_log = logging.getLogger(__name__)

Method = TypeVar("Method", bound=Callable[..., Any])


class ConcurrentUseError(RuntimeError):
    """Another thread is using the object, or has replaced its image meanwhile. The refused call changed nothing."""


class CallGuard:
    """Tracks which threads are calling an object, and refuses conflicting calls.

    A call that changes the object excludes all others. Calls that only read may run at the same time. A thread may nest
    its own calls. A generator counts as a call only while it computes its next item. No call ever waits.
    """

    def __init__(self) -> None:
        # By process: the child of a fork does not inherit the threads, nor their calls.
        self._ongoing = {os.getpid(): _ProcessCalls()}

    def begin_call(self, owner: object, changes: bool) -> "GuardedCall":
        """A call on ``owner``, as a context manager; ``changes``: it excludes all other calls."""
        limit_threads_after_fork()
        calls = self._ongoing.get(os.getpid())
        if calls is None:
            calls = self._ongoing.setdefault(os.getpid(), _ProcessCalls())
        return GuardedCall(calls, type(owner).__name__, changes)

    def record_change(self) -> None:
        """Records that the ongoing exclusive call has replaced what other calls use, such as an image."""
        calls = self._ongoing[os.getpid()]
        calls.changed_by = calls.exclusive_calls

    def check_change(self, what: str) -> None:
        """Checks that this thread was not refused during the call that set the present ``what``.

        Threads of a pool may take turns at setting and using.

        Raises:
            ConcurrentUseError: it was refused then, so its ``what`` has been replaced.
        """
        calls = self._ongoing.get(os.getpid())
        if calls is not None and calls.refused_by.get(threading.current_thread()) == calls.changed_by:
            raise ConcurrentUseError(
                f"another thread has replaced the {what} while this one was refused: set the {what} again; "
                "a turn lasts from setting it to the last result"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return CallGuard, ()  # a copy has no running calls


_process = os.getpid()  # the process that imported this module, or the child that was warned


def limit_threads_after_fork() -> None:
    """Limits torch to one thread in a forked process, once; a later ``torch.set_num_threads`` holds.

    torch's threads do not survive a fork, and the first large operation would wait for them forever.
    """
    global _process
    if _process == os.getpid():
        return
    import torch

    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        _log.warning("this process was forked, which torch's threads do not survive: it computes with one thread")
    _process = os.getpid()  # last, so that other threads wait for it


class _ProcessCalls:
    """The running calls of one process."""

    def __init__(self) -> None:
        # Reentrant: a signal handler may interrupt a call and use the same object.
        self.lock = threading.RLock()
        # Weak: if a signal prevents __exit__, the entry ends with its object.
        self.ongoing: list[weakref.ref[GuardedCall]] = []
        self.exclusive_calls = 0  # begun so far
        self.changed_by = 0  # the number of the exclusive call that set the present image or the like
        # The exclusive call during which a thread was refused. Threads, not their ids: ids are used again.
        self.refused_by: weakref.WeakKeyDictionary[threading.Thread, int] = weakref.WeakKeyDictionary()


class GuardedCall:
    """One call of one thread, as a context manager."""

    def __init__(self, calls: _ProcessCalls, kind: str, changes: bool) -> None:
        self._calls, self._kind = calls, kind
        self.thread, self.changes = threading.get_ident(), changes

    def __enter__(self) -> None:
        """Raises ``ConcurrentUseError`` if another thread is in a call, and one of both changes the object."""
        with self._calls.lock:
            ongoing = [ref for ref in self._calls.ongoing if ref() is not None]
            for other in (ref() for ref in ongoing):
                if other is not None and other.thread != self.thread and (other.changes or self.changes):
                    if other.changes:
                        self._calls.refused_by[threading.current_thread()] = self._calls.exclusive_calls
                    raise ConcurrentUseError(
                        f"this {self._kind} is being used by another thread; let threads take turns, for instance "
                        "with a threading.Lock, or give each one its own: they may share a model"
                    )
            self._calls.exclusive_calls += self.changes
            self._calls.ongoing = [*ongoing, weakref.ref(self)]

    def __exit__(self, *error: object) -> None:
        with self._calls.lock:
            self._calls.ongoing = [ref for ref in self._calls.ongoing if ref() is not self]


def exclusive(method: Method) -> Method:
    """Decorates a method that changes its object, which has a ``guard``: refused while another thread is in a call."""
    return _guarded(method, 0, changes=True)


def shared(method: Method) -> Method:
    """Decorates a method that only reads: refused only while another thread is in an exclusive call."""
    return _guarded(method, 0, changes=False)


def exclusive_session(method: Method) -> Method:
    """As :func:`exclusive`, but guards the ``inference_state``, the first argument, instead of the predictor."""
    return _guarded(method, 1, changes=True)


def _guarded(method: Method, place: int, changes: bool) -> Method:
    def begin_call(args: Any, kwargs: Any) -> GuardedCall | None:
        owner = args[place] if len(args) > place else kwargs.get("inference_state")
        guard = getattr(owner, "guard", None)  # else the method reports the wrong argument
        return None if guard is None else guard.begin_call(owner, changes)

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if (guarded := begin_call(args, kwargs)) is None:
            return method(*args, **kwargs)
        with guarded:
            return method(*args, **kwargs)

    @functools.wraps(method)
    def steps(*args: Any, **kwargs: Any) -> Iterator[Any]:
        coming = method(*args, **kwargs)
        try:
            while True:
                if (guarded := begin_call(args, kwargs)) is None:
                    yield from coming
                    return
                with guarded:
                    try:
                        answer = next(coming)
                    except StopIteration:
                        return
                yield answer
        finally:
            coming.close()  # unguarded: the garbage collector may run this in any thread

    return cast(Method, steps if inspect.isgeneratorfunction(method) else call)
