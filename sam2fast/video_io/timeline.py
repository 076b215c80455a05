"""When the frames of a video file are shown, and where decoding may begin."""

import logging
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import takewhile
from typing import NamedTuple

from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from sam2fast.video_io.containers import VideoInput
from sam2fast.video_io.ending import Ending, Unbroken
from sam2fast.video_io.packets import Packets, decode

_log = logging.getLogger(__name__)

# These formats store when each frame is shown; for others FFmpeg guesses from what was stored before.
FORMATS_WITH_TIMES = ("mov", "matroska")
# Codecs with packets that show nothing, which only decoding tells.
CODECS_WITH_HIDDEN_FRAMES = ("vp8",)
# By which share an average of rounded times may differ from the rate they were made with.
ROUNDING = 0.005


def has_times(container: InputContainer, stream: VideoStream) -> bool:
    """Whether every packet that is to be shown may be expected to say when, and to give a frame."""
    form = container.format.name.split(",")[0]
    return form in FORMATS_WITH_TIMES and stream.codec_context.name not in CODECS_WITH_HIDDEN_FRAMES


def stated_rate(stream: VideoStream) -> float | None:
    """Average frames per second as a file says, or as its first packets let expect."""
    rate = stream.average_rate or stream.base_rate
    return float(rate) if rate else None


@dataclass(frozen=True)
class Timeline:
    """Times of the frames of a stream.

    Attributes:
        count: number of frames.
        times: when each is shown, ascending, in the stream's units; None if that is not known, and frames can only be
            counted from the beginning.
        keyframes: when those frames are shown from which decoding may begin, ascending; empty without ``times``.
        sound: nothing is known to be wrong with the file.
        unit: of times, in seconds.
        stated_rate: frames per second, as the file says.
        truncated: what is known to be missing after the last frame.
    """

    count: int
    times: list[int] | None
    keyframes: list[int]
    sound: bool
    unit: Fraction = Fraction(1)
    stated_rate: float | None = None
    truncated: str | None = None

    @property
    def rate(self) -> float | None:
        """Average frames per second: what the file says if its times agree, else what they amount to."""
        if self.times is None or self.count < 2:
            return self.stated_rate
        rate = float((self.count - 1) / ((self.times[-1] - self.times[0]) * self.unit))
        agrees = self.stated_rate is not None and abs(self.stated_rate / rate - 1) < ROUNDING
        return self.stated_rate if agrees else rate

    def seconds(self, rank: int) -> float | None:
        """From the first frame to another; None without ``times``."""
        return None if self.times is None else float((self.times[rank] - self.times[0]) * self.unit)

    def rank(self, time: int | None) -> int | None:
        """Which frame is shown at a time; None if none begins then."""
        if self.times is None or time is None:
            return None
        rank = bisect_left(self.times, time)
        return rank if rank < self.count and self.times[rank] == time else None

    def keyframe_before(self, rank: int) -> int:
        """Position in ``keyframes`` of the last that is shown no later than a frame; 0 stands for the beginning."""
        if self.times is None:
            return 0
        return max(bisect_right(self.keyframes, self.times[rank]) - 1, 0)

    def rank_of_keyframe(self, position: int) -> int:
        """The first frame shown no earlier than a keyframe, which itself may be cut off by an edit list."""
        return bisect_left(self.times, self.keyframes[position]) if self.times and position else 0


def read_timeline(video: VideoInput) -> Timeline:
    """Finds out when frames are shown, from the packets if they can be believed, else by decoding them all."""
    container, stream = video.open()
    with container:
        packets = Packets(container, stream)
        timeline = _from_packets(video, packets, container, stream)
        ending = Ending.of(container, stream, packets)
    if not timeline.sound:
        timeline = _by_decoding(video, timeline)
    return replace(timeline, truncated=ending.missing(video, timeline.count) if timeline.count else None)


def _by_decoding(video: VideoInput, guess: Timeline) -> Timeline:
    container, stream = video.open()
    errors = 0

    def count(error: FFmpegError) -> None:
        nonlocal errors
        errors += 1

    with container:
        packets = Packets(container, stream)
        shown = [frame.pts for frame in decode(stream, packets, count)]
        if has_times(container, stream):
            shown = list(takewhile(Unbroken(video, container, stream, packets), shown))
    if errors and shown:
        # Nothing says how many frames they would have been, or where.
        _log.warning("%s: %d of its packets cannot be decoded and are left out", video.name, errors)
    times = [time for time in shown if time is not None]
    if len(times) < len(shown) or not _strictly_ascending(times):
        return replace(guess, count=len(shown), times=None, keyframes=[])
    return replace(guess, count=len(times), times=times)


class _Facts(NamedTuple):
    """What is remembered of a packet."""

    pts: int | None
    is_key: bool
    is_shown: bool  # by an edit list, packets may be there only to be decoded
    is_corrupt: bool


def _from_packets(video: VideoInput, source: Packets, container: InputContainer, stream: VideoStream) -> Timeline:
    packets = [_Facts(packet.pts, packet.is_keyframe, not packet.is_discard, packet.is_corrupt) for packet in source]
    stored = [packet.pts for packet in packets if packet.is_shown and packet.pts is not None]
    keyframes = [packet.pts for packet in packets if packet.is_key and packet.pts is not None]
    sound = (
        has_times(container, stream)
        and _consistent(packets)
        # Times that rise although the decoder reorders frames are times of decoding.
        and not (stream.codec_context.has_b_frames and _strictly_ascending(stored))
    )
    times = list(takewhile(Unbroken(video, container, stream, source), sorted(stored)))
    unit = Fraction(stream.time_base or 1)
    return Timeline(len(times), times, sorted(keyframes), sound, unit, stated_rate(stream))


def _consistent(packets: list[_Facts]) -> bool:
    """Whether every packet that is to be shown can be expected to give one frame, at a time of its own."""
    times = [packet.pts for packet in packets if packet.is_shown]
    if not times or None in times or len(set(times)) < len(times) or any(packet.is_corrupt for packet in packets):
        return False
    # What comes before the first keyframe, stored or shown, refers to what is not there.
    first = packets[0]
    return first.is_key and first.pts is not None and all(time is not None and time >= first.pts for time in times)


def _strictly_ascending(values: list[int]) -> bool:
    return all(a < b for a, b in zip(values, values[1:], strict=False))
