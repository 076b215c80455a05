"""Small video files whose frames carry their numbers."""

import contextlib
import io
import os
import struct
import tempfile
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
import pytest
import torch

from sam2fast.video_io import FrameReader, Frames, VideoError, open_frames, read_frames

COUNT, WIDTH, HEIGHT, GOP = 75, 64, 48, 12
B_FRAMES = {"bf": "3", "b-adapt": "0", "preset": "fast"}


def drawing(number, width=WIDTH, height=HEIGHT):
    """Seven bars that are bright where the number has a bit, above a bar that moves."""
    image = np.full((height, width, 3), 40, np.uint8)
    for bit in range(7):
        image[: height // 2, bit * width // 8 : (bit + 1) * width // 8] = 220 if number >> bit & 1 else 30
    image[height * 3 // 4 :, number % width : number % width + 8] = (0, 200, 255)
    return image


def drawing_of(width, height, alpha=None):
    """:func:`drawing` at another size; with ``alpha`` the right half is that transparent."""

    def draw(number):
        image = drawing(number, width, height)
        if alpha is None:
            return image
        opacity = np.full((height, width, 1), 255, np.uint8)
        opacity[:, width // 2 :] = alpha
        return np.concatenate([image, opacity], -1)

    return draw


def number_in(pixels):
    """The number that :func:`drawing` encodes."""
    height, width = pixels.shape[:2]
    centres = [int((bit + 0.5) * width / 8) for bit in range(7)]
    return sum(1 << bit for bit, x in enumerate(centres) if pixels[height // 4, x].float().mean() > 128)


def encode(
    codec,
    form,
    options=None,
    count=COUNT,
    b_frames=None,
    muxing=None,
    pix_fmt="yuv420p",
    draw=drawing,
    edit=None,
    times=None,
    sound=0.0,
    rate=25,
):
    """Bytes of a video file, with ``sound`` seconds of silence.

    ``edit`` may change each packet, or drop it by returning False. ``times`` are in units of 1 / ``rate`` seconds.
    """
    with tempfile.NamedTemporaryFile() as file, ordinary_scheduling():
        with av.open(file.name, "w", format=form, options=muxing or {}) as container:
            times = times or range(count)
            _encode_to(container, codec, options or {}, times, b_frames, pix_fmt, draw, edit, sound, rate)
        return file.read()


@contextlib.contextmanager
def ordinary_scheduling():
    """As root, SVT-AV1 makes its caller's thread a real-time one. Afterwards it is scheduled as before."""
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def _encode_to(container, codec, options, times, b_frames, pix_fmt, draw, edit, sound, rate):
    try:
        stream = container.add_stream(codec, rate=rate, options=options)
    except (ValueError, av.error.FFmpegError):
        pytest.skip(f"this FFmpeg has no encoder {codec}")
    stream.height, stream.width = draw(0).shape[:2]
    stream.pix_fmt, stream.gop_size = pix_fmt, GOP
    if b_frames is not None:
        stream.codec_context.max_b_frames = b_frames
    silence = Silence(container, sound) if sound else None
    position = 0
    for number, time in [*enumerate(times), (None, None)]:
        frame = None
        if number is not None:
            image = draw(number)
            frame = av.VideoFrame.from_ndarray(image, format="rgba" if image.shape[2] == 4 else "rgb24")
            frame.pts, frame.time_base = time, Fraction(1, rate)
        for packet in stream.encode(frame):
            edited = None if edit is None else edit(position, packet)
            if edited is not False:
                container.mux(edited if isinstance(edited, av.Packet) else packet)
            position += 1
        if silence is not None:
            silence.up_to(sound if time is None else time / rate)


class Silence:
    """Silent sound for a container."""

    RATE, PART = 8000, 800

    def __init__(self, container, seconds):
        self.container, self.seconds, self.parts = container, seconds, 0
        self.stream = container.add_stream("aac", rate=self.RATE)

    def up_to(self, time):
        while self.parts * self.PART < min(time, self.seconds) * self.RATE:
            frame = av.AudioFrame(format="fltp", layout="mono", samples=self.PART)
            frame.sample_rate, frame.pts, frame.time_base = self.RATE, self.parts * self.PART, Fraction(1, self.RATE)
            frame.planes[0].update(bytes(4 * self.PART))
            self.container.mux(self.stream.encode(frame))
            self.parts += 1
        if time >= self.seconds:
            self.container.mux(self.stream.encode(None))


def sound_alone():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        Silence(container, 1.0).up_to(1.0)
    return file.getvalue()


class BothWays(NamedTuple):
    """A video as random access and a stream agree to have read it."""

    numbers: list[int]
    times: list[float | None]
    end: str | None  # what is missing after the last frame
    frames: Frames
    reader: FrameReader


def read_both_ways(data, size=32, exact=True):
    """Reads a video by random access and as a stream, which agree; also bit by bit, if ``exact``."""
    frames, numbers, times, end = open_frames(data, size), [], [], None
    with read_frames(data, size) as reader:
        try:
            for frame in reader:
                assert frame.index == len(numbers)
                assert (frame.height, frame.width) == (reader.height, reader.width) == (frames.height, frames.width)
                pixels = frames.pixels(frame.index)
                assert torch.equal(frame.square, pixels) if exact else number_in(frame.square) == number_in(pixels)
                assert frame.rgb.shape == (frame.height, frame.width, 3)
                numbers.append(number_in(frame.square))
                times.append(frame.time)
        except VideoError as error:
            end = str(error)
            assert list(reader) == []
    assert (len(frames), frames.truncated) == (len(numbers), end)
    assert not exact or times in ([frames.time(index) for index in range(len(frames))], [None] * len(times))
    return BothWays(numbers, times, end, frames, reader)


def with_matrix(data, orientation):
    """An MP4 file whose track header has the display matrix of an :class:`Orientation`."""
    data = bytearray(data)
    x, y = (-1 if mirrors else 1 for mirrors in orientation[1:])
    a, b, c, d = (0, y, x, 0) if orientation.is_transposed else (x, 0, 0, y)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, *(v << 16 for v in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)
    return bytes(data)


def with_message(codec, orientation):
    """An ``edit`` by which every keyframe of H.264 or HEVC has a display orientation message (SEI)."""
    is_transposed, x, y = orientation
    # The message's flips come first, and its rotation by 90 degrees is a transposition that is mirrored vertically.
    flips, rotation = ((not y, x), 1 << 14) if is_transposed else ((x, y), 0)
    header, ending = {"libx264": (b"\x06", "0100"), "libx265": (b"\x4e\x01", "1000")}[codec]
    bits = f"0{flips[0]:b}{flips[1]:b}{rotation:016b}{ending}1".ljust(24, "0")
    message = b"\0\0\0\1" + header + b"\x2f\x03" + int(bits, 2).to_bytes(3, "big") + b"\x80"

    def edit(position, packet):
        if not packet.is_keyframe:
            return packet
        longer = av.Packet(message + bytes(packet))
        for name in ("pts", "dts", "time_base", "stream", "is_keyframe"):
            setattr(longer, name, getattr(packet, name))
        return longer

    return edit


def oriented(image, orientation):
    """An image ``(H, W, 3)`` as a player shows it."""
    image = image.swapaxes(0, 1) if orientation.is_transposed else image
    return image[:: -1 if orientation.mirrors_y else 1, :: -1 if orientation.mirrors_x else 1]


def shown_earlier(frames):
    """An ``edit`` by which the first frames lie before the video's beginning and are not shown."""

    def edit(position, packet):
        ticks = round(frames / 25 / packet.time_base)
        packet.pts, packet.dts = packet.pts - ticks, packet.dts - ticks

    return edit


def times_of_decoding(position, packet):
    packet.pts = packet.dts


def stored_early(position, packet):
    packet.dts -= round(4 / 25 / packet.time_base)


def every_third_lost(position, packet):
    return position % 3 != 1


def every_fifth_hidden(position, packet):
    if position % 5 == 3:
        header = bytes(packet)[0] & ~0x10  # VP8's flag of a frame that is shown
        packet.update(bytes([header]) + bytes(packet)[1:])


def fully_decoded(data):
    """The numbers that plain PyAV sees, packet by packet; the last packet does not count if it was cut off."""
    images = []
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        if packets[-1].is_corrupt:
            del packets[-1]
        for packet in [*packets, None]:
            with contextlib.suppress(av.error.FFmpegError):
                images += stream.codec_context.decode(packet)
    return [number_in(torch.from_numpy(frame.to_ndarray(format="rgb24"))) for frame in images]


def assert_both_refuse(source, error, message):
    """By random access and as a stream; ``source`` makes it."""
    for read in (open_frames, read_frames):
        with pytest.raises(error, match=message):
            read(source(), 32)
