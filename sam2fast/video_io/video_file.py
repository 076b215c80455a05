"""Video files, read through PyAV."""

import os
import weakref
from collections.abc import Iterator
from itertools import chain, islice

from av import Packet, VideoFrame
from av.container import InputContainer
from av.error import FFmpegError
from torch import Tensor

from sam2fast.video_io.containers import VideoInput
from sam2fast.video_io.errors import NoFramesError, VideoError, check_size
from sam2fast.video_io.packets import Packets, decode
from sam2fast.video_io.scaler import Scaler, clockwise_turn, upright_size
from sam2fast.video_io.timeline import Timeline, read_timeline

Shown = tuple[int, VideoFrame]  # a frame and its index

# Decoders that a fork has left without their threads, for which they would wait for ever when they end.
_abandoned: list[object] = []


class VideoFile:
    """A video file, decoded forwards from the keyframe before a wanted frame.

    Follows decord, the reader of the original: frame i is the i-th in the order in which frames are shown, frames are
    turned as the file asks for (in quarters), and pixels are the same bits. Formats that do not store when frames are
    shown (.avi), and files whose packets contradict each other, are decoded once when opened. Where that shows no use
    in a file's times, going back means to decode from the beginning. Of a truncated file there are the frames that
    are whole, see ``truncated``; of one that is damaged amid, libavcodec makes up what it can.

    Args:
        image_size: side S of the square that frames are resized to; None leaves them at the file's own size.

    Raises:
        VideoError: the file cannot be read as a video, or not twice.
        NoFramesError: none of its frames can be decoded.
    """

    def __init__(self, video: VideoInput, image_size: int | None) -> None:
        if not video.is_file:
            raise VideoError(f"{video.name} cannot be rewound; use read_frames(), or read it into bytes first")
        self._video, self._process = video, os.getpid()
        self._timeline = read_timeline(video)
        self.rate, self.truncated = self._timeline.rate, self._timeline.truncated
        # An error in one of several frames decoded at a time takes others with it.
        self._threads = "AUTO" if self._timeline.sound else "SLICE"
        self._coming: Iterator[Shown] = iter(())
        self._held: Shown | None = None
        self._next = 0  # the first frame that may still come
        self._rewind()
        first = next(self._coming, None)
        if first is None:
            self.close()
            raise NoFramesError(f"no frame of {video.name} can be decoded{video.note_on_its_end()}")
        self._held = first
        self._turn = clockwise_turn(first[1])
        self._scaler = Scaler(image_size, self._turn)
        self.height, self.width = upright_size(first[1], self._turn)

    def __len__(self) -> int:
        return self._timeline.count

    def read(self, index: int, since: int) -> Iterator[tuple[int, Tensor]]:
        """See :meth:`~sam2fast.video_io.sources.Source.read`; items are decoded while they are asked for.

        Their pixels are ``(S, S, 3)`` uint8 RGB on the CPU, or ``(H, W, 3)`` without an ``image_size``.

        Raises:
            VideoError: the frame cannot be decoded or has another size, or the process was forked.
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
                size = upright_size(frame, self._turn)
                if rank == index:
                    check_size(index, size, (self.height, self.width))
                if rank >= since and size == (self.height, self.width):
                    yield rank, self._scaler(frame)
                if rank == index:
                    return
        if self._threads == "AUTO":
            # Once more, and from here on, so that a damaged frame takes no other with it.
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
        """Where to begin to get at a frame: here (None) if that is nearest, else at keyframes.

        Not every keyframe is one from which all that follows can be decoded, hence several.
        """
        keyframe = self._timeline.keyframe_before(rank)
        is_on_the_way = self._timeline.rank_of_keyframe(keyframe) <= self._next <= rank
        return [*([None] if is_on_the_way else []), *dict.fromkeys((keyframe, max(keyframe - 1, 0), 0))]

    def _until(self, index: int) -> Iterator[Shown]:
        """The frames that come, up to ``index``; a later one is held back."""
        while (shown := self._held or next(self._coming, None)) is not None:
            self._held, self._next = None, shown[0] + 1
            if shown[0] > index:
                self._held, self._next = shown, shown[0]
                return
            yield shown
        self._next = len(self)

    def _enter(self, keyframe: int) -> None:
        """Goes to a keyframe, or to somewhere before it where that fails."""
        if keyframe == 0 or not self._seek(keyframe):
            self.close()
            self._rewind()

    def _rewind(self) -> None:
        """Opens the file anew: certain to be at its beginning, which not every format can seek to."""
        self._container, self._stream = self._video.open()
        # PyAV's objects refer to each other, so an abandoned file would stay open until Python looks for cycles.
        self._close_container = weakref.finalize(self, _close, os.getpid(), self._container, self._stream)
        self._close_container.atexit = False  # when a thread may still be decoding
        self._stream.thread_type = self._threads
        self._begin(Packets(self._container, self._stream), 0)

    def _seek(self, keyframe: int) -> bool:
        """Whether the file could be moved to a keyframe. It may be another one, which shows when a frame is missing."""
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


def _ranked(frames: Iterator[VideoFrame], timeline: Timeline) -> Iterator[Shown]:
    for count, frame in enumerate(frames):
        rank = count if timeline.times is None else timeline.rank(frame.pts)
        if rank is not None:
            yield rank, frame
