"""Writes MP4 files with H.264 video."""

from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2fast.io.atomic import atomic_path
from sam2fast.utils.errors import FixableError

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

# H.264 encoders in order of preference.
ENCODERS = ("libx264", "libopenh264", "h264_videotoolbox")
# With x264's macroblock tree, the bytes of small videos vary between runs on processors with AVX-512. Without the
# macroblock tree, videos are slightly larger and slightly better.
OPTIONS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "veryfast", "mbtree": "0"},
    "libopenh264": {"b": "4000000"},
}
BT709, LIMITED_RANGE = 1, 1  # FFmpeg's constants


def find_encoder() -> str | None:
    """Returns the name of the preferred H.264 encoder in this PyAV, or None."""
    import av

    return next((name for name in ENCODERS if name in av.codecs_available), None)


def encoder_options(name: str, crf: int) -> dict[str, str]:
    """Returns the options of an encoder. Only x264 uses ``crf``, for which lower values mean better quality."""
    return {**OPTIONS.get(name, {}), **({"crf": str(crf)} if name == "libx264" else {})}


def label_colours(stream: Any) -> None:
    """Labels a stream with the colour space of :func:`to_yuv`. Players guess missing labels from the video's size."""
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = LIMITED_RANGE


def to_yuv(frame: "VideoFrame", form: str = "yuv420p", **options: Any) -> "VideoFrame":
    """Converts an RGB frame to BT.709 with limited range. ``options`` are passed to PyAV's ``reformat``."""
    return frame.reformat(format=form, dst_colorspace="ITU709", dst_color_range="MPEG", **options)


class NoEncoderError(FixableError, RuntimeError):
    """Raised if no video can be written on this machine. The message states the reason."""


def encoding_errors() -> tuple[type[Exception], ...]:
    """Returns the types of exceptions that encoders raise, besides ``OSError``.

    Raises:
        NoEncoderError: If PyAV is not installed.
    """
    try:
        from av.error import FFmpegError
    except ImportError as error:
        raise NoEncoderError("PyAV is not installed: pip install 'sam2fast[video]'") from error
    return FFmpegError, ValueError


class VideoWriter:
    """Writes an MP4 file with H.264 video, atomically: the file only exists after :meth:`finish`.

    Args:
        path: File to write.
        height, width: Size in pixels, even numbers.
        rate: Nominal frames per second.
        tick: Time unit of the frames, in seconds.
        crf: x264's quality. Lower is better.
        pixel_aspect: Width of a pixel divided by its height.
        stream_options, file_options: Options of the encoder, and of FFmpeg's MP4 muxer.

    Raises:
        NoEncoderError: If PyAV is not installed, or has no encoder for H.264.
        OSError, av.error.FFmpegError, ValueError: If the file cannot be written. All methods raise these exceptions.
    """

    def __init__(
        self,
        path: Path,
        height: int,
        width: int,
        rate: Fraction,
        tick: Fraction,
        crf: int,
        stream_options: dict[str, str] | None = None,
        file_options: dict[str, str] | None = None,
        pixel_aspect: Fraction = Fraction(1),
    ) -> None:
        self._failures: tuple[type[Exception], ...] = OSError, *encoding_errors()
        import av
        from av.video.stream import VideoStream

        name = find_encoder()
        if name is None:
            raise NoEncoderError("this PyAV has no encoder for H.264")
        with ExitStack() as opened:
            partial = opened.enter_context(atomic_path(path))
            self._container = av.open(str(partial.absolute()), "w", format="mp4", options=file_options or {})
            opened.callback(self._close)
            options = {**encoder_options(name, crf), **(stream_options or {})}
            stream = self._container.add_stream(name, rate=rate, options=options)
            self._opened = opened.pop_all()
        assert isinstance(stream, VideoStream)
        self._stream = stream
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.time_base, stream.codec_context.sample_aspect_ratio = tick, pixel_aspect
        label_colours(stream)
        self._tick = tick

    def add(self, frame: "VideoFrame", ticks: int) -> None:
        """Adds a frame, in RGB or converted by :func:`to_yuv`, to be displayed ``ticks`` after the start."""
        if frame.format.name == "rgb24":
            frame = to_yuv(frame)
        frame.pts, frame.time_base = ticks, self._tick
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Finishes the file, which needs at least one frame. After an error, no file is left."""
        with self._opened:
            self._container.mux(self._stream.encode())
            self._container.close()

    def discard(self) -> None:
        """Removes an unfinished file."""
        self._opened.__exit__(GeneratorExit, GeneratorExit(), None)

    def _close(self) -> None:
        with suppress(*self._failures):  # for example on a full disk; the file is discarded anyway
            self._container.close()
