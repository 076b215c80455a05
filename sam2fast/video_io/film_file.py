"""An MP4 file with H.264 that appears when it is finished."""

from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from sam2fast.io.atomic import Partial
from sam2fast.video_io.h264 import encoder_options, find_encoder, label_colours

if TYPE_CHECKING:
    from av.video.frame import VideoFrame


class NoEncoderError(RuntimeError):
    """No film can be written on this machine; the message says why."""


def film_failures() -> tuple[type[Exception], ...]:
    """What encoding a film raises where it cannot go on, besides the file's OSError.

    Raises:
        NoEncoderError: PyAV is not installed.
    """
    try:
        from av.error import FFmpegError
    except ImportError as error:
        raise NoEncoderError("PyAV is not installed: pip install 'sam2fast[video]'") from error
    return FFmpegError, ValueError


class FilmFile:
    """Takes frames of PyAV, in yuv420p or what is turned into it, under the times that they have.

    Args:
        path: where it appears.
        height, width: even numbers of pixels.
        rate: frames per second, which players show; ``tick``: of the frames' times, in seconds.
        crf: x264's quality, less being better.
        keyframe_distance: at most so many frames; by default the encoder's.
        threads: of the encoder; by default its choice.
        stream_options, file_options: more of the encoder's, and of FFmpeg's writer of MP4.

    Raises:
        NoEncoderError: PyAV is not installed, or has no encoder for H.264.
        OSError, av.error.FFmpegError, ValueError: the file cannot be made; so of all methods.
    """

    def __init__(
        self,
        path: Path,
        height: int,
        width: int,
        rate: Fraction,
        tick: Fraction,
        crf: int,
        keyframe_distance: int | None = None,
        threads: int | None = None,
        stream_options: dict[str, str] | None = None,
        file_options: dict[str, str] | None = None,
    ) -> None:
        self._failures: tuple[type[Exception], ...] = OSError, *film_failures()
        import av
        from av.video.stream import VideoStream

        name = find_encoder()
        if name is None:
            raise NoEncoderError("this PyAV has no encoder for H.264")
        with ExitStack() as opened:
            self._file = Partial(path)
            opened.callback(self._file.discard)
            where = str(self._file.name.absolute())
            self._container = av.open(where, "w", format="mp4", options=file_options or {})
            opened.callback(self._container.close)
            options = {**encoder_options(name, crf), **(stream_options or {})}
            stream = self._container.add_stream(name, rate=rate, options=options)
            opened.pop_all()
        assert isinstance(stream, VideoStream)
        self._stream = stream
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        if keyframe_distance is not None:
            stream.gop_size = keyframe_distance
        stream.codec_context.time_base = tick
        if threads is not None:
            stream.codec_context.thread_count = threads
        label_colours(stream)
        self._tick = tick

    def add(self, frame: "VideoFrame", ticks: int) -> None:
        """Adds an ``av.VideoFrame`` that is shown so many ticks after the beginning."""
        frame.pts, frame.time_base = ticks, self._tick
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Makes the film, which needs a frame, appear; what cannot be finished leaves nothing behind."""
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
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
