"""Calls in several threads: at the same time, or while another one is paused halfway."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

LONGEST = 60  # timeout in seconds


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """The results of calls that start together, each in its own thread."""
    barrier, results, errors = threading.Barrier(len(calls)), {}, []

    def work(number: int, call: Callable[[], Any]) -> None:
        try:
            barrier.wait(LONGEST)
            results[number] = call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=item, daemon=True) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONGEST)
        assert not thread.is_alive()
    if errors:
        raise errors[0]
    return [results[number] for number in range(len(calls))]


class Held:
    """A call in another thread that pauses at an inner function until it is released."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._reached, self._go_on = threading.Event(), threading.Event()
        self._call, self.result = call, None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        self.result = self._call()

    @contextmanager
    def within(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> Iterator[None]:
        """Inside the block, the call is paused at the function ``name`` of ``owner``."""
        real = getattr(owner, name)

        def waits(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is self._thread:
                self._reached.set()
                assert self._go_on.wait(LONGEST)
            return real(*args, **kwargs)

        with patch.context() as inside:
            inside.setattr(owner, name, waits)
            self._thread.start()
            assert self._reached.wait(LONGEST)
            try:
                yield
            finally:
                self._go_on.set()
                self._thread.join(LONGEST)
        assert not self._thread.is_alive()
