"""The few frames of a video that are kept in memory."""

import os
from threading import Lock

from torch import Tensor

from sam2fast.video_io.errors import VideoError
from sam2fast.video_io.sources import Source

# At 1024 x 1024 a frame is 3 MiB: a hundred megabytes, and about a second of video to step back through.
CAPACITY = 32


class FrameCache:
    """Frames of a source near the one asked for last, at most :data:`CAPACITY` of them; safe from several threads."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._frames: dict[int, Tensor] = {}
        self._position, self._step = 0, 1
        self._closed = False
        self._lock = Lock()
        self._reading = Lock()  # apart, so that kept frames can be had while another is decoded
        self._process = os.getpid()

    def get(self, index: int) -> Tensor:
        """Pixels of a frame, ``(S, S, 3)`` uint8; where frames are kept and read ahead follows these calls."""
        self._take_over()
        with self._lock:
            if index != self._position:
                self._step = -1 if 0 < self._position - index < CAPACITY else 1
            self._position = index
        return self.fetch(index)

    def fetch(self, index: int) -> Tensor:
        """The same for a frame that will be asked for later.

        Raises:
            VideoError: the frame cannot be read, or the video was closed.
        """
        pixels = self._kept(index)
        if pixels is not None:
            return pixels
        with self._reading:
            pixels = self._kept(index)
            if pixels is None:
                # A video file is decoded forwards only, so going backwards takes in a cacheful at once.
                since = max(index - CAPACITY + 1, 0) if self._step < 0 else index
                for rank, pixels in self._source.read(index, since):
                    self._keep(rank, pixels)
        assert pixels is not None  # read() ends with the frame asked for, or raises
        return pixels

    def upcoming(self, count: int) -> range:
        """The next ``count`` frames, fewer at the video's end, in the direction of the last calls."""
        with self._lock:
            first, step = self._position + self._step, self._step
        end = min(first + count, len(self._source)) if step > 0 else max(first - count, -1)
        return range(first, end, step)

    def close(self) -> None:
        """Lets go of the frames and of the source, once it is not being read."""
        self._take_over()
        with self._reading, self._lock:
            self._closed = True
            self._frames.clear()
            self._source.close()

    def _take_over(self) -> None:
        """After a fork: threads that are not there any more hold no locks."""
        if self._process != os.getpid():
            self._lock, self._reading, self._process = Lock(), Lock(), os.getpid()

    def _kept(self, index: int) -> Tensor | None:
        with self._lock:
            if self._closed:
                raise VideoError("the frames were closed; open the video again with open_frames()")
            return self._frames.get(index)

    def _keep(self, index: int, pixels: Tensor) -> None:
        with self._lock:
            self._frames[index] = pixels
            if len(self._frames) > CAPACITY:
                del self._frames[max(self._frames, key=self._uselessness)]

    def _uselessness(self, index: int) -> tuple[bool, int]:
        ahead = (index - self._position) * self._step
        return ahead < 0, abs(ahead)
