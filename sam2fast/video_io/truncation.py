"""Detects frames that are missing at the end of a video."""

import re
from itertools import islice
from typing import NamedTuple

from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.video.stream import VideoStream

from sam2fast.video_io.containers import VideoInput, reason
from sam2fast.video_io.decoding import Packets

MICROSECONDS = 1_000_000
MAX_ENTRIES = 10_000_000  # of an index: two days at 60 frames per second
CLOCK = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")
# Tolerance in seconds for the duration of a file that does not state its size in bytes.
DURATION_TOLERANCE = 1.0
# Tolerance in seconds for the end of audio, which is padded to whole packets.
AUDIO_PADDING = 0.25


class Entry(NamedTuple):
    """A packet in a file's index."""

    position: int
    is_shown: bool  # an edit list may hide packets that others depend on


def read_index(container: InputContainer, stream: VideoStream) -> list[Entry]:
    """The index of an MP4 or QuickTime file, as far as it was read; empty for other formats and before PyAV 17."""
    if container.format.name.split(",")[0] != "mov":
        return []
    # A damaged header can claim any number of frames; each real one takes at least a byte.
    most = min(max(container.size, 0), MAX_ENTRIES)
    entries = islice(getattr(stream, "index_entries", ()), most)
    return [Entry(entry.pos, not entry.is_discard) for entry in entries]


class GapDetector:
    """Decides for each frame of a truncated file whether it directly follows the frame before it.

    Reference frames are stored before the frames that use them, and may be shown after them. So the last frames of a
    truncated file may come after a gap. They are left out.

    Args:
        packets: of the stream; no gap is reported before they are over. At the first gap their ``end`` is set to the
            end of the frame before it.
    """

    def __init__(self, video: VideoInput, container: InputContainer, stream: VideoStream, packets: Packets) -> None:
        self._video, self._container, self._stream, self._packets = video, container, stream, packets
        self._ends_early: bool | None = None
        self._previous: int | None = None

    def __call__(self, time: int | None) -> bool:
        """Takes the times of frames in presentation order; False at the first gap."""
        previous, self._previous = self._previous, time
        packets = self._packets
        if not packets.is_over or not packets.usual or time is None or previous is None:
            return True
        if time - previous <= packets.usual * 3 // 2 or (packets.loss is not None and time < packets.loss):
            return True
        if self._ends_early is None:
            self._ends_early = self._is_cut_off()
        if self._ends_early:
            packets.end = previous + packets.usual
        return not self._ends_early

    def _is_cut_off(self) -> bool:
        if self._packets.is_cut or self._packets.error is not None:
            return True
        # Matroska has no index of all frames, but states its size in bytes.
        index = read_index(self._container, self._stream)
        return bool(unread(index, self._packets) if index else self._video.bytes_missing())


def unread(index: list[Entry], packets: Packets) -> int:
    """Number of shown frames in an index after the last packet that was read."""
    last = max((i for i, entry in enumerate(index) if entry.position == packets.position), default=len(index))
    return sum(entry.is_shown for entry in index[last + 1 :])


def missing_frames(
    video: VideoInput, container: InputContainer, stream: VideoStream, packets: Packets, count: int
) -> str | None:
    """A sentence on what is missing after ``count`` frames; None if nothing is known to be missing.

    Args:
        packets: of the stream, which was read to its end.
    """
    ends = f"{video.name} ends after frame {count - 1}"
    form = container.format.name.split(",")[0]
    if form == "mov":
        return _missing_in_index(video, container, stream, packets, count, ends)
    own = _stated_duration(form, stream)
    duration = own or (container.duration or 0) / MICROSECONDS * (form == "matroska")
    if not duration:
        return _reading_error(form, packets, ends)
    end = last_end = float(packets.end * stream.time_base) if packets.end is not None and stream.time_base else 0.0
    slack = float(1 / stream.average_rate) / 2 if stream.average_rate else 0.0
    if duration - end <= slack:
        return _reading_error(form, packets, ends) if packets.is_cut else None
    lost = video.bytes_missing()
    if lost == 0:  # the duration is that of audio, or wrong
        return None
    if lost is None:
        slack = max(slack, DURATION_TOLERANCE)
    if not own and len(container.streams) > 1 and video.is_file:  # the duration is that of the longest stream
        slack, last_end = max(slack, AUDIO_PADDING), max(end, _last_end(video))
    if duration - last_end <= slack or (not video.is_file and packets.error is None):
        return None
    return f"{ends}, at {end:.2f} s, but says it lasts {duration:.2f} s"


def _missing_in_index(
    video: VideoInput, container: InputContainer, stream: VideoStream, packets: Packets, count: int, ends: str
) -> str | None:
    index = read_index(container, stream)
    # Without an index, at least the incomplete packet.
    later = unread(index, packets) if index else int(packets.is_cut)
    in_parts = stream.frames == 0  # the file is fragmented: its index comes in parts
    if later and not in_parts:
        declared = sum(entry.is_shown for entry in index) or stream.frames
        return f"{ends}, but says it has {max(declared, count + later)} frames"
    if later:
        return f"{ends}, but its last part has at least {later} more"
    lost = video.bytes_missing() if in_parts else None
    if lost:
        return f"{ends}, during a part of which {lost} bytes are missing"
    return _reading_error("mov", packets, ends) if in_parts else None


def _reading_error(form: str, packets: Packets, ends: str) -> str | None:
    if packets.is_cut:
        return f"{ends}, during the next one"
    # Motion JPEG normally ends with this error, too.
    failed = packets.error is not None and not (form == "mpjpeg" and isinstance(packets.error, InvalidDataError))
    return f"{ends}, where reading fails: {reason(packets.error)}" if failed else None


def _stated_duration(form: str, stream: VideoStream) -> float:
    """The duration of this stream alone, in seconds; 0 if it is not stated."""
    if form == "avi" and stream.time_base:
        # FFmpeg shortens the duration of a truncated file, but not its number of frames, gaps included.
        return float(stream.frames * stream.time_base)
    clock = CLOCK.fullmatch(stream.metadata.get("DURATION", "")) if form == "matroska" else None
    return sum(float(part) * unit for part, unit in zip(clock.groups(), (3600, 60, 1), strict=True)) if clock else 0.0


def _last_end(video: VideoInput) -> float:
    """When the last packet of any stream ends, in seconds."""
    container, _ = video.open()
    end = 0.0
    with container:
        try:
            for packet in container.demux():
                if packet.pts is not None and packet.time_base is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        except FFmpegError:
            pass
    return end
