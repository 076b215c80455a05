"""Caches decoded frames, and prefetches upcoming frames in threads."""

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

# Maximum number of cached frames, about a second of video. At 1024x1024, these frames take 96 MiB.
CAPACITY = 32
AHEAD = 6  # minimum number of frames to prefetch; prefetched frames are wasted if the caller jumps
# Maximum number of threads that read images in parallel, and maximum total size in bytes of the images that the threads
# decode. PIL decodes without the GIL.
MOST_READERS = 8
MOST_DECODED = 256 << 20


class FrameCache:
    """Caches :data:`CAPACITY` frames of a source around the last requested frame. Thread-safe.

    Args:
        pinned: If True, stores frames in pinned memory, for copies to CUDA.

    Attributes:
        readers: Number of threads that may read in parallel.
        ahead: Number of frames to prefetch.
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
        """Returns pixels ``(S, S, 3)`` uint8 of a frame. Moves the cached and prefetched range to this frame."""
        if self._process != os.getpid():
            self._make_locks()
        with self._lock:
            if index != self._position:
                self._step = -1 if 0 < self._position - index < CAPACITY else 1
            self._position = index
        return self.fetch(index)

    def fetch(self, index: int) -> Tensor:
        """Returns pixels of a frame like :meth:`get`, but does not move the range of cached frames."""
        pixels = self._cached(index)
        if pixels is not None:
            return pixels
        with self._reading[index % self.readers]:
            pixels = self._cached(index)
            if pixels is None:
                # Video files are only decoded forward, so a step backward reads many frames at once.
                since = max(index - CAPACITY + 1, 0) if self._step < 0 else index
                for rank, read in self._source.read(index, since):
                    pixels = torch.empty_like(read, pin_memory=True).copy_(read) if self._pinned else read
                    self._store(rank, pixels)
        assert pixels is not None  # read() ends with the requested frame, or raises
        return pixels

    def upcoming(self, count: int) -> range:
        """Returns up to ``count`` indices of the next frames in the direction of the last calls."""
        with self._lock:
            first, step = self._position + self._step, self._step
        end = min(first + count, self._length) if step > 0 else max(first - count, -1)
        return range(first, end, step)

    def has(self, indices: Iterable[int]) -> bool:
        """Returns True if all frames ``indices`` are cached."""
        return self._frames.keys() >= {*indices}

    def close(self) -> None:
        """Waits for running reads, drops the frames, and closes the source."""
        if self._process != os.getpid():
            self._make_locks()
        with ExitStack() as reads:
            for lock in (*self._reading, self._lock):
                reads.enter_context(lock)
            self._closed = True
            self._frames.clear()
            self._source.close()

    def _make_locks(self) -> None:
        """Creates the locks, also after a fork, since threads of the parent may hold the old locks."""
        self._lock = Lock()
        # Separate locks for reading keep cached frames available during reads. A frame always uses the same lock.
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
                # Drops the frame furthest behind, or the furthest ahead if no frame is behind.
                first, last = min(self._frames), max(self._frames)
                behind, ahead = (first, last) if self._step > 0 else (last, first)
                del self._frames[behind if (behind - self._position) * self._step < 0 else ahead]


class Prefetcher:
    """Reads the next frames into a cache, in daemon threads. Ignores errors, since requests raise errors again.

    The threads refer only to the cache, and end when this object is deleted, or before the interpreter exits.
    """

    _running: "ClassVar[weakref.WeakSet[Prefetcher]]" = weakref.WeakSet()

    def __init__(self, cache: FrameCache) -> None:
        self._cache = cache
        # SimpleQueue is reentrant, so that a finalizer may write to it.
        self._requests: list[SimpleQueue[bool]] = [SimpleQueue() for _ in range(cache.readers)]
        self._threads = [
            Thread(target=_work, args=(cache, number, requests), name="sam2fast-prefetch", daemon=True)
            for number, requests in enumerate(self._requests)
        ]
        weakref.finalize(self, _put, self._requests, False)  # comes first, since starting a thread may fail
        for thread in self._threads:
            thread.start()
        self._running.add(self)

    def follow(self) -> None:
        """Prefetches frames after the last requested frame, unless the first half of these frames is already cached."""
        if not self._cache.has(self._cache.upcoming(self._cache.ahead // 2)):
            _put(self._requests, True)

    def stop(self) -> None:
        """Ends the threads after their current frames, and waits for the threads."""
        _put(self._requests, False)
        for thread in self._threads:
            thread.join()


@atexit.register
def _stop_all() -> None:
    """Stops all threads, since a thread that runs torch while the interpreter exits would abort the process."""
    for prefetcher in list(Prefetcher._running):
        prefetcher.stop()


def _put(queues: "list[SimpleQueue[bool]]", value: bool) -> None:
    for queue in queues:
        queue.put(value)


def _work(cache: FrameCache, number: int, requests: "SimpleQueue[bool]") -> None:
    """Reads upcoming frames with ``index % readers == number``."""
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
