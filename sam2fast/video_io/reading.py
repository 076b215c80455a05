"""Reads streams of frames, in order and once, from files, folders, images, cameras and network addresses."""

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from fractions import Fraction
from functools import partial
from itertools import starmap
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from PIL import Image

from sam2fast.video_io.arrays import FrameScale, to_rgb_image
from sam2fast.video_io.opening import SourceKind, VideoLike, as_sequence, source_kind
from sam2fast.video_io.read_ahead import Resizer, read_ahead, threads_for
from sam2fast.video_io.sources import ImageFiles, ImageList, ImageSource, frame_files, open_pages, resized
from sam2fast.video_io.video_types import FramePixels, NoFramesError, StreamFrame, VideoError, check_size, require_pyav
from sam2fast.video_io.volumes import is_volume, open_volume

__all__ = ["FrameReader", "StreamFrame", "read_frames"]
StreamLike: TypeAlias = VideoLike | int


class ImageStream:
    """Stream of RGB images.

    Args:
        images: Images in order, or a source of images. Images of a source that is read in parallel are read and resized
            ahead. Other images are created when their frames are requested.
    """

    pixel_aspect = Fraction(1)

    def __init__(self, images: Iterable[Image.Image] | ImageSource, name: str, image_size: int) -> None:
        source = images if isinstance(images, ImageSource) else None
        self.name = name
        self.rate: float | None = None if source is None else source.rate
        self.time_unit = 0.001  # image files state durations in milliseconds
        self.count: int | None = None if source is None else len(source)
        self.choices: Mapping[str, Any] = {} if source is None else source.choices
        self._images: Iterable[Image.Image] = () if isinstance(images, ImageSource) else images
        self._image_size, self._source = image_size, source

    def frames(self) -> Generator[StreamFrame, None, None]:
        """Yields the frames."""
        source = self._source
        if source is None:
            yield from starmap(self._frame, enumerate(self._images))
        elif not source.reads_in_parallel:
            yield from map(self._read, range(len(source)))
        else:
            threads = threads_for(source.height, source.width)
            resizer = Resizer(threads)
            functions = (partial(self._read, index, resizer) for index in range(len(source)))
            with closing(read_ahead(functions, threads, threads)) as frames:
                yield from resizer.follow(frames)

    def _read(self, index: int, resizer: Resizer | None = None) -> StreamFrame:
        assert self._source is not None
        return self._frame(index, self._source.image(index), resizer)

    def _frame(self, index: int, image: Image.Image, resizer: Resizer | None = None) -> StreamFrame:
        time = None if self._source is None else self._source.time(index)
        square = partial(resized, image, self._image_size)
        pixels = FramePixels(partial(np.array, image), square if resizer is None else resizer.start(square))
        return StreamFrame(index, time, image.height, image.width, pixels)


class Stream(Protocol):
    """Source of frames in order. Attributes except ``name`` are valid after the first frame."""

    name: str
    rate: float | None
    time_unit: float
    count: int | None
    pixel_aspect: Fraction
    choices: Mapping[str, Any]

    def frames(self) -> Generator[StreamFrame, None, None]:
        """Yields the frames. Files stay open until the last frame, or until the generator is closed."""


class FrameReader:
    """Iterator over :class:`StreamFrame`, and context manager that closes the iterator. Not thread-safe.

    The constructor reads the first frame. After an error, the iterator is exhausted.

    Attributes:
        height, width: Size of the video in pixels, upright.
        rate: Average frames per second, if stated by the source. For variable rates, ``open_frames`` has the exact
            average, since it reads all times first.
        time_unit: Unit of the frames' times, in seconds.
        count: Number of frames, if stated by the source. A damaged source may have fewer frames.
        pixel_aspect: Aspect ratio width / height of an upright pixel, or 1 if the source states none.
        choices: Page, bands and scale of image files as JSON, each only if there were several possibilities. Filled
            when frames are read.

    Raises:
        NoFramesError: If there are no frames.
        VideoError: If a frame cannot be read, its size differs from the first frame's size, or frames are missing after
            the last frame.
    """

    def __init__(self, stream: Stream) -> None:
        self._frames = stream.frames()
        self._first = next(self._frames, None)
        if self._first is None:
            raise NoFramesError(f"{stream.name} has no frames")
        self.height, self.width = self._first.height, self._first.width
        self.rate, self.time_unit = stream.rate, stream.time_unit
        self.count, self.pixel_aspect, self.choices = stream.count, stream.pixel_aspect, stream.choices

    def __iter__(self) -> Iterator[StreamFrame]:
        return self

    def __next__(self) -> StreamFrame:
        frame, self._first = self._first or next(self._frames), None
        try:
            check_size(frame.index, (frame.height, frame.width), (self.height, self.width))
        except VideoError:
            self.close()
            raise
        return frame

    def close(self) -> None:
        """Closes files and connections, and ends the iteration. May be called again."""
        self._first = None
        self._frames.close()

    def __enter__(self) -> "FrameReader":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def read_frames(source: StreamLike, image_size: int) -> FrameReader:
    """Reads the frames of a video once, in presentation order, in constant memory.

    The video is not scanned first, so long and endless videos start immediately. Frames and their indices equal those
    of :func:`~sam2fast.video_io.open_frames`.

    Args:
        source: Source of ``open_frames``, index of a camera (an int), or address that FFmpeg can open, such as
            ``"rtsp://..."``. An iterator is read one image at a time.
        image_size: Side S of the model's square input.

    Raises:
        FileNotFoundError: If the file or folder does not exist.
        VideoError: If the source cannot be opened, or is not a video. See also :class:`FrameReader`.
        NoFramesError: If the source has no frames.
        TypeError: If the source has another type.
        ImportError: If the library for a video or a volume is not installed.
    """
    return FrameReader(_stream(source, image_size))


def _stream(source: Any, image_size: int) -> Stream:
    if is_volume(source):
        source = open_volume(source)
    kind = source_kind(source)
    if kind is SourceKind.FOLDER:
        return ImageStream(ImageFiles(frame_files(Path(source)), image_size), str(source), image_size)
    if kind is SourceKind.IMAGES:
        images = ImageStream(ImageList(as_sequence(source), image_size), "the sequence", image_size)
        images.pixel_aspect = getattr(source, "pixel_aspect", images.pixel_aspect)
        return images
    if kind is SourceKind.ITERATOR:
        scale = FrameScale(None)
        rgb = (to_rgb_image(image, index, scale) for index, image in enumerate(source))
        return ImageStream(rgb, "the iterator", image_size)
    if kind is SourceKind.FILE and (pages := open_pages(source, image_size)):
        return ImageStream(pages, "the file", image_size)
    require_pyav()
    from sam2fast.video_io.containers import VideoInput
    from sam2fast.video_io.video_stream import DecodedStream

    if kind is SourceKind.CAMERA:
        return DecodedStream(VideoInput.of_camera(source), image_size)
    if kind is SourceKind.ADDRESS:
        return DecodedStream(VideoInput.of_address(source), image_size)
    return DecodedStream(VideoInput.of_file(source), image_size)
