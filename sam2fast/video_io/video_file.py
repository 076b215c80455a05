"""Reads video files with PyAV."""

import os
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice

from av import Packet, VideoFrame
from av.container import InputContainer
from av.error import FFmpegError
from torch import Tensor

from sam2fast.video_io.containers import VideoInput
from sam2fast.video_io.decoding import Orientation, Packets, Scaler, decode, maps_tones
from sam2fast.video_io.sources import Source
from sam2fast.video_io.timeline import Timeline, read_timeline
from sam2fast.video_io.video_types import NoFramesError, VideoError, check_size

IndexedFrame = tuple[int, VideoFrame]  # index of a frame, and the frame

# Decoders that a forked process inherited. The decoders are kept alive, since closing would wait for threads that do
# not exist.
_abandoned: list[object] = []


class VideoFile(Source):
    """Decodes frames of a video file, from the keyframe before the requested frame on.

    Frames are upright, numbered in presentation order, and equal bit by bit to frames of decord, the official package's
    reader. Only mirrored videos differ: decord ignores the mirroring. Files without presentation times (.avi) or with
    inconsistent packets are decoded once when they are opened. If the decoded frames have no usable times, each step
    backward decodes from the beginning. A truncated file has the frames that can be read; see ``truncated``. libavcodec
    conceals other damage.

    Args:
        image_size: Side S of the square to which frames are resized, or None to keep the file's size.

    Raises:
        VideoError: If the file cannot be read as a video, or cannot be rewound.
        NoFramesError: If no frame can be decoded.
    """

    def __init__(self, video: VideoInput, image_size: int | None) -> None:
        if not video.is_file:
            raise VideoError(f"{video.name} cannot be rewound; use read_frames(), or read it into bytes first")
        self._video, self._image_size, self._process = video, image_size, os.getpid()
        self._timeline = read_timeline(video)
        self.rate, self.truncated = self._timeline.rate, self._timeline.truncated
        # With frame threading, an error in one frame also drops other frames.
        self._threads = "AUTO" if self._timeline.sound else "SLICE"
        self._coming: Iterator[IndexedFrame] = iter(())
        self._held: IndexedFrame | None = None
        self._next = 0  # lower bound of the next frame's index
        self._rewind()
        first = next(self._coming, None)
        if first is None:
            self.close()
            raise NoFramesError(f"no frame of {video.name} can be decoded")
        self._held = first
        self._orientation = Orientation.of(first[1])
        self._scaler = Scaler(image_size, self._orientation, maps_tones(video, first[1]))
        self.height, self.width = self._orientation.size(first[1])

    def __reduce__(self) -> tuple[object, ...]:
        return VideoFile, (self._video, self._image_size)

    def __len__(self) -> int:
        return self._timeline.count

    def read(self, index: int, since: int) -> Iterator[tuple[int, Callable[[], Tensor]]]:
        """Decodes frames lazily. The functions resize. See :meth:`~sam2fast.video_io.sources.Source.read`.

        Pixels are ``(S, S, 3)`` uint8 RGB on the CPU, or ``(H, W, 3)`` if ``image_size`` is None.

        Raises:
            VideoError: If the frame cannot be decoded or has another size, or the process was forked.
        """
        if os.getpid() != self._process:
            raise VideoError(
                f"{self._video.name} was opened before this process was forked, and its decoder does not survive that; "
                "open it in this process, or start processes by spawn"
            )
        for start in self._starts(since):
            if start is not None:
                self._enter(start)
            for rank, frame in self._until(index):
                size = self._orientation.size(frame)
                if rank == index:
                    check_size(index, size, (self.height, self.width))
                if rank >= since and size == (self.height, self.width):
                    yield rank, partial(self._scaler, frame)
                if rank == index:
                    return
        if self._threads == "AUTO":
            # Retries, from now on without frame threading, so that a damaged frame does not lose other frames.
            self._threads = "SLICE"
            self._enter(0)
            yield from self.read(index, since)
            return
        raise VideoError(f"frame {index} of {self._video.name} cannot be decoded; it is damaged there")

    def time(self, index: int) -> float | None:
        return self._timeline.seconds(index)

    def close(self) -> None:
        self._held, self._coming = None, iter(())
        self._close_container()

    def _starts(self, rank: int) -> list[int | None]:
        """Returns points to decode a frame from, in order of preference: the current position (None), and keyframes."""
        keyframe = self._timeline.keyframe_before(rank)
        is_on_the_way = self._timeline.rank_of_keyframe(keyframe) <= self._next <= rank
        return [*([None] if is_on_the_way else []), *dict.fromkeys((keyframe, max(keyframe - 1, 0), 0))]

    def _until(self, index: int) -> Iterator[IndexedFrame]:
        """Yields the next frames up to ``index``. Holds a later frame for the next call."""
        while (indexed := self._held or next(self._coming, None)) is not None:
            self._held, self._next = None, indexed[0] + 1
            if indexed[0] > index:
                self._held, self._next = indexed, indexed[0]
                return
            yield indexed
        self._next = len(self)

    def _enter(self, keyframe: int) -> None:
        """Seeks to a keyframe. If seeking fails, reopens the file."""
        if keyframe == 0 or not self._seek(keyframe):
            self.close()
            self._rewind()

    def _rewind(self) -> None:
        """Reopens the file, since some formats cannot seek to the beginning."""
        self._container, self._stream = self._video.open()
        # PyAV's objects form reference cycles, so an unused file would stay open until garbage collection.
        self._close_container = weakref.finalize(self, _close, os.getpid(), self._container, self._stream)
        self._close_container.atexit = False  # a thread may decode during exit
        self._stream.thread_type = self._threads
        self._begin(Packets(self._container, self._stream), 0)

    def _seek(self, keyframe: int) -> bool:
        """Seeks to a keyframe. Returns False if seeking fails. After a seek to a wrong position, frames are missing."""
        try:
            self._container.seek(self._timeline.keyframes[keyframe], stream=self._stream)
        except FFmpegError:
            return False
        packets = Packets(self._container, self._stream)
        first = list(islice(packets, 1))
        if not first or not first[0].is_keyframe:
            return False
        self._begin(chain(first, packets), self._timeline.rank_of_keyframe(keyframe))
        return True

    def _begin(self, packets: Iterator[Packet], rank: int) -> None:
        self._held, self._next = None, rank
        self._coming = _ranked(decode(self._stream, packets), self._timeline)


def _close(process: int, container: InputContainer, stream: object) -> None:
    if os.getpid() == process:
        container.close()
    else:
        _abandoned.append((container, stream))


def _ranked(frames: Iterator[VideoFrame], timeline: Timeline) -> Iterator[IndexedFrame]:
    for count, frame in enumerate(frames):
        rank = count if timeline.times is None else timeline.rank(frame.pts)
        if rank is not None:
            yield rank, frame
