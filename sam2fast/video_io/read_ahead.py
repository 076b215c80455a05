"""Reads and resizes frames ahead in threads."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from torch import Tensor

from sam2fast.utils.cores import available_cores
from sam2fast.video_io.video_types import StreamFrame

T = TypeVar("T")
# Maximum number of threads that read or resize frames in parallel, and maximum total size in bytes of the images that
# the threads decode. PIL and FFmpeg work without the GIL.
MOST_THREADS = 8
MOST_DECODED = 256 << 20


def threads_for(height: int, width: int) -> int:
    """Returns the number of threads for images of a size."""
    return min(MOST_THREADS, available_cores(), max(1, MOST_DECODED // (3 * height * width)))


def read_ahead(functions: Iterator[Callable[[], T]], count: int, threads: int) -> Generator[T, None, None]:
    """Yields the results of functions in order, while threads call the next ``count`` functions.

    Reading ahead begins when the second result is requested, since some callers only want the first. An exception is
    raised in place of the result.
    """
    for function in islice(functions, 1):
        yield function()
    pool = ThreadPoolExecutor(threads, "sam2fast-read")
    try:
        coming: deque[Future[T]] = deque(map(pool.submit, islice(functions, count)))
        while coming:
            result = coming.popleft().result()
            coming.extend(map(pool.submit, islice(functions, 1)))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


class Resizer:
    """Resizes frames of a stream in threads before the frames are requested.

    Begins after the caller has requested the resized pixels of two frames in a row: some callers request the pixels of
    every tenth frame, or of none.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "sam2fast-resize")
        self._in_a_row = 0

    def start(self, resize: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Returns a function with the result of ``resize``, which a thread may already call."""
        return self._pool.submit(resize).result if self._in_a_row >= 2 else resize

    def follow(self, frames: Iterable[StreamFrame]) -> Generator[StreamFrame, None, None]:
        """Yields the frames, and watches which frames the caller resizes."""
        with self._pool:
            for frame in frames:
                yield frame
                was_resized = "square" in vars(frame)  # a cached property
                self._in_a_row = self._in_a_row + 1 if was_resized else 0
