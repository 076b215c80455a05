"""Caches decoded frames, and prefetches the next ones in a thread."""

import os
import weakref
from queue import SimpleQueue
from threading import Lock, Thread

import torch
from torch import Tensor

from sam2fast.video_io.sources import Source
from sam2fast.video_io.video_types import VideoError

# Frames. At 1024 x 1024 a frame takes 3 MiB, so the cache takes 96 MiB: about a second of video.
CAPACITY = 32
AHEAD = 6  # frames to prefetch; few are wasted when the caller jumps


class FrameCache:
    """The :data:`CAPACITY` frames of a source around the last requested one. Thread-safe.

    Args:
        source: of the frames.
        pinned: keeps them in pinned memory, from which they are copied to CUDA without another copy.
    """

    def __init__(self, source: Source, pinned: bool = False) -> None:
        self._source, self._pinned = source, pinned
        self._frames: dict[int, Tensor] = {}
        self._position, self._step = 0, 1
        self._closed = False
        self._lock = Lock()
        self._reading = Lock()  # separate, so that cached frames are available while another is decoded
        self._process = os.getpid()

    def get(self, index: int) -> Tensor:
        """Pixels of a frame, ``(S, S, 3)`` uint8. These calls move the window that is cached and prefetched."""
        self._reset_after_fork()
        with self._lock:
            if index != self._position:
                self._step = -1 if 0 < self._position - index < CAPACITY else 1
            self._position = index
        return self.fetch(index)

    def fetch(self, index: int) -> Tensor:
        """Pixels of a frame, as :meth:`get` returns them, without moving the window.

        Raises:
            VideoError: the frame cannot be read, or the video was closed.
        """
        pixels = self._cached(index)
        if pixels is not None:
            return pixels
        with self._reading:
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
        end = min(first + count, len(self._source)) if step > 0 else max(first - count, -1)
        return range(first, end, step)

    def has(self, index: int) -> bool:
        """Whether a frame can be had without reading it."""
        return index in self._frames

    def close(self) -> None:
        """Drops the frames and closes the source, after a running read."""
        self._reset_after_fork()
        with self._reading, self._lock:
            self._closed = True
            self._frames.clear()
            self._source.close()

    def _reset_after_fork(self) -> None:
        """Replaces the locks after a fork: threads that do not exist in the child may hold them."""
        if self._process != os.getpid():
            self._lock, self._reading, self._process = Lock(), Lock(), os.getpid()

    def _cached(self, index: int) -> Tensor | None:
        with self._lock:
            if self._closed:
                raise VideoError("the frames were closed; open the video again with open_frames()")
            return self._frames.get(index)

    def _store(self, index: int, pixels: Tensor) -> None:
        with self._lock:
            self._frames[index] = pixels
            if len(self._frames) > CAPACITY:
                del self._frames[max(self._frames, key=self._eviction_rank)]

    def _eviction_rank(self, index: int) -> tuple[bool, int]:
        ahead = (index - self._position) * self._step
        return ahead < 0, abs(ahead)


class Prefetcher:
    """A daemon thread that reads the next frames into a cache.

    The thread refers to the cache only, so it ends when this object is collected. It ignores errors; a request for the
    frame raises them again.
    """

    def __init__(self, cache: FrameCache) -> None:
        # The only queue that a finaliser may write to: it is reentrant.
        self._requests: SimpleQueue[bool] = SimpleQueue()
        self._cache = cache
        self._thread = Thread(target=_work, args=(cache, self._requests), name="sam2fast-prefetch", daemon=True)
        self._thread.start()
        weakref.finalize(self, self._requests.put, False)

    def follow(self) -> None:
        """Prefetches after the last requested frame, unless half of that is there: waking the thread takes time."""
        if not all(map(self._cache.has, self._cache.upcoming(AHEAD // 2))):
            self._requests.put(True)

    def stop(self) -> None:
        """Ends the thread after the frame that it is reading, and waits for that."""
        self._requests.put(False)
        self._thread.join()


def _work(cache: FrameCache, requests: "SimpleQueue[bool]") -> None:
    failed: set[int] = set()
    while requests.get():
        for index in cache.upcoming(AHEAD):
            if not requests.empty():
                break
            if index not in failed:
                try:
                    cache.fetch(index)
                except Exception:
                    failed.add(index)
