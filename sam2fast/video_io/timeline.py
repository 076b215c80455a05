"""Reads timestamps and keyframes of video files."""

import logging
import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from sam2fast.video_io.containers import VideoInput
from sam2fast.video_io.decoding import Packets, decode
from sam2fast.video_io.truncation import missing_frames

_log = logging.getLogger(__name__)

# Formats that store the presentation time of each frame. FFmpeg estimates the times of other formats.
FORMATS_WITH_TIMES = ("mov", "matroska")
# Codecs that may have packets without a displayed frame. Only decoding detects such packets.
CODECS_WITH_HIDDEN_FRAMES = ("vp8",)
# Relative tolerance between the stated frame rate and the average rate of rounded times.
ROUNDING = 0.005


def has_times(container: InputContainer, stream: VideoStream) -> bool:
    """Returns True if every displayed packet should have a presentation time and a frame."""
    form = container.format.name.split(",")[0]
    return form in FORMATS_WITH_TIMES and stream.codec_context.name not in CODECS_WITH_HIDDEN_FRAMES


def has_decoding_order(container: InputContainer, stream: VideoStream) -> bool:
    """Returns True if the times of packets only count packets. AVI stores no presentation times of B-frames."""
    return container.format.name == "avi" and bool(stream.codec_context.has_b_frames)


def stated_rate(container: InputContainer, stream: VideoStream) -> float | None:
    """Returns the average frames per second that the file states, or an estimate from the first packets."""
    rate = stream.average_rate or stream.base_rate
    if has_decoding_order(container, stream):  # the average also counts packets without a frame
        rate = stream.base_rate or rate
    elif rate and not stream.base_rate and stream.frames:
        # If all frames have the same time, FFmpeg divides the number of frames by the duration of one frame.
        rate /= stream.frames
    return float(rate) if rate else None


class Clock:
    """Converts timestamps in presentation order to seconds from the first frame, or to None if the time is unknown.

    If a timestamp does not increase, the frame's time is computed from the previous frame and the stated rate.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._unit = None if has_decoding_order(container, stream) else stream.time_base
        self._frame = 1 / (stated_rate(container, stream) or math.inf)
        self._first: int | None = None
        self._last = -math.inf

    def __call__(self, time: int | None) -> float | None:
        """Returns the seconds of the next frame, with the timestamp ``time``."""
        if time is None or self._unit is None:
            return None
        if self._first is None:
            self._first = time
        seconds = float((time - self._first) * self._unit)
        self._last = seconds if seconds > self._last else self._last + self._frame
        return self._last


@dataclass(frozen=True)
class Timeline:
    """Stores the timestamps of a stream.

    Attributes:
        count: Number of frames.
        times: Presentation times, ascending, in the stream's time base. If the times are unknown, ``times`` is None and
            frames can only be counted from the beginning.
        keyframes: Presentation times of the keyframes, ascending. Empty if ``times`` is None.
        sound: True if no damage is known.
        unit: Time base in seconds.
        seconds_of: If ``times`` is None, the seconds from the first frame to each frame, or empty if unknown.
        stated_rate: Frames per second that the file states.
        truncated: Sentence on frames that are known to be missing after the last frame, or None.
    """

    count: int
    times: list[int] | None
    keyframes: list[int]
    sound: bool
    unit: Fraction = Fraction(1)
    stated_rate: float | None = None
    seconds_of: Sequence[float] = ()
    truncated: str | None = None

    @property
    def rate(self) -> float | None:
        """Average frames per second: the stated rate if it agrees with the timestamps, else the timestamps' average."""
        if self.times is None or self.count < 2:
            return self.stated_rate
        rate = float((self.count - 1) / ((self.times[-1] - self.times[0]) * self.unit))
        agrees = self.stated_rate is not None and abs(self.stated_rate / rate - 1) < ROUNDING
        return self.stated_rate if agrees else rate

    def seconds(self, rank: int) -> float | None:
        """Returns the seconds from the first frame to frame ``rank``, or None if unknown."""
        if self.times is None:
            return self.seconds_of[rank] if self.seconds_of else None
        return float((self.times[rank] - self.times[0]) * self.unit)

    def rank(self, time: int | None) -> int | None:
        """Returns the index of the frame with the presentation time ``time``, or None."""
        if self.times is None or time is None:
            return None
        rank = bisect_left(self.times, time)
        return rank if rank < self.count and self.times[rank] == time else None

    def keyframe_before(self, rank: int) -> int:
        """Returns the index in ``keyframes`` of the last keyframe up to a frame, or 0, the beginning."""
        if self.times is None:
            return 0
        return max(bisect_right(self.keyframes, self.times[rank]) - 1, 0)

    def rank_of_keyframe(self, position: int) -> int:
        """Returns the index of the first frame from a keyframe on. An edit list may hide the keyframe itself."""
        return bisect_left(self.times, self.keyframes[position]) if self.times and position else 0


def read_timeline(video: VideoInput) -> Timeline:
    """Reads the timestamps from the packets. If packets are inconsistent, decodes all frames."""
    container, stream = video.open()
    with container:
        packets = Packets(container, stream)
        timeline = _from_packets(packets, container, stream)
        if not timeline.sound:
            timeline = _by_decoding(video, timeline)
        if not timeline.count:
            return timeline
        return replace(timeline, truncated=missing_frames(video, container, stream, packets, timeline.count))


def _by_decoding(video: VideoInput, guess: Timeline) -> Timeline:
    container, stream = video.open()
    errors = 0

    def count(error: FFmpegError) -> None:
        nonlocal errors
        errors += 1

    with container:
        packets, clock = Packets(container, stream), Clock(container, stream)
        decoded = [frame.pts for frame in decode(stream, packets, count)]
    if errors and decoded:
        # The number and positions of frames in these packets are unknown.
        _log.warning("%s: %d of its packets cannot be decoded and are left out", video.name, errors)
    times = [time for time in decoded if time is not None]
    if len(times) < len(decoded) or not _strictly_ascending(times):
        seconds = [second for second in map(clock, decoded) if second is not None]
        known = seconds if len(seconds) == len(decoded) else ()
        return replace(guess, count=len(decoded), times=None, keyframes=[], seconds_of=known)
    return replace(guess, count=len(times), times=times)


class _PacketInfo(NamedTuple):
    """Stores the properties of a packet that the timeline depends on."""

    pts: int | None  # presentation time
    is_key: bool
    is_shown: bool  # False if an edit list hides the packet, on which other packets may depend
    is_corrupt: bool


def _from_packets(source: Packets, container: InputContainer, stream: VideoStream) -> Timeline:
    packets = [_PacketInfo(p.pts, p.is_keyframe, not p.is_discard, p.is_corrupt) for p in source]
    stored = [packet.pts for packet in packets if packet.is_shown and packet.pts is not None]
    keyframes = [packet.pts for packet in packets if packet.is_key and packet.pts is not None]
    sound = (
        has_times(container, stream)
        and _consistent(packets)
        # If times ascend although the decoder reorders frames, the times are decoding times.
        and not (stream.codec_context.has_b_frames and _strictly_ascending(stored))
    )
    unit = Fraction(stream.time_base or 1)
    return Timeline(len(stored), sorted(stored), sorted(keyframes), sound, unit, stated_rate(container, stream))


def _consistent(packets: list[_PacketInfo]) -> bool:
    """Returns True if every displayed packet should have one frame with a distinct time."""
    times = [packet.pts for packet in packets if packet.is_shown]
    if not times or None in times or len(set(times)) < len(times) or any(packet.is_corrupt for packet in packets):
        return False
    # Packets before the first keyframe, in file or presentation order, depend on missing frames.
    first = packets[0]
    return first.is_key and first.pts is not None and all(time is not None and time >= first.pts for time in times)


def _strictly_ascending(values: list[int]) -> bool:
    return all(a < b for a, b in zip(values, values[1:], strict=False))
