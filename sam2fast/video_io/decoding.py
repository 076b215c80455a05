"""Decodes packets to frames, and converts frames to RGB pixels exactly as decord, the original's reader, does."""

import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np
import torch
from av import Packet, VideoFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.filter import Graph
from av.video.stream import VideoStream
from torch import Tensor

# Directions of the transpose filters that rotate a frame clockwise by degrees.
ROTATIONS = {90: ["1"], 180: ["1", "1"], 270: ["2"]}


class Packets(Iterator[Packet]):
    """The packets of a stream from the container's position on. A damaged file ends where reading fails.

    A last packet that is incomplete is left out.

    Attributes:
        error: the error that ended the reading, if any.
        position: offset of the last packet in the file.
        end: when the last frame so far ends, in the stream's time base.
        usual: nominal duration of a frame; 0 if unknown.
        is_over: there are no more packets.
        is_cut: an incomplete last packet was left out.
        loss: if the file is truncated here, frames from this time on may be missing; all earlier ones are present.
    """

    def __init__(self, container: InputContainer, stream: VideoStream) -> None:
        self._packets = container.demux(stream)
        # For packets without a duration.
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
            # Later packets have no earlier frames. A packet that was left out is itself missing.
            self.loss = packet.dts + 1 if packet.pts is None or not self.is_cut else min(packet.dts + 1, packet.pts)
        if packet is None or self.is_over:
            raise StopIteration
        self.position = packet.pos
        if packet.pts is not None:
            self.end = max(self.end or 0, packet.pts + (packet.duration or self.usual))
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


def rotation_of(frame: VideoFrame) -> int:
    """The clockwise rotation in a frame's display matrix: 0, 90, 180 or 270 degrees; others count as 0."""
    side_data: Any = frame.side_data  # PyAV's annotation is wrong
    matrix = side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return 0
    cosine, sine = np.frombuffer(bytes(matrix), dtype=np.int32)[:2]
    rotation = round(math.degrees(math.atan2(sine, cosine))) % 360
    return rotation if rotation in ROTATIONS else 0


def upright_size(frame: VideoFrame, rotation: int) -> tuple[int, int]:
    """Height and width of a frame after its rotation."""
    return (frame.width, frame.height) if rotation in (90, 270) else (frame.height, frame.width)


class Scaler:
    """Rotates frames upright and resizes them with swscale's bilinear filter, bit-identical to decord.

    Thread-safe: frames of a stream are converted where they are used.

    Args:
        size: side S of the square; None keeps each frame's own size.
        rotation: see :func:`rotation_of`.
    """

    def __init__(self, size: int | None, rotation: int) -> None:
        self._scale = "iw:ih" if size is None else f"{size}:{size}"
        self._rotation = rotation
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
        rotations = [graph.add("transpose", direction) for direction in ROTATIONS.get(self._rotation, [])]
        # decord's FFmpeg defaulted to bilinear; today's default is bicubic.
        scale = graph.add("scale", f"{self._scale}:flags=bilinear")
        for one, next_one in pairwise(
            [source, *rotations, scale, graph.add("format", "rgb24"), graph.add("buffersink")]
        ):
            one.link_to(next_one)
        graph.configure()
        return graph
