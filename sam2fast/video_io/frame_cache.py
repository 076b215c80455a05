"""Caches decoded frames, and prefetches the next ones in threads."""

import atexit
import os
import weakref
from collections.abc import Iterable
from contextlib import ExitStack
from queue import SimpleQueue
from threading import Lock, Thread
from typing import ClassVar

import torch
from torch import Tensor

from sam2fast.video_io.sources import Source
from sam2fast.video_io.video_types import VideoError

# Frames. At 1024 x 1024 a frame takes 3 MiB, so the cache takes 96 MiB: about a second of video.
CAPACITY = 32
AHEAD = 6  # frames to prefetch, or two for each reader; few are wasted when the caller jumps
# Threads that read images at once, and bytes of the images that they decode: PIL does so without the GIL.
MOST_READERS = 8
MOST_DECODED = 256 << 20


class FrameCache:
    """The :data:`CAPACITY` frames of a source around the last requested one. Thread-safe.

    ``pinned`` memory is copied to CUDA without another copy. ``readers`` threads may read at once, and ``ahead`` frames
    are prefetched.
    """

    def __init__(self, source: Source, pinned: bool = False) -> None:
        self._source, self._pinned, self._length = source, pinned, len(source)
        fitting = max(1, MOST_DECODED // (3 * source.height * source.width))
        self.readers = min(MOST_READERS, os.cpu_count() or 1, fitting) if source.reads_in_parallel else 1
        self.ahead = max(AHEAD, 2 * self.readers)
        self._frames: dict[int, Tensor] = {}
        self._position, self._step = 0, 1
        self._closed = False
        self._make_locks()

    def get(self, index: int) -> Tensor:
        """Pixels of a frame, ``(S, S, 3)`` uint8. These calls move the window that is cached and prefetched."""
        if self._process != os.getpid():
            self._make_locks()
        with self._lock:
            if index != self._position:
                self._step = -1 if 0 < self._position - index < CAPACITY else 1
            self._position = index
        return self.fetch(index)

    def fetch(self, index: int) -> Tensor:
        """Pixels of a frame, as :meth:`get` returns them and with its errors, without moving the window."""
        pixels = self._cached(index)
        if pixels is not None:
            return pixels
        with self._reading[index % self.readers]:
            pixels = self._cached(index)
            if pixels is None:
                # Video files are decoded forwards only, so a step backwards fills the cache at once.
                since = max(index - CAPACITY + 1, 0) if self._step < 0 else index
                for rank, read in self._source.read(index, since):
                    pixels = torch.empty_like(read, pin_memory=True).copy_(read) if self._pinned else read
                    self._store(rank, pixels)
        assert pixels is not None  # read() ends with the requested frame, or raises
        return pixels

    def upcoming(self, count: int) -> range:
        """Indices of the next ``count`` frames, fewer at the video's end, in the direction of the last calls."""
        with self._lock:
            first, step = self._position + self._step, self._step
        end = min(first + count, self._length) if step > 0 else max(first - count, -1)
        return range(first, end, step)

    def has(self, indices: Iterable[int]) -> bool:
        """Whether frames can be had without reading them."""
        return self._frames.keys() >= {*indices}

    def close(self) -> None:
        """Drops the frames and closes the source, after running reads."""
        if self._process != os.getpid():
            self._make_locks()
        with ExitStack() as reads:
            for lock in (*self._reading, self._lock):
                reads.enter_context(lock)
            self._closed = True
            self._frames.clear()
            self._source.close()

    def _make_locks(self) -> None:
        """Makes the locks, also after a fork: threads that do not exist in the child may hold the old ones."""
        self._lock = Lock()
        # Separate, so that cached frames are available while others are decoded. No two threads read the same frame.
        self._reading = [Lock() for _ in range(self.readers)]
        self._process = os.getpid()

    def _cached(self, index: int) -> Tensor | None:
        with self._lock:
            if self._closed:
                raise VideoError("the frames were closed; open the video again with open_frames()")
            return self._frames.get(index)

    def _store(self, index: int, pixels: Tensor) -> None:
        with self._lock:
            self._frames[index] = pixels
            if len(self._frames) > CAPACITY:
                # The frame furthest behind, or the furthest ahead if none is behind.
                first, last = min(self._frames), max(self._frames)
                behind, ahead = (first, last) if self._step > 0 else (last, first)
                del self._frames[behind if (behind - self._position) * self._step < 0 else ahead]


class Prefetcher:
    """Daemon threads that read the next frames into a cache. They ignore errors, which a request raises again.

    The threads refer to the cache only, so they end when this object is collected, and before the process does.
    """

    _running: "ClassVar[weakref.WeakSet[Prefetcher]]" = weakref.WeakSet()

    def __init__(self, cache: FrameCache) -> None:
        self._cache = cache
        # The only queues that a finaliser may write to: they are reentrant.
        self._requests: list[SimpleQueue[bool]] = [SimpleQueue() for _ in range(cache.readers)]
        self._threads = [
            Thread(target=_work, args=(cache, number, requests), name="sam2fast-prefetch", daemon=True)
            for number, requests in enumerate(self._requests)
        ]
        weakref.finalize(self, _put, self._requests, False)  # first: a thread may fail to start
        for thread in self._threads:
            thread.start()
        self._running.add(self)

    def follow(self) -> None:
        """Prefetches after the last requested frame, unless half of that is there: waking threads takes time."""
        if not self._cache.has(self._cache.upcoming(self._cache.ahead // 2)):
            _put(self._requests, True)

    def stop(self) -> None:
        """Ends each thread after the frame that it is reading, and waits for that."""
        _put(self._requests, False)
        for thread in self._threads:
            thread.join()


@atexit.register
def _stop_all() -> None:
    """A thread that is inside torch when the interpreter ends would abort the process."""
    for prefetcher in list(Prefetcher._running):
        prefetcher.stop()


def _put(queues: "list[SimpleQueue[bool]]", value: bool) -> None:
    for queue in queues:
        queue.put(value)


def _work(cache: FrameCache, number: int, requests: "SimpleQueue[bool]") -> None:
    """Reads every frame ahead whose index, divided by the number of readers, leaves ``number``."""
    failed: set[int] = set()
    while requests.get():
        for index in cache.upcoming(cache.ahead):
            if not requests.empty():
                break
            if index % cache.readers == number and index not in failed:
                try:
                    cache.fetch(index)
                except Exception:
                    failed.add(index)
