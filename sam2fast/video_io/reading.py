"""Videos read forwards, once: files, folders, images as they come, cameras and addresses on the network."""

from collections.abc import Generator, Iterator
from types import TracebackType
from typing import Any, Protocol, TypeAlias

from sam2fast.video_io.errors import NoFramesError, VideoError, check_size, require_pyav
from sam2fast.video_io.kinds import Kind, VideoLike, kind_of, sequence_of
from sam2fast.video_io.picture_streams import IteratorStream, SourceStream
from sam2fast.video_io.sources import ImageFolder, Pictures
from sam2fast.video_io.stream_frame import StreamFrame

__all__ = ["FrameReader", "StreamFrame", "read_frames"]

StreamLike: TypeAlias = VideoLike | int


class Stream(Protocol):
    """Where frames come from, one after the other; ``rate`` and ``count`` are known with the first frame."""

    name: str
    rate: float | None
    count: int | None

    def frames(self) -> Generator[StreamFrame, None, None]:
        """The frames; holds files open from the first frame to the last, or until the generator is closed."""
        ...


class FrameReader:
    """An iterator over :class:`StreamFrame`, and a context manager that closes it. For one thread at a time.

    Opening it reads the first frame. After an error it is at its end.

    Attributes:
        height, width: of the video, upright, in pixels.
        rate: average frames per second, if the source says so.
        count: how many frames the source says it has; None if it does not say. A damaged source may have fewer.

    Raises:
        NoFramesError: there is not one frame.
        VideoError: when opened, or at the frame: a frame cannot be read, or has another size than the first; after the
            last frame: more frames are known to be missing.
    """

    def __init__(self, stream: Stream) -> None:
        self._frames = stream.frames()
        self._first = next(self._frames, None)
        if self._first is None:
            raise NoFramesError(f"{stream.name} has no frames")
        self.height, self.width = self._first.height, self._first.width
        self.rate, self.count = stream.rate, stream.count

    def __iter__(self) -> Iterator[StreamFrame]:
        return self

    def __next__(self) -> StreamFrame:
        frame, self._first = self._first, None
        if frame is None:
            frame = next(self._frames)
        try:
            check_size(frame.index, (frame.height, frame.width), (self.height, self.width))
        except VideoError:
            self.close()
            raise
        return frame

    def close(self) -> None:
        """Closes files and connections; there are no more frames. May be called twice."""
        self._first = None
        self._frames.close()

    def __enter__(self) -> "FrameReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_frames(source: StreamLike, image_size: int) -> FrameReader:
    """The frames of a video in the order in which they are shown, decoded once, in constant memory.

    Nothing is looked at ahead of the first frame, so that long and endless videos start at once. Frames and their
    numbers are those of :func:`~sam2fast.video_io.open_frames`.

    Args:
        source: whatever ``open_frames`` takes, where an iterator is asked for one image at a time; the number of a
            camera, an int; or an address, a string such as ``"rtsp://..."`` that FFmpeg can open.
        image_size: side S of the model's square input.

    Raises:
        FileNotFoundError: there is no such file or folder.
        VideoError: the source cannot be opened, or is no video; see :class:`FrameReader` for frames.
        NoFramesError: it has no frames.
        TypeError: another type of source.
        ImportError: a video, and PyAV is not installed.
    """
    return FrameReader(_stream(source, image_size))


def _stream(source: Any, image_size: int) -> Stream:
    kind = kind_of(source)
    if kind is Kind.FOLDER:
        return SourceStream(ImageFolder(source, image_size), str(source), image_size)
    if kind is Kind.PICTURES:
        return SourceStream(Pictures(sequence_of(source), image_size), "the sequence", image_size)
    if kind is Kind.ITERATOR:
        return IteratorStream(source, image_size)
    require_pyav()
    from sam2fast.video_io.containers import VideoInput
    from sam2fast.video_io.video_stream import DecodedStream

    if kind is Kind.CAMERA:
        return DecodedStream(VideoInput.of_camera(source), image_size)
    if kind is Kind.ADDRESS:
        return DecodedStream(VideoInput.of_address(source), image_size)
    return DecodedStream(VideoInput.of_file(source), image_size)
