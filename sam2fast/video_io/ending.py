"""What is known to be missing at the end of a video."""

import re
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.video.stream import VideoStream

from sam2fast.video_io.containers import VideoInput, reason
from sam2fast.video_io.packets import Packets

MICROSECONDS = 1_000_000
MOST_ENTRIES = 10_000_000  # of an index: two days of sixty frames a second
CLOCK = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")
# A file that does not say how many bytes it has may be wrong about its duration by this many seconds.
DOUBT = 1.0
# Sound is padded to whole packets; by this many seconds its end may differ from what a file says.
PADDING = 0.25


class Entry(NamedTuple):
    """A packet in a file's index."""

    position: int
    is_shown: bool  # by an edit list, packets may be there only to be decoded


def read_index(container: InputContainer, stream: VideoStream) -> list[Entry]:
    """The index of an MP4 or QuickTime file, as far as it was read; empty for others, and before PyAV 17."""
    if container.format.name.split(",")[0] != "mov":
        return []
    # A few bytes can announce a thousand million frames; those that are there have a byte each at least.
    most = min(max(container.size, 0), MOST_ENTRIES)
    entries = islice(getattr(stream, "index_entries", ()), most)
    return [Entry(entry.pos, not entry.is_discard) for entry in entries]


class Unbroken:
    """Of a file that ends too early: whether a frame follows upon the one before it, with none between them missing.

    Frames that others refer to are stored before these and shown after them. The last of a file that is cut off may
    therefore be shown after some that are lost, and have no place among the frames that are there.

    Args:
        packets: of the stream; before they are over nothing is missing. With the first frame that is left out, their
            ``end`` becomes that of the frame before it.
    """

    def __init__(self, video: VideoInput, container: InputContainer, stream: VideoStream, packets: Packets) -> None:
        self._video, self._container, self._stream, self._packets = video, container, stream, packets
        self._ends_early: bool | None = None
        self._previous: int | None = None

    def __call__(self, time: int | None) -> bool:
        """Asked about frames in the order in which they are shown, until one is left out."""
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
        # Matroska has no index of all frames, but says how many bytes it has.
        index = read_index(self._container, self._stream)
        return bool(unread(index, self._packets) if index else self._video.bytes_missing())


def unread(index: list[Entry], packets: Packets) -> int:
    """How many shown frames an index has after the last packet that could be read."""
    last = max((place for place, entry in enumerate(index) if entry.position == packets.position), default=len(index))
    return sum(entry.is_shown for entry in index[last + 1 :])


@dataclass(frozen=True)
class Ending:
    """What a container says about its end, and how reading it ended.

    Attributes:
        form: its format.
        declared: number of shown frames in its index so far.
        unread: how many of them come after the last packet that could be read.
        in_parts: the index comes in parts, with the frames.
        duration: of the stream in seconds, as the container says; 0 if it does not.
        of_any: that is the duration of whatever stream is the longest.
        end: when the last frame read is over, in seconds.
        frame_time: how long a frame is shown.
        is_amid: the last packet is not whole.
        error: what ended the reading, if not the end.
    """

    form: str
    declared: int
    unread: int
    in_parts: bool
    duration: float
    of_any: bool
    end: float
    frame_time: float
    is_amid: bool
    error: FFmpegError | None

    @staticmethod
    def of(container: InputContainer, stream: VideoStream, packets: Packets) -> "Ending":
        """Of a container that was read to its end."""
        form = container.format.name.split(",")[0]
        index = read_index(container, stream)
        own = _stated_duration(form, stream)
        return Ending(
            form,
            declared=sum(entry.is_shown for entry in index) or stream.frames,
            # Without an index, at least the packet that was cut off.
            unread=unread(index, packets) if index else int(packets.is_cut),
            in_parts=stream.frames == 0,
            duration=own or (container.duration or 0) / MICROSECONDS * (form == "matroska"),
            of_any=not own and len(container.streams) > 1,
            end=float(packets.end * stream.time_base) if packets.end is not None and stream.time_base else 0.0,
            frame_time=float(1 / stream.average_rate) if stream.average_rate else 0.0,
            is_amid=packets.is_cut,
            error=packets.error,
        )

    def missing(self, video: VideoInput, count: int) -> str | None:
        """A sentence on what is missing after ``count`` frames of a video; None if nothing is known to be."""
        ends = f"{video.name} ends after frame {count - 1}"
        if self.form == "mov":
            return self._by_index(video, ends, count)
        if self.duration:
            return self._by_duration(video, ends)
        return self._by_error(ends)

    def _by_index(self, video: VideoInput, ends: str, count: int) -> str | None:
        if self.unread and not self.in_parts:
            return f"{ends}, but says it has {max(self.declared, count + self.unread)} frames"
        if self.unread:
            return f"{ends}, but its last part has at least {self.unread} more"
        lost = video.bytes_missing() if self.in_parts else None
        if lost:
            return f"{ends}, amid a part of which {lost} bytes are missing"
        return self._by_error(ends) if self.in_parts else None

    def _by_duration(self, video: VideoInput, ends: str) -> str | None:
        slack = self.frame_time / 2
        if self.duration - self.end <= slack:
            return self._by_error(ends) if self.is_amid else None
        lost = video.bytes_missing()
        if lost == 0:  # the duration is that of sound, or wrong
            return None
        if lost is None:
            slack = max(slack, DOUBT)
        end = self.end
        if self.of_any and video.is_file:
            slack, end = max(slack, PADDING), max(end, _last_end(video))
        if self.duration - end <= slack or (not video.is_file and self.error is None):
            return None
        return f"{ends}, at {self.end:.2f} s, but says it lasts {self.duration:.2f} s"

    def _by_error(self, ends: str) -> str | None:
        if self.is_amid:
            return f"{ends}, amid the next one"
        # The usual end of motion JPEG, which announces another picture, is an error too.
        failed = self.error is not None and not (self.form == "mpjpeg" and isinstance(self.error, InvalidDataError))
        return f"{ends}, where reading fails: {reason(self.error)}" if failed else None


def _stated_duration(form: str, stream: VideoStream) -> float:
    """Of this stream alone, in seconds; 0 if that is not said."""
    if form == "avi" and stream.time_base:
        # FFmpeg shortens the duration of a file that is cut off, but not the number of its frames, gaps included.
        return float(stream.frames * stream.time_base)
    clock = CLOCK.fullmatch(stream.metadata.get("DURATION", "")) if form == "matroska" else None
    return sum(float(part) * unit for part, unit in zip(clock.groups(), (3600, 60, 1), strict=True)) if clock else 0.0


def _last_end(video: VideoInput) -> float:
    """When the last packet of any stream is over, in seconds."""
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
