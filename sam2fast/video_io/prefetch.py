"""Reading ahead in a thread."""

import weakref
from queue import SimpleQueue
from threading import Thread

from sam2fast.video_io.cache import FrameCache

AHEAD = 4  # enough to even out keyframes and disk, and few to throw away when the caller jumps


class Prefetcher:
    """A daemon thread that reads the frames which come next into a cache.

    It knows nothing of who asks, so it does not keep the caller's objects alive, and ends when nobody is left who could
    ask. Its errors are dropped: who asks for that frame meets them again, as without the thread.
    """

    def __init__(self, cache: FrameCache) -> None:
        # The only queue that may be written to from a finaliser, which runs anywhere.
        self._wishes: SimpleQueue[bool] = SimpleQueue()
        self._thread = Thread(target=_work, args=(cache, self._wishes), name="sam2fast-prefetch", daemon=True)
        self._thread.start()
        weakref.finalize(self, self._wishes.put, False)

    def follow(self) -> None:
        """Tells the thread that a frame was asked for."""
        self._wishes.put(True)

    def stop(self) -> None:
        """Lets the thread end after the frame it is reading."""
        self._wishes.put(False)

    def join(self) -> None:
        """Waits until it has ended."""
        self._thread.join()


def _work(cache: FrameCache, wishes: "SimpleQueue[bool]") -> None:
    failed: set[int] = set()
    while wishes.get():
        for index in cache.upcoming(AHEAD):
            if not wishes.empty():
                break
            if index not in failed:
                try:
                    cache.fetch(index)
                except Exception:
                    failed.add(index)
