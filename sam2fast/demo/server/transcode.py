"""Uploaded videos to films as the demo serves them: short, of moderate size and of constant rate."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from sam2fast.demo.server.errors import BadInputError, BadVideoError, told
from sam2fast.demo.server.film_writer import FilmWriter
from sam2fast.demo.server.settings import PROBE_SIZE
from sam2fast.video_io import FrameReader, VideoError
from sam2fast.video_io.containers import VideoInput
from sam2fast.video_io.stream_frame import StreamFrame
from sam2fast.video_io.video_stream import DecodedStream

# Nothing that FFmpeg would read as a list of other files or addresses.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"
CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg", "prores")
MOST_PIXELS = 8192 * 4608  # of a frame, which is decoded whole
LONG_SIDE, SHORT_SIDE = 1280, 720  # of what is kept
HIGHEST_RATE = 30
SECONDS_TO_SPEND = 120.0
LATEST_START = 1e6  # seconds; far from where numbers of frames end


@dataclass(frozen=True)
class Cut:
    """Which part of a video is kept.

    Attributes:
        start: in seconds from its beginning.
        seconds: how long it may be.
        fps: frames per second; None for its own, at most 30.
    """

    start: float
    seconds: float
    fps: int | None


def choose_cut(start: float | None, seconds: float | None, longest: float, fps: int | None) -> Cut:
    """The part that a client asks for, as far as it may.

    Raises:
        BadInputError: times that are no times.
    """
    begin = 0.0 if start is None else start
    length = longest if seconds is None else seconds
    if not 0 <= begin <= LATEST_START:
        raise BadInputError(f"startTimeSec is {begin}; expected 0 to {LATEST_START:,.0f} seconds")
    if not (math.isfinite(length) and length > 0):
        raise BadInputError(f"durationTimeSec is {length}; expected more than 0 seconds")
    return Cut(begin, min(length, longest), fps)


@dataclass(frozen=True)
class _UploadedFile(VideoInput):
    """A file that somebody sent, and that may be meant to do harm."""

    def open(self) -> tuple[InputContainer, VideoStream]:
        container, stream = super().open()
        context = stream.codec_context
        codec = getattr(context.codec, "canonical_name", context.name)  # not that of one of several decoders
        if codec not in CODECS:
            container.close()
            raise VideoError(f"the video is encoded as {codec}; accepted are {', '.join(CODECS)}")
        if not 0 < context.width * context.height <= MOST_PIXELS:
            container.close()
            # Where its frames are too large, FFmpeg gives a file no size.
            raise VideoError(f"its frames have more than {MOST_PIXELS} pixels, or no size that could be found")
        context.options = {**context.options, "max_pixels": str(MOST_PIXELS)}  # the header may have lied
        return container, stream


def transcode(source: Path, target: Path, cut: Cut) -> None:
    """Makes a film of a part of a video, upright and without sound; it appears whole or not at all.

    Raises:
        BadVideoError: the file is no video that is accepted, has nothing in this part, or takes too long.
    """
    # Decoders too: some are opened to find out about a file before its codec is known here.
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file", "max_pixels": str(MOST_PIXELS)}
    uploaded = _UploadedFile("the file", str(source.absolute()), options=options)
    try:
        with FrameReader(DecodedStream(uploaded, PROBE_SIZE)) as reader:
            rate = Fraction(cut.fps) if cut.fps else _own_rate(reader)
            with FilmWriter(target, *fitted_size(reader.height, reader.width), rate) as film:
                for picture in _at_constant_rate(reader, cut, rate):
                    film.add(picture)
                if not film.count:
                    raise BadVideoError(f"the video has no frame after {cut.start:g} seconds")
    except (VideoError, OSError, MemoryError) as error:
        raise BadVideoError(f"this is not a video that can be used: {told(error, source)}") from error


def fitted_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of the largest picture of the same shape in 1280x720, or upright 720x1280; never larger."""
    long, short = (width, height) if width >= height else (height, width)
    share = min(1.0, LONG_SIDE / long, SHORT_SIDE / short)
    return max(2, round(height * share)), max(2, round(width * share))


def _own_rate(reader: FrameReader) -> Fraction:
    rate = reader.rate or 24.0
    return Fraction(min(max(rate, 1.0), HIGHEST_RATE)).limit_denominator(1001)


def _at_constant_rate(reader: FrameReader, cut: Cut, rate: Fraction) -> Iterator[NDArray[np.uint8]]:
    """At every tick the picture that is shown then; a source's own times are rounded to the nearest tick."""
    first, count = round(cut.start * rate), max(1, round(cut.seconds * rate))
    deadline = time.monotonic() + SECONDS_TO_SPEND
    shown: StreamFrame | None = None
    tick, done = 0, 0
    for frame in reader:
        if time.monotonic() > deadline:
            raise BadVideoError("reading the video takes too long; upload a shorter or smaller one")
        seconds = frame.time if frame.time is not None else frame.index / (reader.rate or float(rate))
        tick = round(seconds * rate) - first
        while shown is not None and done < min(tick, count):
            yield shown.rgb
            done += 1
        if done >= count:
            return
        shown = frame
    # How long the last frame is shown is not known: one tick, if that lies in the part at all.
    if shown is not None and tick >= 0:
        yield shown.rgb
