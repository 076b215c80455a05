"""A film written frame by frame, which appears when it is finished."""

from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path

import numpy as np

from sam2fast.cli.errors import one_line
from sam2fast.video_io.h264 import encoder_options, find_encoder, label_colours
from sam2fast.whole_files import Partial

CRF = 20  # x264's quality
TICK = Fraction(1, 90_000)  # of a second; the usual unit, in which most rates are whole numbers
DEFAULT_RATE = 25.0  # of folders of pictures


class NoEncoderError(RuntimeError):
    """No film can be written on this machine; the message says why."""


class Film:
    """An MP4 file with H.264 and yuv420p, of any size; odd sides get one more row or column.

    Args:
        path: where it appears.
        rate: frames per second, for frames that have no times.

    Raises:
        NoEncoderError: PyAV is not installed, or has no encoder for H.264.
    """

    def __init__(self, path: Path, height: int, width: int, rate: float | None) -> None:
        try:
            import av
            from av.error import FFmpegError
            from av.video.stream import VideoStream
        except ImportError as error:
            raise NoEncoderError("PyAV is not installed: pip install 'sam2fast[video]'") from error
        name = find_encoder()
        if name is None:
            raise NoEncoderError("this PyAV has no encoder for H.264")
        self._rate = rate or DEFAULT_RATE
        self._padding = ((0, height % 2), (0, width % 2), (0, 0))
        self._first, self._last, self._count = 0.0, -1, 0
        self._failures = OSError, FFmpegError
        with one_line(*self._failures), ExitStack() as opened:
            self._file = Partial(path)
            opened.callback(self._file.discard)
            self._container = av.open(str(self._file.name.absolute()), "w", format="mp4")
            opened.callback(self._container.close)
            whole_rate = Fraction(self._rate).limit_denominator(1001)
            stream = self._container.add_stream(name, rate=whole_rate, options=encoder_options(name, CRF))
            opened.pop_all()
        assert isinstance(stream, VideoStream)
        self._stream = stream
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        stream.codec_context.time_base = TICK
        label_colours(stream)
        self._frame_from = av.VideoFrame.from_ndarray

    def add(self, picture: np.ndarray, time: float | None) -> None:
        """Adds a frame.

        Args:
            picture: ``(H, W, 3)`` uint8.
            time: in seconds, when it is shown; the first one's is taken for the beginning.

        Raises:
            UserError: the file cannot be written.
        """
        if self._padding != ((0, 0), (0, 0), (0, 0)):
            picture = np.pad(picture, self._padding, mode="edge")
        seconds = self._count / self._rate if time is None else time
        if self._count == 0:
            self._first = seconds
        self._last = max(round((seconds - self._first) / TICK), self._last + 1)
        self._count += 1
        frame = self._frame_from(picture, format="rgb24")
        frame.pts, frame.time_base = self._last, TICK
        with one_line(*self._failures):
            self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Makes the film appear, if it has any frames.

        Raises:
            UserError: it cannot be written.
        """
        try:
            with one_line(*self._failures):
                if self._count:
                    self._container.mux(self._stream.encode())
                self._container.close()
                if self._count:
                    self._file.finish()
        finally:
            self.discard()

    def discard(self) -> None:
        """Leaves nothing behind, unless the film has appeared."""
        try:
            with suppress(*self._failures):  # such as a disk that is full: what is closed here nobody wants
                self._container.close()
        finally:
            self._file.discard()
