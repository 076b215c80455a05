"""Caches decoded frames, converts frames in a pool of threads, and prefetches upcoming frames."""

import atexit
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import ClassVar

import torch
from torch import Tensor

from sam2fast.video_io.read_ahead import threads_for
from sam2fast.video_io.sources import Pixels, Source
from sam2fast.video_io.video_types import VideoError

# Maximum number of cached frames, about a second of video. At 1024x1024, these frames take 96 MiB.
CAPACITY = 32
AHEAD = 6  # minimum number of frames to prefetch; prefetched frames are wasted if the caller jumps


class FrameCache:
    """Caches :data:`CAPACITY` frames of a source around the last requested frame. Thread-safe.

    The calling thread reads frames in order. The calling thread or a pool of threads converts the frames: scales frames
    of video files, and decodes and scales image files.

    Args:
        pinned: If True, stores frames in pinned memory, for copies to CUDA.
        has_pool: If True, a pool of threads converts the frames in parallel.

    Attributes:
        threads: Number of threads that may convert in parallel.
        ahead: Number of frames to prefetch.
    """

    def __init__(self, source: Source, pinned: bool = False, has_pool: bool = False) -> None:
        self._source, self._pinned, self._length = source, pinned, len(source)
        self.threads = threads_for(source.height, source.width)
        self.ahead = max(AHEAD, 2 * self.threads) if source.reads_in_parallel else AHEAD
        self._position, self._step = 0, 1
        self._closed, self._has_pool = False, has_pool
        self._begin()

    def get(self, index: int) -> Tensor:
        """Returns pixels ``(S, S, 3)`` uint8 of a frame. Moves the cached and prefetched range to this frame."""
        if self._process != os.getpid():
            self._begin()
        with self._lock:
            if index != self._position:
                self._step = -1 if 0 < self._position - index < CAPACITY else 1
            self._position = index
        return self.fetch(index).result()

    def fetch(self, index: int) -> "Future[Tensor]":
        """Returns the future pixels of a frame. Unlike :meth:`get`, does not move the range of cached frames."""
        frame = self._cached(index)
        if frame is None:
            with self._reading:
                frame = self._cached(index)
                if frame is None:
                    # Video files are only decoded forward, so a step backward reads many frames at once.
                    since = max(index - CAPACITY + 1, 0) if self._step < 0 else index
                    for rank, pixels in self._source.read(index, since):
                        frame = self._convert(pixels)
                        self._store(rank, frame)
        assert frame is not None  # read() ends with the requested frame, or raises
        return frame

    def upcoming(self, count: int) -> range:
        """Returns the last requested index, and up to ``count`` next indices in the direction of the last calls."""
        with self._lock:
            first, step = self._position, self._step
        end = min(first + count + 1, self._length) if step > 0 else max(first - count - 1, -1)
        return range(first, end, step)

    def has(self, indices: Iterable[int]) -> bool:
        """Returns True if all frames ``indices`` are cached, or are converted now."""
        return self._frames.keys() >= {*indices}

    def close(self) -> None:
        """Waits for running reads and conversions, drops the frames, and closes the source."""
        if self._process != os.getpid():
            self._begin()
        with self._reading, self._lock:
            self._closed = True
            self._frames.clear()
            if self._pool is not None:
                self._pool.shutdown()
            self._source.close()

    def _begin(self) -> None:
        """Creates what a fork does not preserve: locks, threads, and frames that the parent's threads convert."""
        # A separate lock for reading keeps cached frames available during reads.
        self._lock, self._reading = Lock(), Lock()
        self._pool = ThreadPoolExecutor(self.threads, "sam2fast-frames") if self._has_pool else None
        self._frames: dict[int, Future[Tensor]] = {}
        self._running: deque[Future[Tensor]] = deque()
        self._process = os.getpid()

    def _cached(self, index: int) -> "Future[Tensor] | None":
        with self._lock:
            if self._closed:
                raise VideoError("the frames were closed; open the video again with open_frames()")
            frame = self._frames.get(index)
            # After an error, the frame is read again.
            return None if frame is not None and frame.done() and frame.exception() is not None else frame

    def _convert(self, pixels: Pixels) -> "Future[Tensor]":
        if isinstance(pixels, Tensor) or self._pool is None:
            frame: Future[Tensor] = _Deferred(partial(_stored, pixels, self._pinned))
            if not self._source.reads_in_parallel:
                frame.result()  # the frame of a decoder must not be held
            return frame
        while self._running and self._running[0].done():
            self._running.popleft()
        # Waits if the conversions do not keep up, since each holds a decoded frame.
        if len(self._running) >= 2 * self.threads:
            wait([self._running.popleft()])
        frame = self._pool.submit(_stored, pixels, self._pinned)
        self._running.append(frame)
        return frame

    def _store(self, index: int, frame: "Future[Tensor]") -> None:
        with self._lock:
            self._frames[index] = frame
            if len(self._frames) > CAPACITY:
                # Drops the frame furthest behind, or the furthest ahead if no frame is behind.
                first, last = min(self._frames), max(self._frames)
                behind, ahead = (first, last) if self._step > 0 else (last, first)
                del self._frames[behind if (behind - self._position) * self._step < 0 else ahead]


class _Deferred(Future[Tensor]):
    """Calls a function when the result is requested, in the first thread that requests the result."""

    def __init__(self, function: Callable[[], Tensor]) -> None:
        super().__init__()
        self._function, self._is_requested = function, Lock()

    def result(self, timeout: float | None = None) -> Tensor:
        if self._is_requested.acquire(blocking=False):
            try:
                self.set_result(self._function())
            except BaseException as error:
                self.set_exception(error)
        return super().result(timeout)


def _stored(pixels: Pixels, pinned: bool) -> Tensor:
    pixels = pixels if isinstance(pixels, Tensor) else pixels()
    return torch.empty_like(pixels, pin_memory=True).copy_(pixels) if pinned else pixels


class Prefetcher:
    """Reads the next frames into a cache, in a daemon thread. Ignores errors, since requests raise errors again.

    The thread refers only to the cache, and ends when this object is deleted, or before the interpreter exits.
    """

    _running: "ClassVar[weakref.WeakSet[Prefetcher]]" = weakref.WeakSet()

    def __init__(self, cache: FrameCache) -> None:
        self._cache = cache
        # SimpleQueue is reentrant, so that a finalizer may write to it.
        self._requests: SimpleQueue[bool] = SimpleQueue()
        self._thread = Thread(target=_work, args=(cache, self._requests), name="sam2fast-prefetch", daemon=True)
        self._thread.start()
        weakref.finalize(self, self._requests.put, False)
        self._running.add(self)

    def follow(self) -> None:
        """Prefetches frames after the last requested frame, unless the first half of these frames is already cached."""
        if not self._cache.has(self._cache.upcoming(self._cache.ahead // 2)):
            self._requests.put(True)

    def stop(self) -> None:
        """Ends the thread after its current frame, and waits for the thread."""
        self._requests.put(False)
        self._thread.join()


@atexit.register
def _stop_all() -> None:
    """Stops all threads, since a thread that runs torch while the interpreter exits would abort the process."""
    for prefetcher in list(Prefetcher._running):
        prefetcher.stop()


def _work(cache: FrameCache, requests: "SimpleQueue[bool]") -> None:
    """Reads upcoming frames, first the requested frame, since decoders cannot go back cheaply."""
    failed: set[int] = set()
    while requests.get():
        for index in cache.upcoming(cache.ahead):
            if not requests.empty():
                break
            if index not in failed:
                try:
                    cache.fetch(index)
                except Exception:
                    failed.add(index)
