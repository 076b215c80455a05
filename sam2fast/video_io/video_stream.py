"""Decodes frames of files, network addresses and cameras in order, once."""

import logging
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, suppress
from fractions import Fraction
from functools import partial
from heapq import heappop, heappush
from itertools import repeat
from typing import Any

from av import Packet, VideoFrame
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream

from sam2fast.utils.cores import available_cores
from sam2fast.video_io.containers import VideoInput, reason
from sam2fast.video_io.decoding import Orientation, Packets, Scaler, decode, maps_tones
from sam2fast.video_io.read_ahead import Resizer, read_ahead
from sam2fast.video_io.timeline import Clock, has_times, stated_rate
from sam2fast.video_io.truncation import missing_frames, stated_frames
from sam2fast.video_io.video_types import FramePixels, NoFramesError, StreamFrame, VideoError

_log = logging.getLogger(__name__)
AHEAD = 3  # number of frames to decode ahead


class DecodedStream:
    """Decodes the frames of a video in presentation order, without scanning the file first."""

    def __init__(self, video: VideoInput, image_size: int) -> None:
        self.name = video.name
        self.rate: float | None = None
        self.time_unit = 0.0
        self.count: int | None = None
        self.pixel_aspect = Fraction(1)
        self.choices: Mapping[str, Any] = {}
        self._video, self._image_size = video, image_size

    def frames(self) -> Generator[StreamFrame, None, None]:
        """Yields the frames. Decodes and resizes frames of files ahead.

        For errors see :class:`~sam2fast.video_io.reading.FrameReader`.
        """
        if not self._video.is_file:
            yield from self._decoded(careful=True)
            return
        resizer = Resizer(min(AHEAD, available_cores()))
        decoded = self._decoded_file(resizer)
        with closing(decoded), closing(read_ahead(repeat(partial(next, decoded, None)), AHEAD, 1)) as frames:
            yield from resizer.follow(iter(partial(next, frames), None))

    def _decoded_file(self, resizer: Resizer) -> Generator[StreamFrame, None, None]:
        yielded = 0
        with suppress(_UndecodableError):
            for frame in self._decoded(False, resizer):
                yielded = frame.index + 1
                yield frame
            return
        for frame in self._decoded(True, resizer):
            if frame.index >= yielded:
                yield frame

    def _decoded(self, careful: bool, resizer: Resizer | None = None) -> Generator[StreamFrame, None, None]:
        """Yields all frames. If not ``careful``, decodes faster, but raises at the first error."""
        container, stream = self._video.open()
        with container:
            self.rate, self.count = stated_rate(container, stream), stated_frames(container, stream) or None
            self.time_unit = float(stream.time_base or 0)
            packets = Packets(container, stream)
            expected = _Expected(container, stream, packets)
            # Lost frames are only detected if packets have times.
            careful = careful or not expected.are_known
            # Frame threading also adds latency.
            stream.thread_type = "SLICE" if careful else "AUTO"
            make, index = _FrameBuilder(self._video, self._image_size, Clock(container, stream)), 0
            errors: list[FFmpegError] = []
            for frame in decode(stream, expected, errors.append if careful else _raised):
                if expected.lacks_before(frame) or not (careful or expected.are_known):
                    raise self._undecodable(index, careful)
                made = make(index, frame, resizer)
                self.pixel_aspect = make.orientation.pixel_aspect(stream)
                yield made
                index += 1
            if expected.lacks_before(None):
                raise self._undecodable(index, careful)
            if errors and index:
                # The number and positions of frames in these packets are unknown.
                _log.warning("%s: %d of its packets cannot be decoded and are left out", self.name, len(errors))
            if index == 0:
                why = f"; reading fails: {reason(packets.error)}" if packets.error else ""
                raise NoFramesError(f"no frame of {self.name} can be decoded{why}")
            missing = missing_frames(self._video, container, stream, packets, index)
            if missing is not None:
                raise VideoError(missing)

    def _undecodable(self, index: int, careful: bool) -> Exception:
        if not careful:
            return _UndecodableError()
        return VideoError(f"frame {index} of {self.name} cannot be decoded; it is damaged there")


class _UndecodableError(Exception):
    """Raised if a frame cannot be decoded, or was lost by an error in another frame."""


def _raised(error: FFmpegError) -> None:
    raise _UndecodableError from error


class _Expected:
    """Passes packets to the decoder and records their presentation times.

    If the decoder returns no frame for a damaged packet, the next frame reveals the gap. Times are trusted under the
    same conditions as in :func:`~sam2fast.video_io.timeline.read_timeline`. After inconsistent times, no missing frame
    is reported.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, packets: Packets) -> None:
        self.are_known = has_times(container, stream)
        self._stream, self._packets = stream, packets
        self._due: list[int] = []  # heap of presentation times
        self._first: int | None = None
        self._latest: int | None = None
        self._is_reordered = False

    def __iter__(self) -> Iterator[Packet]:
        for packet in self._packets:
            if self.are_known:
                self._note(packet)
            yield packet

    def lacks_before(self, frame: VideoFrame | None) -> bool:
        """Returns True, once per gap, if an expected frame is missing before ``frame`` (None: the end)."""
        time = float("inf") if frame is None else frame.pts
        if time is None:
            self._distrust()
            return False
        lacks = False
        while self._due and self._due[0] < time:
            heappop(self._due)
            lacks = True
        if self._due and self._due[0] == time:
            heappop(self._due)
        # If times ascend although the decoder reorders frames, the times are decoding times.
        return lacks and self.are_known and (self._is_reordered or not self._stream.codec_context.has_b_frames)

    def _note(self, packet: Packet) -> None:
        time = packet.pts
        if self._first is None:
            self._first = time if packet.is_keyframe else None
        if time is None or self._first is None or time < self._first or time in self._due:
            self._distrust()
        elif not packet.is_discard and not packet.is_corrupt:
            self._is_reordered = self._is_reordered or (self._latest is not None and time < self._latest)
            self._latest = time
            heappush(self._due, time)

    def _distrust(self) -> None:
        self.are_known = False
        self._due.clear()


class _FrameBuilder:
    """Converts decoded frames to stream frames."""

    def __init__(self, video: VideoInput, image_size: int, clock: Clock) -> None:
        self.orientation = Orientation()
        self._video, self._image_size, self._clock = video, image_size, clock
        self._scalers: tuple[Scaler, Scaler] | None = None

    def __call__(self, index: int, frame: VideoFrame, resizer: Resizer | None) -> StreamFrame:
        if self._scalers is None:
            self.orientation = Orientation.of(frame)
            made = self.orientation, maps_tones(self._video, frame)
            self._scalers = Scaler(self._image_size, *made), Scaler(None, *made)
        height, width = self.orientation.size(frame)
        to_square, to_rgb = self._scalers
        square = partial(to_square, frame)
        pixels = FramePixels(lambda: to_rgb(frame).numpy(), square if resizer is None else resizer.start(square))
        return StreamFrame(index, self._clock(frame.pts), height, width, pixels)
