"""Transcoding of uploads to the videos that the demo serves: short, of moderate size and constant rate.

The source is kept if it is larger: :func:`source_frames` reads the same frames at its size.
"""

import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from numpy.typing import NDArray
from PIL import Image

from sam2fast.demo.server.demo_errors import BadInputError, BadVideoError, NotFoundError, message_without_path
from sam2fast.demo.server.jobs import Report, ignore_progress
from sam2fast.demo.server.video_files import DemoVideoWriter
from sam2fast.video_io import FrameReader, VideoError
from sam2fast.video_io.containers import VideoInput, codec_name
from sam2fast.video_io.sound import add_sound
from sam2fast.video_io.video_stream import DecodedStream
from sam2fast.video_io.video_types import PROBE_SIZE, StreamFrame

# No format in which FFmpeg would follow references to other files or addresses.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"
CODECS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg", "prores")
MAX_PIXELS = 1 << 24  # pixels of a decoded frame, such as 5312x2988; decoders keep up to 16 frames
LONG_SIDE, SHORT_SIDE = 1280, 720  # largest size of the result
SOURCE_SIDES = 3840, 2160  # largest size of frames that are read from the source
MAX_RATE = 60
MIN_DECODING_SECONDS = 120.0
DECODING_SECONDS = 12.0  # seconds for each kept second
MAX_START = 1e6  # seconds; frame numbers stay far below their limit


@dataclass(frozen=True)
class Cut:
    """The part of a video that is kept.

    Attributes:
        start: first second.
        seconds: largest duration.
        fps: frames per second; None for the source's rate, at most 60.
    """

    start: float
    seconds: float
    fps: int | None


@dataclass(frozen=True)
class Transcoded:
    """How a video was transcoded.

    Attributes:
        start, seconds: First second and largest duration, see :class:`Cut`.
        rate: Frames per second.
        size: (H, W) of the source's frames: upright, with square pixels, at most 4K.
        repeated, dropped: Numbers of source frames that were repeated or left out for a constant rate. If both are 0,
            frames have the same numbers as in the part of the source.
    """

    start: float
    seconds: float
    rate: Fraction
    size: tuple[int, int]
    repeated: int = 0
    dropped: int = 0


def choose_cut(start: float | None, seconds: float | None, longest: float, fps: int | None) -> Cut:
    """The part that a client asked for, at most ``longest`` seconds. Raises BadInputError for invalid times."""
    begin = 0.0 if start is None else start
    length = longest if seconds is None else seconds
    if not 0 <= begin <= MAX_START:
        raise BadInputError(f"startTimeSec is {begin}; expected 0 to {MAX_START:,.0f} seconds")
    if not (math.isfinite(length) and length > 0):
        raise BadInputError(f"durationTimeSec is {length}; expected more than 0 seconds")
    return Cut(begin, min(length, longest), fps)


@dataclass(frozen=True)
class _UploadedFile(VideoInput):
    """A file of an untrusted client."""

    def open(self) -> tuple[InputContainer, VideoStream]:
        container, stream = super().open()
        context = stream.codec_context
        codec = codec_name(context)
        if codec not in CODECS:
            container.close()
            raise VideoError(f"the video is encoded as {codec}; accepted are {', '.join(CODECS)}")
        if not 0 < context.width * context.height <= MAX_PIXELS:
            container.close()
            # FFmpeg reports no size for frames that are too large.
            raise VideoError(f"its frames have more than {MAX_PIXELS} pixels, or no size that could be found")
        context.options = {**context.options, "max_pixels": str(MAX_PIXELS)}  # the header may be wrong
        return container, stream


def transcode(source: Path, target: Path, cut: Cut, report: Report = ignore_progress) -> Transcoded:
    """Writes a part of a video to ``target`` atomically, upright, with its sound.

    Raises:
        BadVideoError: If the file is not an accepted video, has no frame in this part, or takes too long to decode.
    """
    deadline = time.monotonic() + max(MIN_DECODING_SECONDS, DECODING_SECONDS * cut.seconds)

    def report_in_time(share: float) -> None:
        if time.monotonic() > deadline:
            raise BadVideoError("reading the video takes too long; upload a shorter or smaller one")
        report(share)

    uploaded = _uploaded(source)
    try:
        with FrameReader(DecodedStream(uploaded, PROBE_SIZE)) as reader:
            rate = Fraction(cut.fps or min(max(reader.rate or 24.0, 1.0), MAX_RATE)).limit_denominator(1001)
            # Pixels of the result are square.
            size = reader.height, max(1, round(reader.width * reader.pixel_aspect))
            made = Transcoded(cut.start, cut.seconds, rate, fitted_size(*size, SOURCE_SIDES))
            with DemoVideoWriter(target, *fitted_size(*size), rate) as video:
                changes = Counter[str]()
                for image in _resample(reader, made, report_in_time, changes):
                    video.add(image)
                if not video.count:
                    raise BadVideoError(f"the video has no frame after {cut.start:g} seconds")
        add_sound(target, uploaded, cut.start, float(video.count / rate))
        made = replace(made, repeated=changes["repeated"], dropped=changes["dropped"])
    except (VideoError, FFmpegError, OSError, MemoryError) as error:
        raise BadVideoError(f"this video cannot be used: {message_without_path(error, source)}") from error
    return made


def source_frames(source: Path, made: Transcoded) -> Iterator[NDArray[np.uint8]]:
    """The frames ``(H, W, 3)`` of a transcoded video from its source, of ``made.size``. Raises NotFoundError."""
    height, width = made.size
    try:
        with FrameReader(DecodedStream(_uploaded(source), PROBE_SIZE)) as reader:
            for image in _resample(reader, made):
                is_fitting = image.shape[:2] == made.size
                yield image if is_fitting else np.asarray(Image.fromarray(image).resize((width, height)))
    except (VideoError, FFmpegError, OSError, MemoryError) as error:
        raise NotFoundError(f"the source cannot be read: {message_without_path(error, source)}") from error


def _uploaded(source: Path) -> _UploadedFile:
    # The size limit is set here, too: FFmpeg opens decoders while it probes a file, before the codec is checked.
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)}
    return _UploadedFile("the file", str(source.absolute()), options=options)


def fitted_size(height: int, width: int, sides: tuple[int, int] = (LONG_SIDE, SHORT_SIDE)) -> tuple[int, int]:
    """Height and width, scaled down to fit 1280x720 or, for portrait videos, 720x1280."""
    long, short = (width, height) if width >= height else (height, width)
    share = min(1.0, sides[0] / long, sides[1] / short)
    return max(2, round(height * share)), max(2, round(width * share))


def _resample(
    reader: FrameReader, made: Transcoded, report: Report = ignore_progress, changes: Counter[str] | None = None
) -> Iterator[NDArray[np.uint8]]:
    """Yields the frame that is visible at every tick. Counts frames that are ``repeated`` and ``dropped``."""
    changes = Counter() if changes is None else changes
    rate = made.rate
    first, count = round(made.start * rate), max(1, round(made.seconds * rate))
    last = count if reader.count is None else min(count, round(reader.count / (reader.rate or rate) * rate) - first)
    shown: StreamFrame | None = None
    tick, done = 0, 0
    for frame in reader:
        seconds = frame.time if frame.time is not None else frame.index / (reader.rate or float(rate))
        tick = round(seconds * rate) - first
        report((tick + first) / max(1, last + first))
        ticks = min(tick, count) - done  # duration of the previous frame
        if shown is not None and tick > 0:
            changes["dropped"] += ticks < 1
            changes["repeated"] += ticks > 1
        while shown is not None and done < min(tick, count):
            yield shown.rgb
            done += 1
        if done >= count:
            return
        shown = frame
    # The duration of the last frame is unknown: it is shown for one tick if it lies in the part.
    if shown is not None and tick >= 0:
        yield shown.rgb
