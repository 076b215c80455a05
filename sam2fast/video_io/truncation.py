"""Detects truncated videos."""

import re
from itertools import islice
from typing import Any

from av.container import InputContainer
from av.error import InvalidDataError
from av.video.stream import VideoStream

from sam2fast.video_io.containers import VideoInput, reason
from sam2fast.video_io.decoding import Packets

CLOCK = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")
# Tolerance in seconds of a stated duration, in addition to the duration of a frame.
TOLERANCE = 0.1


def read_index(container: InputContainer, stream: VideoStream) -> list[Any]:
    """Returns the index entries read so far of an MP4 or QuickTime file. Empty for other formats or PyAV < 17."""
    if container.format.name.split(",")[0] != "mov":
        return []
    # The file size limits the number of entries, since a damaged header can claim any number of frames.
    return list(islice(getattr(stream, "index_entries", ()), max(container.size, 0)))


def stated_frames(container: InputContainer, stream: VideoStream) -> int:
    """Returns the stated number of frames of a file, without frames hidden by an edit list, or 0 if none is stated."""
    return sum(not entry.is_discard for entry in read_index(container, stream)) or stream.frames


def missing_frames(
    video: VideoInput, container: InputContainer, stream: VideoStream, packets: Packets, count: int
) -> str | None:
    """Returns a sentence on frames that are missing after ``count`` frames. None if no frame is known to be missing."""
    seconds = _stated_seconds(container, stream)
    if not _ends_early(container, stream, packets, seconds):
        return None
    stated = stated_frames(container, stream) or round(seconds * (stream.average_rate or 0))
    of = f" of about {stated}" if stated > count else ""
    why = f": {reason(packets.error)}" if packets.error else ""
    kind = "file" if video.is_file else "stream"
    return f"{video.name}: read {count}{of} frames; the rest of the {kind} is damaged or missing{why}"


def _ends_early(container: InputContainer, stream: VideoStream, packets: Packets, seconds: float) -> bool:
    index = read_index(container, stream)
    if index and index[-1].pos != packets.position:
        return True
    if index and stream.frames:  # if 0, the file is fragmented and has a split index
        return False
    # Motion JPEG streams normally end with ``InvalidDataError``.
    is_end = container.format.name == "mpjpeg" and isinstance(packets.error, InvalidDataError)
    if packets.is_cut or (packets.error is not None and not is_end):
        return True
    frame = float(1 / stream.average_rate) if stream.average_rate else 0.0
    return packets.end is not None and float(packets.end * (stream.time_base or 0)) + frame + TOLERANCE < seconds


def _stated_seconds(container: InputContainer, stream: VideoStream) -> float:
    """Returns the end of the stream in seconds that an AVI or Matroska file states, or 0 if none is stated."""
    form = container.format.name.split(",")[0]
    if form == "avi":
        # FFmpeg shortens the duration of a truncated file, but not its number of frames, which includes gaps.
        return float(stream.frames * (stream.time_base or 0))
    if form != "matroska":
        return 0.0
    if clock := CLOCK.fullmatch(stream.metadata.get("DURATION", "")):
        return sum(float(part) * unit for part, unit in zip(clock.groups(), (3600, 60, 1), strict=True))
    # If there are several streams, the container's duration is the duration of the longest stream.
    return (container.duration or 0) / 1e6 if len(container.streams) == 1 else 0.0
