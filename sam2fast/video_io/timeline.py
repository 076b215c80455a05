"""When the frames of a video file are shown, and where decoding may begin."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from av import Packet, VideoFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

# These formats store when each frame is shown; for others FFmpeg guesses from what was stored before.
FORMATS_WITH_TIMES = ("mov", "matroska")
# Codecs with packets that show nothing, which only decoding tells.
CODECS_WITH_HIDDEN_FRAMES = ("vp8",)


def video_stream(container: InputContainer) -> VideoStream | None:
    """The stream to show, which is no cover picture; None if there is no video."""
    if hasattr(container.streams, "best"):  # PyAV 13
        best = container.streams.best("video")
        return best if isinstance(best, VideoStream) else None
    return next(iter(container.streams.video), None)


def packets_of(container: InputContainer, stream: VideoStream) -> Iterator[Packet]:
    """What is stored from where the container stands; a damaged file ends where reading fails."""
    try:
        yield from container.demux(stream)
    except FFmpegError:
        return


def decode(stream: VideoStream, packets: Iterable[Packet]) -> Iterator[VideoFrame]:
    """The frames of packets in the order in which they are shown; damaged packets give none."""
    for packet in packets:
        if not _is_flush(packet):
            yield from _decoded(stream, packet)
    # Not left to the empty packet at the container's end, which a damaged file does not reach.
    yield from _decoded(stream, None)


def _is_flush(packet: Packet) -> bool:
    return packet.size == 0 and packet.pts is None and packet.dts is None


def _decoded(stream: VideoStream, packet: Packet | None) -> list[VideoFrame]:
    try:
        return stream.codec_context.decode(packet)
    except FFmpegError:
        return []


@dataclass(frozen=True)
class Timeline:
    """Times of the frames of a stream.

    Attributes:
        count: number of frames.
        times: when each is shown, ascending, in the stream's units; None if that is not known, and frames can only be
            counted from the beginning.
        keyframes: when those frames are shown from which decoding may begin, ascending; empty without ``times``.
        sound: nothing is known to be wrong with the file.
    """

    count: int
    times: list[int] | None
    keyframes: list[int]
    sound: bool

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


def read_timeline(open_file: Callable[[], tuple[InputContainer, VideoStream]]) -> Timeline:
    """Finds out when frames are shown, from the packets if they can be believed, else by decoding them all."""
    container, stream = open_file()
    with container:
        timeline = _from_packets(container, stream)
    if timeline.sound:
        return timeline
    container, stream = open_file()
    with container:
        shown = [frame.pts for frame in decode(stream, packets_of(container, stream))]
    times = [time for time in shown if time is not None]
    if len(times) < len(shown) or not _strictly_ascending(times):
        return Timeline(len(shown), None, [], sound=False)
    return Timeline(len(times), times, timeline.keyframes, sound=False)


class _Facts(NamedTuple):
    """What is remembered of a packet."""

    pts: int | None
    is_key: bool
    is_shown: bool  # by an edit list, packets may be there only to be decoded
    is_corrupt: bool


def _from_packets(container: InputContainer, stream: VideoStream) -> Timeline:
    packets = [
        _Facts(packet.pts, packet.is_keyframe, not packet.is_discard, packet.is_corrupt)
        for packet in packets_of(container, stream)
        if not _is_flush(packet)
    ]
    times = [packet.pts for packet in packets if packet.is_shown and packet.pts is not None]
    keyframes = [packet.pts for packet in packets if packet.is_key and packet.pts is not None]
    sound = (
        container.format.name.split(",")[0] in FORMATS_WITH_TIMES
        and stream.codec_context.name not in CODECS_WITH_HIDDEN_FRAMES
        and _consistent(packets)
        # Times that rise although the decoder reorders frames are times of decoding.
        and not (stream.codec_context.has_b_frames and _strictly_ascending(times))
    )
    return Timeline(len(times), sorted(times), sorted(keyframes), sound)


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
