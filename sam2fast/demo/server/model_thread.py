"""The model's thread, and the order of the calls that run in it."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any, ParamSpec, TypeVar

import torch

from sam2fast.demo.server.demo_errors import BusyError
from sam2fast.utils.devices import autocast_dtype_for

P = ParamSpec("P")
T = TypeVar("T")
CLOSING = "the server is shutting down"


class ModelThread:
    """Runs calls one at a time.

    A call is one prompt, one preview, everything in one photograph, one frame of a track, the preparation of a track,
    or the opening of a video; never a whole track. Frames of tracks wait in a queue of their own: a call waits for the
    running one and for at most one frame for each call before it, however many sessions track. In turn, tracks advance
    by a frame after each call. A client that reads its answer slowly delays nobody. One thread for all calls also means
    one thread pool of torch.

    Args:
        device: the model's device; on CUDA calls run under autocast, see
            :func:`sam2fast.utils.devices.autocast_dtype_for`.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._lock = threading.Lock()
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._frames: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._is_frame_next = False

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Waits for its turn, then returns or raises what the function does. Must not be used within a call.

        Raises:
            BusyError: the thread was closed, or the device is out of memory.
        """
        return self._wait(self._calls, lambda: self._run(function, *args, **kwargs))

    def track_frame(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As :meth:`call`, for a frame of a track."""
        return self._wait(self._frames, lambda: self._run(function, *args, **kwargs))

    def close(self) -> None:
        """Lets the running call finish and cancels those that wait."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            waiting = [*self._calls, *self._frames]
            self._calls.clear()
            self._frames.clear()
        for future, _ in waiting:
            future.cancel()

    def _wait(self, queue: deque[tuple[Future[Any], Callable[[], Any]]], work: Callable[[], T]) -> T:
        future: Future[T] = Future()
        try:
            with self._lock:
                self._executor.submit(self._run_next)  # raises after close, before anything waits
                queue.append((future, work))
            return future.result()
        except CancelledError as error:
            raise BusyError(CLOSING) from error
        except torch.OutOfMemoryError as error:
            raise BusyError("the model's device is out of memory; try again when other sessions are closed") from error
        except RuntimeError as error:
            if "after shutdown" in str(error):
                raise BusyError(CLOSING) from error
            raise

    def _run_next(self) -> None:
        with self._lock:
            queue = self._frames if self._frames and (self._is_frame_next or not self._calls) else self._calls
            if not queue:
                return  # closed meanwhile
            future, work = queue.popleft()
            self._is_frame_next = queue is self._calls
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        is_cuda = self._device.type == "cuda"
        with torch.autocast("cuda", autocast_dtype_for(self._device)) if is_cuda else nullcontext():
            return function(*args, **kwargs)
