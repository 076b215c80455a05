"""Video files of the demo: H.264 in MP4 written for browsers, and frames read back.

Functions raise NotFoundError if a video, or one of its frames, cannot be read.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sam2fast.demo.server.demo_errors import BadVideoError, NotFoundError, message_without_path
from sam2fast.demo.server.photos import is_photo, read_photo
from sam2fast.video_io import VideoError, read_frames
from sam2fast.video_io.containers import VideoInput
from sam2fast.video_io.video_file import VideoFile
from sam2fast.video_io.video_types import PROBE_SIZE
from sam2fast.video_io.video_writer import NoEncoderError, VideoWriter, encoding_errors, to_yuv

CRF = 23  # x264's quality of videos that the page plays
STREAM_OPTIONS = {
    "g": "12",  # frames between keyframes: seeking decodes at most this many
    "threads": "1",  # the bytes depend on it, and the model needs the other cores
    "bf": "0",  # without B-frames the first frame's time is 0 and needs no edit list, which players treat differently
}


class DemoVideoWriter:
    """Writes an MP4 file of constant frame rate; it appears at ``path`` when the block ends without an error.

    Args:
        path: the finished file.
        height, width: size of the frames; odd sizes are scaled to even ones.
        rate: frames per second.
        pixel_aspect: width of a pixel divided by its height.
        crf: x264's quality, lower is better.

    Raises:
        BadVideoError: such a video cannot be encoded.
    """

    def __init__(
        self,
        path: Path,
        height: int,
        width: int,
        rate: Fraction,
        pixel_aspect: Fraction = Fraction(1),
        crf: int = CRF,
    ) -> None:
        self.count = 0
        self._size = max(2, height - height % 2), max(2, width - width % 2)
        try:
            self._failures = encoding_errors()
            from av.video.frame import VideoFrame

            self._file = VideoWriter(
                path,
                *self._size,
                rate,
                tick=1 / rate,
                crf=crf,
                stream_options=STREAM_OPTIONS,
                file_options={"movflags": "+faststart"},
                pixel_aspect=pixel_aspect,
            )
        except NoEncoderError as error:
            raise BadVideoError(str(error)) from error
        self._frame_from = VideoFrame.from_ndarray

    def add(self, image: NDArray[np.uint8]) -> None:
        """Adds a frame ``(H, W, 3)``, resized if it has another size. Raises BadVideoError if it cannot be encoded."""
        height, width = self._size
        frame = self._frame_from(np.ascontiguousarray(image), format="rgb24")
        frame = to_yuv(frame, width=width, height=height, interpolation="BICUBIC")
        try:
            self._file.add(frame, self.count)
        except self._failures as error:
            raise BadVideoError(f"a video of {width}x{height} cannot be encoded: {error}") from error
        self.count += 1

    def __enter__(self) -> "DemoVideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            return self._file.discard()
        if not self.count:
            self._file.discard()
            raise BadVideoError("a video without frames cannot be encoded")
        try:
            self._file.finish()
        except self._failures as error:
            raise BadVideoError(f"the video cannot be encoded: {error}") from error


def read_frame(file: Path, frame: int, count: int) -> NDArray[np.uint8]:
    """One frame ``(H, W, 3)`` of a video of ``count`` frames, in its original size."""
    if not 0 <= frame < count:
        raise NotFoundError(f"there is no frame {frame} in this video; its frames are 0 to {count - 1}")
    if is_photo(file):
        return read_photo(file)
    with _reading(file, f"frame {frame}"), closing(VideoFile(VideoInput.of_file(file), None)) as video:
        return next(resize for index, resize in video.read(frame, frame) if index == frame)().numpy()


def pixel_aspect_of(file: Path) -> Fraction:
    """Width of a video's pixels divided by their height."""
    with _reading(file), read_frames(file, PROBE_SIZE) as reader:
        return reader.pixel_aspect


def iterate_frames(file: Path) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """All frames ``(H, W, 3)`` in order with their indices, in their original size."""
    if is_photo(file):
        yield 0, read_photo(file)
        return
    with _reading(file), read_frames(file, PROBE_SIZE) as frames:
        for frame in frames:
            yield frame.index, frame.rgb


@contextmanager
def _reading(file: Path, what: str = "the video") -> Iterator[None]:
    """Turns errors of reading into a NotFoundError without the file's path."""
    try:
        yield
    except (VideoError, OSError) as error:
        raise NotFoundError(f"{what} cannot be read: {message_without_path(error, file)}") from error
