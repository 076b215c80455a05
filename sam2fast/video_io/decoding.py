"""Decodes packets to frames, and converts frames to RGB pixels exactly like decord, the official package's reader."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from fractions import Fraction
from itertools import pairwise
from threading import Lock
from typing import Any, NamedTuple, TypeAlias

import av
import numpy as np
import torch
from av import Packet, VideoFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.filter import Graph
from av.video.stream import VideoStream
from torch import Tensor

from sam2fast.video_io.containers import VideoInput
from sam2fast.video_io.video_types import VideoError

Layout: TypeAlias = tuple[int, int, str]  # width, height and pixel format of a frame

HDR_TRANSFERS = {16: "PQ", 18: "HLG"}  # by FFmpeg's number of the transfer function
TONE_MAPPING = ":out_transfer=bt709:out_primaries=bt709:intent=perceptual"  # options of FFmpeg's scaler
TONE_MAPPING_FILTERS = (11, 0, 0)  # version of libavfilter in FFmpeg 8.0, the first with these options
OFF_AXIS = 1 / 57  # tangent of one degree; a smaller tilt of a display matrix is ignored


class Packets(Iterator[Packet]):
    """Iterator over the packets of a stream, from the container's current position on.

    If reading fails, as in a damaged file, the iterator ends. An incomplete last packet is dropped.

    Attributes:
        error: Error that ended the reading, or None.
        position: Offset of the last packet in the file.
        end: End of the last frame so far, in the stream's time base.
        is_cut: True if an incomplete last packet was dropped.
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
            # Skips the packet that only marks the end of the stream.
            return next((p for p in self._packets if p.size or p.pts is not None or p.dts is not None), None)
        except FFmpegError as error:
            self.error = error
            return None


def decode(
    stream: VideoStream, packets: Iterable[Packet], on_error: Callable[[FFmpegError], None] = lambda error: None
) -> Iterator[VideoFrame]:
    """Decodes packets, and yields frames in presentation order. Damaged packets yield no frames."""
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
    """Transformation from stored to displayed frames: a transposition (rows become columns), then mirroring."""

    is_transposed: bool = False
    mirrors_x: bool = False  # left and right
    mirrors_y: bool = False  # top and bottom

    @staticmethod
    def of(frame: VideoFrame) -> "Orientation":
        """Returns the orientation of a frame's display matrix, from the container or the codec.

        Angles that are not multiples of 90 degrees count as upright.

        Source: ``get_rotation`` and ``configure_filtergraph`` of FFmpeg's program.
        """
        side_data: Any = frame.side_data  # PyAV's type annotation is wrong
        matrix = side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return Orientation()
        # Maps x to a * x + c * y, and y to b * x + d * y.
        a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
        if max(abs(b), abs(c)) <= OFF_AXIS * min(abs(a), abs(d)):
            return Orientation(False, a < 0, d < 0)
        if max(abs(a), abs(d)) <= OFF_AXIS * min(abs(b), abs(c)):
            return Orientation(True, c < 0, b < 0)
        return Orientation()

    def size(self, frame: VideoFrame) -> tuple[int, int]:
        """Returns the height and width of a frame as displayed."""
        return (frame.width, frame.height) if self.is_transposed else (frame.height, frame.width)

    def pixel_aspect(self, stream: VideoStream) -> Fraction:
        """Returns the aspect ratio width / height of a displayed pixel, or 1 if the video states none."""
        aspect = stream.sample_aspect_ratio or Fraction(1)
        return 1 / aspect if self.is_transposed else aspect

    @property
    def filters(self) -> list[tuple[str, str]]:
        """Returns FFmpeg's filters that rotate a stored frame upright."""
        if self.is_transposed:
            return [("transpose", str(self.mirrors_x + 2 * self.mirrors_y))]
        return [(name, "") for name, is_used in (("hflip", self.mirrors_x), ("vflip", self.mirrors_y)) if is_used]


class Scaler:
    """Rotates frames upright and resizes frames with swscale's bilinear filter, bit by bit like decord.

    Several threads may convert frames at the same time. Each has its own graph of filters, except with tone mapping. A
    graph reuses the memory of pixels that are no longer needed.

    Args:
        size: Side S of the square, or None to keep the size of each frame.
        maps_tones: If True, maps HDR frames to standard dynamic range.
    """

    def __init__(self, size: int | None, orientation: Orientation, maps_tones: bool = False) -> None:
        self._scale = "iw:ih" if size is None else f"{size}:{size}"
        # Bilinear is the default in decord's FFmpeg, while today's default is bicubic.
        self._scale += ":flags=bilinear" + TONE_MAPPING * maps_tones
        self._orientation = orientation
        self._idle: list[tuple[Layout, Graph]] = []
        # FFmpeg takes seconds to prepare tone mapping, so all threads share one graph.
        self._turn: AbstractContextManager[Any] = Lock() if maps_tones else nullcontext()

    def __call__(self, frame: VideoFrame) -> Tensor:
        """Returns the pixels of a frame, ``(S, S, 3)`` uint8 RGB."""
        layout, known, graph = (frame.width, frame.height, frame.format.name), None, None
        with self._turn:
            with suppress(IndexError):
                known, graph = self._idle.pop()
            if graph is None or layout != known:
                graph = self._build(frame)
            graph.push(frame)
            pixels = graph.pull().to_ndarray()
            self._idle.append((layout, graph))
        # The decoder may need the pixels of a frame that no filter has changed.
        return torch.from_numpy(pixels.copy() if frame.format.name == "rgb24" else pixels)

    def _build(self, frame: VideoFrame) -> Graph:
        graph = Graph()
        graph.threads = 1  # frames are converted in parallel instead
        # A time base is required, although no filter uses times.
        unit = Fraction(1)
        source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=unit)
        upright = [graph.add(*one) for one in self._orientation.filters]
        scale = graph.add("scale", self._scale)
        for one, next_one in pairwise([source, *upright, scale, graph.add("format", "rgb24"), graph.add("buffersink")]):
            one.link_to(next_one)
        graph.configure()
        return graph


def maps_tones(video: VideoInput, frame: VideoFrame) -> bool:
    """Returns True if a video's HDR frames are mapped to standard range. Warns of HDR that is not mapped.

    Args:
        frame: First frame of the video.

    Raises:
        VideoError: If the installed FFmpeg cannot map tones.
    """
    # ``color_trc`` exists from PyAV 14 on.
    transfer = HDR_TRANSFERS.get(getattr(frame, "color_trc", 0))
    if transfer is None:
        return False
    if not video.is_tone_mapped:
        warnings.warn(
            f"{video.name} is an HDR video ({transfer}) and is decoded without tone mapping, so colours are dull and "
            "masks may be worse: map tones with ToneMapped(video) or `sam2fast track --tone-map`",
            stacklevel=2,
        )
        return False
    if av.library_versions["libavfilter"] < TONE_MAPPING_FILTERS:
        raise VideoError(f"mapping the tones of {video.name} needs PyAV 16 or later; this is PyAV {av.__version__}")
    return True
