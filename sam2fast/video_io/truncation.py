"""Detects that the end of a video is missing."""

import re
from itertools import islice
from typing import Any

from av.container import InputContainer
from av.error import InvalidDataError
from av.video.stream import VideoStream

from sam2fast.video_io.containers import VideoInput, reason
from sam2fast.video_io.decoding import Packets

CLOCK = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")
# Seconds by which a stated duration may be wrong, beside the last frame's.
TOLERANCE = 0.1


def read_index(container: InputContainer, stream: VideoStream) -> list[Any]:
    """The index of an MP4 or QuickTime file, as far as it was read; empty for other formats and before PyAV 17."""
    if container.format.name.split(",")[0] != "mov":
        return []
    # A damaged header can claim any number of frames; each real one takes at least a byte.
    return list(islice(getattr(stream, "index_entries", ()), max(container.size, 0)))


def stated_frames(container: InputContainer, stream: VideoStream) -> int:
    """Number of frames that a file says it has, without those that an edit list hides; 0 if it says nothing."""
    return sum(not entry.is_discard for entry in read_index(container, stream)) or stream.frames


def missing_frames(
    video: VideoInput, container: InputContainer, stream: VideoStream, packets: Packets, count: int
) -> str | None:
    """A sentence on what is missing after ``count`` frames and all packets; None if nothing is known to be missing."""
    seconds = _stated_seconds(container, stream)
    if not _ends_early(container, stream, packets, seconds):
        return None
    stated = stated_frames(container, stream) or round(seconds * (stream.average_rate or 0))
    of = f" of about {stated}" if stated > count else ""
    why = f": {reason(packets.error)}" if packets.error else ""
    return f"{video.name}: read {count}{of} frames; the rest of the file is damaged or missing{why}"


def _ends_early(container: InputContainer, stream: VideoStream, packets: Packets, seconds: float) -> bool:
    index = read_index(container, stream)
    if index and index[-1].pos != packets.position:
        return True
    if index and stream.frames:  # without, the file is fragmented: its index comes in parts
        return False
    # Motion JPEG normally ends with this error.
    usual = container.format.name == "mpjpeg" and isinstance(packets.error, InvalidDataError)
    if packets.is_cut or (packets.error is not None and not usual):
        return True
    frame = float(1 / stream.average_rate) if stream.average_rate else 0.0
    return packets.end is not None and float(packets.end * (stream.time_base or 0)) + frame + TOLERANCE < seconds


def _stated_seconds(container: InputContainer, stream: VideoStream) -> float:
    """When an AVI or Matroska file says that this stream ends, in seconds; 0 if it says nothing."""
    form = container.format.name.split(",")[0]
    if form == "avi":
        # FFmpeg shortens the duration of a truncated file, but not its number of frames, gaps included.
        return float(stream.frames * (stream.time_base or 0))
    if form != "matroska":
        return 0.0
    if clock := CLOCK.fullmatch(stream.metadata.get("DURATION", "")):
        return sum(float(part) * unit for part, unit in zip(clock.groups(), (3600, 60, 1), strict=True))
    # Of several streams it is the duration of the longest.
    return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0
