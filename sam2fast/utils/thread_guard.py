"""Refuses concurrent calls of an object's methods, and limits torch to one thread after a fork."""

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
    """Error for a call while another thread uses the object, or after another thread replaced the image.

    The refused call changes nothing.
    """


class CallGuard:
    """Tracks the threads that are calling an object, and refuses conflicting calls.

    A call that changes the object excludes all other calls. Calls that only read may run concurrently. A thread may
    nest calls. Only the outer call is tracked, unless the outer call reads and the inner call changes the object. A
    generator counts as a call only while it computes its next item. Calls never wait.
    """

    def __init__(self) -> None:
        # Calls by process id, since a forked child inherits neither threads nor calls of threads.
        self._ongoing = {os.getpid(): _ProcessCalls()}

    def begin_call(self, owner: object, changes: bool) -> AbstractContextManager[Any]:
        """Returns a context manager that tracks a call, or a null context if the thread's outer call suffices."""
        calls = self._ongoing.get(os.getpid())
        if calls is None:
            calls = self._ongoing.setdefault(os.getpid(), _ProcessCalls())
        thread = threading.get_ident()
        for outer in (ref() for ref in calls.ongoing):
            if outer is not None and outer.thread == thread and outer.changes >= changes:
                return nullcontext(outer)  # holds the outer call, since the guard only has a weak reference
        return GuardedCall(calls, type(owner).__name__, thread, changes)

    def record_change(self) -> None:
        """Records that the ongoing exclusive call replaces data of other calls, such as the image."""
        calls = self._ongoing[os.getpid()]
        calls.changed_by = calls.exclusive_calls

    def check_change(self, what: str) -> None:
        """Raises ConcurrentUseError if the call that set ``what`` (such as the image) refused a call of this thread."""
        calls = self._ongoing.get(os.getpid())
        if calls is not None and calls.refused_by.get(threading.current_thread()) == calls.changed_by:
            raise ConcurrentUseError(
                f"another thread has replaced the {what} while this thread was refused: set the {what} again, and "
                "let no other thread call this object until the last result"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return CallGuard, ()  # a copy has no ongoing calls


_process = os.getpid()  # id of the process that imported this module, or of the warned child


def limit_threads_after_fork() -> None:
    """Limits torch to one thread in a forked process, once. Later calls of ``torch.set_num_threads`` take effect.

    Torch's threads do not exist in a forked process, so the first large operation would wait forever.
    """
    global _process
    if _process == os.getpid():
        return
    import torch

    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        _log.warning("this process was forked, and torch's threads do not survive a fork: torch uses one thread")
    _process = os.getpid()  # set last, since other threads must not skip the limit before


class _ProcessCalls:
    """Stores the ongoing calls in one process."""

    def __init__(self) -> None:
        limit_threads_after_fork()
        # The lock is reentrant, since a signal handler may interrupt a call and use the same object.
        self.lock = threading.RLock()
        # Entries are weak references, so that entries vanish even if a signal prevents __exit__.
        self.ongoing: list[weakref.ref[GuardedCall]] = []
        self.exclusive_calls = 0  # number of exclusive calls so far
        self.changed_by = 0  # number of the exclusive call that last replaced data, such as the image
        # Maps threads to the number of the exclusive call that refused the thread. Threads are keys, since Python
        # reuses ids of threads.
        self.refused_by: weakref.WeakKeyDictionary[threading.Thread, int] = weakref.WeakKeyDictionary()


@dataclass(eq=False)
class GuardedCall:
    """Context manager that tracks a call of a thread."""

    calls: _ProcessCalls
    owner: str  # name of the object's type
    thread: int
    changes: bool

    def __enter__(self) -> None:
        """Begins the call. Raises ConcurrentUseError if another thread's call excludes this call."""
        with self.calls.lock:
            ongoing = [ref for ref in self.calls.ongoing if ref() is not None]
            for other in (ref() for ref in ongoing):
                if other is not None and other.thread != self.thread and (other.changes or self.changes):
                    if other.changes:
                        self.calls.refused_by[threading.current_thread()] = self.calls.exclusive_calls
                    raise ConcurrentUseError(
                        f"this {self.owner} is being used by another thread; serialize calls, for example with a "
                        f"threading.Lock, or create a {self.owner} per thread: they may share a model"
                    )
            self.calls.exclusive_calls += self.changes
            self.calls.ongoing = [*ongoing, weakref.ref(self)]

    def __exit__(self, *error: object) -> None:
        with self.calls.lock:
            self.calls.ongoing = [ref for ref in self.calls.ongoing if ref() is not self]


def exclusive(method: Method) -> Method:
    """Decorator for a method that changes its object. Calls are refused while another thread calls the object.

    The object must have a :class:`CallGuard` named ``guard``.
    """
    return _guarded(method, 0, changes=True)


def shared(method: Method) -> Method:
    """Decorator for a method that only reads its object. Calls are refused during another thread's exclusive call."""
    return _guarded(method, 0, changes=False)


def exclusive_session(method: Method, check: Callable[[Any, Any], Any] | None = None) -> Method:
    """Decorator that guards the first argument, an ``inference_state``, as :func:`exclusive` guards the object.

    Args:
        check: Function of the object and the ``inference_state`` that returns the ``inference_state`` to use. A
            generator calls the function at its start.
    """
    return _guarded(method, 1, changes=True, check=check)


def _guarded(method: Method, place: int, changes: bool, check: Callable[[Any, Any], Any] | None = None) -> Method:
    """Returns the method, guarded by the argument at index ``place``. See :func:`exclusive_session` for ``check``."""

    def checked(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if check is not None and len(args) > 1:
            args = (args[0], check(args[0], args[1]), *args[2:])
        elif check is not None and "inference_state" in kwargs:  # otherwise the method reports the missing argument
            kwargs = {**kwargs, "inference_state": check(args[0], kwargs["inference_state"])}
        return args, kwargs

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = checked(args, kwargs)
        owner = args[place] if len(args) > place else kwargs.get("inference_state")
        guard = getattr(owner, "guard", None)
        if guard is None:  # no guard: the method raises an error for the wrong argument
            return method(*args, **kwargs)
        with guard.begin_call(owner, changes):
            return method(*args, **kwargs)

    @functools.wraps(method)
    def steps(*args: Any, **kwargs: Any) -> Iterator[Any]:
        args, kwargs = checked(args, kwargs)
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
            coming.close()  # not guarded, since the garbage collector may close a generator in any thread

    return cast(Method, steps if inspect.isgeneratorfunction(method) else call)
