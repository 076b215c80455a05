"""Calls from several threads that would disturb each other are refused; those after a fork do not wait for ever."""

import functools
import inspect
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar, cast

_log = logging.getLogger(__name__)

Method = TypeVar("Method", bound=Callable[..., Any])


class ConcurrentUseError(RuntimeError):
    """A call on what another thread is in the middle of a call on, or has taken over. It has changed nothing."""


class ThreadGuard:
    """Knows which threads are in the middle of a call on an object.

    A call that changes the object is alone; calls that only read may be many. A thread does not stand in its own way,
    so calls may be nested, and a generator is in a call only while it works on its next answer. Nobody ever waits.
    """

    def __init__(self) -> None:
        # By process: after a fork the other threads are gone, in the middle of their calls.
        self._ongoing = {os.getpid(): _Visits()}

    def visit(self, owner: object, changes: bool) -> "Visit":
        """A call on ``owner``, for a ``with`` block."""
        survive_fork()
        visits = self._ongoing.get(os.getpid())
        if visits is None:
            visits = self._ongoing.setdefault(os.getpid(), _Visits())
        return Visit(visits, type(owner).__name__, changes)

    def note_setting(self) -> None:
        """This thread has set what other calls answer for, such as an image; within an exclusive call."""
        visits, thread = self._ongoing[os.getpid()], threading.current_thread()
        visits.setters.add(thread)
        visits.set_by = weakref.ref(thread)

    def forget_settings(self) -> None:
        """What was set is gone, and with it who set it and who was refused."""
        visits = self._ongoing[os.getpid()]
        visits.is_contested, visits.setters, visits.set_by = False, weakref.WeakSet(), None

    def check_setting(self, what: str) -> None:
        """That what this thread has set was not replaced, once threads were seen to get in each other's way.

        Threads that take turns may set and ask in any of them, as a pool does, so that this alone tells of no mistake.

        Raises:
            ConcurrentUseError: another thread has set another ``what`` since this one has.
        """
        visits, thread = self._ongoing.get(os.getpid()), threading.current_thread()
        if visits is None or not visits.is_contested or thread not in visits.setters:
            return
        if visits.set_by is not None and visits.set_by() is not thread:
            raise ConcurrentUseError(
                f"another thread has set its {what} since this one has; a turn lasts from setting it to the last answer"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return ThreadGuard, ()  # nobody is in the middle of a call on a copy


_process = os.getpid()  # that has loaded this, or the child that has been told below


def survive_fork() -> None:
    """In a process that was forked, torch's threads are gone, and the first large sum would wait for them for ever.

    Whatever is computed with: what the parent has made, a copy of it, or what was made here. Said once for a process:
    afterwards its ``torch.set_num_threads`` holds.
    """
    global _process
    if _process == os.getpid():
        return
    import torch

    if torch.get_num_threads() > 1:
        torch.set_num_threads(1)
        _log.warning("this process was forked, which torch's threads do not survive: it computes with one thread")
    _process = os.getpid()  # last, so that no other thread goes on before


class _Visits:
    """Those of one process."""

    def __init__(self) -> None:
        # Reentrant: a signal's handler may come in the middle, and call something of the same object.
        self.lock = threading.RLock()
        # Weak: a signal may come before a visit can end, which it then does with the call that it belongs to.
        self.ongoing: list[weakref.ref[Visit]] = []
        self.is_contested = False  # whether a call was ever refused
        # Threads, not their numbers, which threads that begin later get again.
        self.setters: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self.set_by: weakref.ref[threading.Thread] | None = None


class Visit:
    """A call of one thread; begins and ends with the ``with`` block."""

    def __init__(self, visits: _Visits, kind: str, changes: bool) -> None:
        self._visits, self._kind = visits, kind
        self.thread, self.changes = threading.get_ident(), changes

    def __enter__(self) -> None:
        """
        Raises:
            ConcurrentUseError: another thread is in the middle of a call, and one of the two changes something.
        """
        with self._visits.lock:
            ongoing = [ref for ref in self._visits.ongoing if ref() is not None]
            for other in (ref() for ref in ongoing):
                if other is not None and other.thread != self.thread and (other.changes or self.changes):
                    self._visits.is_contested = True
                    raise ConcurrentUseError(
                        f"this {self._kind} is being used by another thread; let threads take turns, for instance "
                        "with a threading.Lock, or give each one its own: they may share a model"
                    )
            self._visits.ongoing = [*ongoing, weakref.ref(self)]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._visits.lock:
            self._visits.ongoing = [ref for ref in self._visits.ongoing if ref() is not self]


def exclusive(method: Method) -> Method:
    """For methods of objects that have a ``guard``: refused while another thread is in a call on the object."""
    return _guarded(method, lambda args, kwargs: args[0], changes=True)


def shared(method: Method) -> Method:
    """The same for methods that only read: any number of threads may call them, but not during an exclusive one."""
    return _guarded(method, lambda args, kwargs: args[0], changes=False)


def exclusive_session(method: Method) -> Method:
    """:func:`exclusive` for the ``inference_state``, a method's first argument; the predictor may serve others."""
    return _guarded(method, lambda args, kwargs: args[1] if len(args) > 1 else kwargs.get("inference_state"), True)


def _guarded(method: Method, owner_of: Callable[[Any, Any], Any], changes: bool) -> Method:
    def visit(args: Any, kwargs: Any) -> Visit | None:
        owner = owner_of(args, kwargs)
        guard = getattr(owner, "guard", None)  # without: the method says what is wrong with its arguments
        return None if guard is None else guard.visit(owner, changes)

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if (visiting := visit(args, kwargs)) is None:
            return method(*args, **kwargs)
        with visiting:
            return method(*args, **kwargs)

    @functools.wraps(method)
    def steps(*args: Any, **kwargs: Any) -> Iterator[Any]:
        coming = method(*args, **kwargs)
        try:
            while True:
                if (visiting := visit(args, kwargs)) is None:
                    yield from coming
                    return
                with visiting:
                    try:
                        answer = next(coming)
                    except StopIteration:
                        return
                yield answer
        finally:
            coming.close()  # no visit: Python's collector may come along in any thread

    return cast(Method, steps if inspect.isgeneratorfunction(method) else call)
