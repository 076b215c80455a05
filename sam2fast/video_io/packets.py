"""Packets of a stream, and the frames in them."""

from collections.abc import Callable, Iterable, Iterator

from av import Packet, VideoFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream


class Packets(Iterator[Packet]):
    """What is stored of a stream from where its container stands; a damaged file ends where reading fails.

    A last packet that is not whole is left out: of its frame there would be a part.

    Attributes:
        error: what ended the reading, if not the end.
        position: where in the file the last packet began.
        end: when the last frame so far will be over, in the stream's units.
        usual: how long a frame is shown as a rule; 0 if that is not known.
        is_over: there are no more.
        is_cut: a last packet was left out.
        loss: from when on frames may be missing, if the file ends here too early; all that are shown before are there.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._packets = container.demux(stream)
        # For packets that do not say how long they are shown.
        rate, unit = stream.average_rate, stream.time_base
        self.usual = round(1 / (rate * unit)) if rate and unit else 0
        self.error: FFmpegError | None = None
        self.position: int | None = None
        self.end: int | None = None
        self.is_over, self.is_cut = False, False
        self.loss: int | None = None
        self._next: Packet | None = None

    def __next__(self) -> Packet:
        packet = self._next or self._read()
        self._next = None
        if packet is not None and packet.is_corrupt:
            self._next = self._read()
            self.is_cut = self._next is None
        self.is_over = packet is None or self.is_cut
        if packet is not None and packet.dts is not None:
            # No frame is stored after it that is shown before that; one that was left out is missing itself.
            self.loss = packet.dts + 1 if packet.pts is None or not self.is_cut else min(packet.dts + 1, packet.pts)
        if packet is None or self.is_over:
            raise StopIteration
        self.position = packet.pos
        if packet.pts is not None:
            self.end = max(self.end or 0, packet.pts + (packet.duration or self.usual))
        return packet

    def _read(self) -> Packet | None:
        try:
            return next((packet for packet in self._packets if not _is_flush(packet)), None)
        except FFmpegError as error:
            self.error = error
            return None


def _is_flush(packet: Packet) -> bool:
    """Whether a packet only marks the end, which a damaged file does not reach."""
    return packet.size == 0 and packet.pts is None and packet.dts is None


def decode(
    stream: VideoStream, packets: Iterable[Packet], on_error: Callable[[FFmpegError], None] = lambda error: None
) -> Iterator[VideoFrame]:
    """The frames of packets in the order in which they are shown; damaged packets give none."""
    for packet in packets:
        yield from _decoded(stream, packet, on_error)
    yield from _decoded(stream, None, on_error)


def _decoded(stream: VideoStream, packet: Packet | None, on_error: Callable[[FFmpegError], None]) -> list[VideoFrame]:
    try:
        return stream.codec_context.decode(packet)
    except FFmpegError as error:
        on_error(error)
        return []
