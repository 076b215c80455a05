"""Refuses concurrent calls on one object, and limits torch to one thread after a fork."""

import functools
import inspect
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar, cast

_log = logging.getLogger(__name__)

Method = TypeVar("Method", bound=Callable[..., Any])


class ConcurrentUseError(RuntimeError):
    """Raised if another thread is using the object, or has replaced its image. The refused call changed nothing."""


class CallGuard:
    """Tracks which threads are calling an object, and refuses conflicting calls.

    A call that changes the object excludes all others. Calls that only read may run at the same time. A thread may nest
    its calls. Only the outer call is tracked, unless it reads and the inner call changes the object. A generator counts
    as a call only while it computes its next item. No call ever waits.
    """

    def __init__(self) -> None:
        # By process: the child of a fork does not inherit the threads, nor their calls.
        self._ongoing = {os.getpid(): _ProcessCalls()}

    def begin_call(self, owner: object, changes: bool) -> AbstractContextManager[Any]:
        """Returns a context manager of one call, which does nothing in a nested call that need not be tracked."""
        calls = self._ongoing.get(os.getpid())
        if calls is None:
            calls = self._ongoing.setdefault(os.getpid(), _ProcessCalls())
        thread = threading.get_ident()
        for outer in (ref() for ref in calls.ongoing):
            if outer is not None and outer.thread == thread and outer.changes >= changes:
                return nullcontext(outer)  # keeps the entry of an outer call that a signal interrupted
        return GuardedCall(calls, type(owner).__name__, thread, changes)

    def record_change(self) -> None:
        """Records that the ongoing exclusive call has replaced what other calls use, such as an image."""
        calls = self._ongoing[os.getpid()]
        calls.changed_by = calls.exclusive_calls

    def check_change(self, what: str) -> None:
        """Raises ConcurrentUseError if this thread was refused during the call that set ``what``, such as an image."""
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
    """Limits torch to one thread in a forked process, once. Later calls of ``torch.set_num_threads`` have effect.

    Torch's threads do not survive a fork, and the first large operation would wait for them forever.
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
    """Stores the running calls of one process."""

    def __init__(self) -> None:
        limit_threads_after_fork()
        # Reentrant: a signal handler may interrupt a call and use the same object.
        self.lock = threading.RLock()
        # Weak: if a signal prevents __exit__, the entry ends with its object.
        self.ongoing: list[weakref.ref[GuardedCall]] = []
        self.exclusive_calls = 0  # begun so far
        self.changed_by = 0  # the number of the exclusive call that set the present image or the like
        # The exclusive call during which a thread was refused. Threads, not their ids: ids are used again.
        self.refused_by: weakref.WeakKeyDictionary[threading.Thread, int] = weakref.WeakKeyDictionary()


@dataclass(eq=False)
class GuardedCall:
    """Context manager of one call of one thread."""

    calls: _ProcessCalls
    owner: str  # name of its type
    thread: int
    changes: bool

    def __enter__(self) -> None:
        """Begins the call. Raises ConcurrentUseError if another thread's call excludes it."""
        with self.calls.lock:
            ongoing = [ref for ref in self.calls.ongoing if ref() is not None]
            for other in (ref() for ref in ongoing):
                if other is not None and other.thread != self.thread and (other.changes or self.changes):
                    if other.changes:
                        self.calls.refused_by[threading.current_thread()] = self.calls.exclusive_calls
                    raise ConcurrentUseError(
                        f"this {self.owner} is being used by another thread; let threads take turns, for instance "
                        "with a threading.Lock, or give each one its own: they may share a model"
                    )
            self.calls.exclusive_calls += self.changes
            self.calls.ongoing = [*ongoing, weakref.ref(self)]

    def __exit__(self, *error: object) -> None:
        with self.calls.lock:
            self.calls.ongoing = [ref for ref in self.calls.ongoing if ref() is not self]


def exclusive(method: Method) -> Method:
    """Decorates a method that changes its object. It is refused while another thread calls the object.

    The object has a :class:`CallGuard` named ``guard``.
    """
    return _guarded(method, 0, changes=True)


def shared(method: Method) -> Method:
    """Decorates a method that only reads its object. It is refused while another thread is in an exclusive call."""
    return _guarded(method, 0, changes=False)


def exclusive_session(method: Method) -> Method:
    """Decorates a method like :func:`exclusive`, but guards the first argument, an ``inference_state``."""
    return _guarded(method, 1, changes=True)


def _guarded(method: Method, place: int, changes: bool) -> Method:
    """Returns the method, guarded by the guard of the argument at ``place``."""

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        owner = args[place] if len(args) > place else kwargs.get("inference_state")
        guard = getattr(owner, "guard", None)
        if guard is None:  # the method reports the wrong argument
            return method(*args, **kwargs)
        with guard.begin_call(owner, changes):
            return method(*args, **kwargs)

    @functools.wraps(method)
    def steps(*args: Any, **kwargs: Any) -> Iterator[Any]:
        owner, coming = args[place] if len(args) > place else kwargs.get("inference_state"), method(*args, **kwargs)
        guard = getattr(owner, "guard", None)
        try:
            while True:
                with nullcontext() if guard is None else guard.begin_call(owner, changes):
                    try:
                        answer = next(coming)
                    except StopIteration:
                        return
                yield answer
        finally:
            coming.close()  # unguarded: the garbage collector may run this in any thread

    return cast(Method, steps if inspect.isgeneratorfunction(method) else call)
