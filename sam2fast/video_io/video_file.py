"""Video files, read through PyAV."""

import weakref
from collections.abc import Iterator
from io import BytesIO
from itertools import chain, islice
from pathlib import Path

import av
from av import Packet, VideoFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from torch import Tensor

from sam2fast.video_io.errors import NoFramesError, VideoError
from sam2fast.video_io.scaler import Scaler, clockwise_turn
from sam2fast.video_io.timeline import Timeline, decode, packets_of, read_timeline, video_stream

Shown = tuple[int, VideoFrame]  # a frame and its index


class VideoFile:
    """A video file, by path or as bytes, decoded forwards from the keyframe before a wanted frame.

    Follows decord, the reader of the original: frame i is the i-th in the order in which frames are shown, frames are
    turned as the file asks for (in quarters), and pixels are the same bits. Formats that do not store when frames are
    shown (.avi), and files whose packets contradict each other, are decoded once when opened. Where that shows no use
    in a file's times, going back means to decode from the beginning. Of a truncated file there are the frames that
    can be decoded; of one that is damaged amid, libavcodec makes up what it can.

    Raises:
        VideoError: the file cannot be read as a video.
        NoFramesError: none of its frames can be decoded.
    """

    def __init__(self, file: Path | bytes, image_size: int) -> None:
        self._file = file
        self._name = f"the video of {len(file)} bytes" if isinstance(file, bytes) else str(file)
        self._timeline = read_timeline(self._open)
        self._coming: Iterator[Shown] = iter(())
        self._held: Shown | None = None
        self._next = 0  # the first frame that may still come
        self._rewind()
        first = next(self._coming, None)
        if first is None:
            self.close()
            raise NoFramesError(f"no frame of {self._name} can be decoded")
        self._held = first
        turn = clockwise_turn(first[1])
        self._scaler = Scaler(image_size, turn)
        size = first[1].height, first[1].width
        self.height, self.width = size[::-1] if turn in (90, 270) else size

    def __len__(self) -> int:
        return self._timeline.count

    def read(self, index: int, since: int) -> Iterator[tuple[int, Tensor]]:
        for start in self._starts(since):
            if start is not None:
                self._enter(start)
            for rank, frame in self._until(index):
                if rank >= since:
                    yield rank, self._scaler(frame)
                if rank == index:
                    return
        raise VideoError(f"frame {index} of {self._name} cannot be decoded; the file is damaged there")

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
        self._container, self._stream = self._open()
        # PyAV's objects refer to each other, so an abandoned file would stay open until Python looks for cycles.
        self._close_container = weakref.finalize(self, self._container.close)
        self._close_container.atexit = False  # when a thread may still be decoding
        # An error in one of several frames decoded at a time takes others with it.
        self._stream.thread_type = "AUTO" if self._timeline.sound else "SLICE"
        self._begin(packets_of(self._container, self._stream), 0)

    def _seek(self, keyframe: int) -> bool:
        """Whether the file could be moved to a keyframe. It may be another one, which shows when a frame is missing."""
        try:
            self._container.seek(self._timeline.keyframes[keyframe], stream=self._stream)
        except FFmpegError:
            return False
        packets = packets_of(self._container, self._stream)
        first = list(islice(packets, 1))
        if not first or not first[0].is_keyframe:
            return False
        self._begin(chain(first, packets), self._timeline.rank_of_keyframe(keyframe))
        return True

    def _begin(self, packets: Iterator[Packet], rank: int) -> None:
        self._held, self._next = None, rank
        self._coming = _ranked(decode(self._stream, packets), self._timeline)

    def _open(self) -> tuple[InputContainer, VideoStream]:
        # An absolute path, because FFmpeg takes what precedes a colon for a protocol.
        file = BytesIO(self._file) if isinstance(self._file, bytes) else str(self._file.absolute())
        try:
            container = av.open(file, "r")
        except FFmpegError as error:
            raise VideoError(f"{self._name} cannot be read as a video: {error}") from error
        stream = video_stream(container)
        if stream is None:
            kinds = ", ".join(sorted({other.type for other in container.streams})) or "nothing"
            container.close()
            raise VideoError(f"{self._name} holds no video, only {kinds}")
        return container, stream


def _ranked(frames: Iterator[VideoFrame], timeline: Timeline) -> Iterator[Shown]:
    for count, frame in enumerate(frames):
        rank = count if timeline.times is None else timeline.rank(frame.pts)
        if rank is not None:
            yield rank, frame
