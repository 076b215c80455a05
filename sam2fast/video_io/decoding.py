"""Decodes packets to frames, and converts frames to RGB pixels exactly as decord, the original's reader, does."""

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from av import Packet, VideoFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.filter import Graph
from av.video.stream import VideoStream
from torch import Tensor

OFF_AXIS = 1 / 57  # largest tilt of a display matrix that counts as upright: one degree


class Packets(Iterator[Packet]):
    """The packets of a stream from the container's position on. A damaged file ends where reading fails.

    A last packet that is incomplete is left out.

    Attributes:
        error: the error that ended the reading, if any.
        position: offset of the last packet in the file.
        end: when the last frame so far ends, in the stream's time base.
        is_cut: an incomplete last packet was left out.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._packets = container.demux(stream)
        self.error: FFmpegError | None = None
        self.position: int | None = None
        self.end: int | None = None
        self.is_cut = False
        self._next: Packet | None = None

    def __next__(self) -> Packet:
        packet = self._next or self._read()
        self._next = None
        if packet is not None and packet.is_corrupt:
            self._next = self._read()
            self.is_cut = self._next is None
        if packet is None or self.is_cut:
            raise StopIteration
        self.position = packet.pos
        if packet.pts is not None:
            self.end = max(self.end or 0, packet.pts + (packet.duration or 0))
        return packet

    def _read(self) -> Packet | None:
        try:
            # Without the packet that only marks the end of the stream.
            return next((p for p in self._packets if p.size or p.pts is not None or p.dts is not None), None)
        except FFmpegError as error:
            self.error = error
            return None


def decode(
    stream: VideoStream, packets: Iterable[Packet], on_error: Callable[[FFmpegError], None] = lambda error: None
) -> Iterator[VideoFrame]:
    """The frames of packets in presentation order; damaged packets give none."""
    for packet in packets:
        yield from _decoded(stream, packet, on_error)
    yield from _decoded(stream, None, on_error)


def _decoded(stream: VideoStream, packet: Packet | None, on_error: Callable[[FFmpegError], None]) -> list[VideoFrame]:
    try:
        return stream.codec_context.decode(packet)
    except FFmpegError as error:
        on_error(error)
        return []


class Orientation(NamedTuple):
    """The transformation from stored to shown frames: a transposition (rows become columns), then mirroring."""

    is_transposed: bool = False
    mirrors_x: bool = False  # left and right
    mirrors_y: bool = False  # top and bottom

    @staticmethod
    def of(frame: VideoFrame) -> "Orientation":
        """The orientation in a frame's display matrix, from the container or the codec; other angles count as upright.

        Source: ``get_rotation`` and ``configure_filtergraph`` of FFmpeg's program.
        """
        side_data: Any = frame.side_data  # PyAV's annotation is wrong
        matrix = side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return Orientation()
        # x becomes a * x + c * y, and y becomes b * x + d * y.
        a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
        if max(abs(b), abs(c)) <= OFF_AXIS * min(abs(a), abs(d)):
            return Orientation(False, a < 0, d < 0)
        if max(abs(a), abs(d)) <= OFF_AXIS * min(abs(b), abs(c)):
            return Orientation(True, c < 0, b < 0)
        return Orientation()

    def size(self, frame: VideoFrame) -> tuple[int, int]:
        """Height and width of a frame as it is shown."""
        return (frame.width, frame.height) if self.is_transposed else (frame.height, frame.width)

    def pixel_aspect(self, stream: VideoStream) -> Fraction:
        """Width of a shown pixel divided by its height; 1 if the video does not state it."""
        aspect = stream.sample_aspect_ratio or Fraction(1)
        return 1 / aspect if self.is_transposed else aspect

    @property
    def filters(self) -> list[tuple[str, str]]:
        """FFmpeg's filters that make a stored frame upright."""
        if self.is_transposed:
            return [("transpose", str(self.mirrors_x + 2 * self.mirrors_y))]
        return [(name, "") for name, is_used in (("hflip", self.mirrors_x), ("vflip", self.mirrors_y)) if is_used]


class Scaler:
    """Makes frames upright and resizes them with swscale's bilinear filter, bit-identical to decord.

    Thread-safe: frames of a stream are converted where they are used.

    Args:
        size: side S of the square; None keeps each frame's own size.
    """

    def __init__(self, size: int | None, orientation: Orientation) -> None:
        self._scale = "iw:ih" if size is None else f"{size}:{size}"
        self._orientation = orientation
        self._lock = Lock()
        self._kind: tuple[int, int, str] | None = None
        self._graph = Graph()

    def __call__(self, frame: VideoFrame) -> Tensor:
        """Pixels of a frame, ``(S, S, 3)`` uint8 RGB."""
        kind = (frame.width, frame.height, frame.format.name)
        with self._lock:
            if kind != self._kind:
                self._graph = self._build(frame)
                self._kind = kind
            self._graph.push(frame)
            scaled = self._graph.pull()
        return torch.from_numpy(np.array(scaled.to_ndarray()))

    def _build(self, frame: VideoFrame) -> Graph:
        graph = Graph()
        # Required, though no filter uses times.
        unit = Fraction(1)
        source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=unit)
        upright = [graph.add(*one) for one in self._orientation.filters]
        # decord's FFmpeg defaulted to bilinear; today's default is bicubic.
        scale = graph.add("scale", f"{self._scale}:flags=bilinear")
        for one, next_one in pairwise([source, *upright, scale, graph.add("format", "rgb24"), graph.add("buffersink")]):
            one.link_to(next_one)
        graph.configure()
        return graph
