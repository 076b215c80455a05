"""Video files of every format: all frames in order, with equal bits and times in both ways of reading."""

import re
import shutil
import struct
import subprocess
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import torch

from sam2fast.video_io import open_frames, read_frames

av = pytest.importorskip("av")

from numbered_videos import (  # noqa: E402  (after the question whether there is PyAV)
    B_FRAMES,
    HEIGHT,
    WIDTH,
    drawing,
    drawing_of,
    encode,
    number_in,
    oriented,
    read_both_ways,
    shown_earlier,
    with_matrix,
    with_message,
)

from sam2fast.video_io.decoding import Orientation  # noqa: E402

SIZE, COUNT = 32, 20
# In 25ths of a second.
UNEVEN = [0, 1, 2, 5, 6, 7, 15, 16, 17, 18, 19, 30, 31, 32, 33, 34, 35, 50, 51, 52]
SOME_B_FRAMES = {**B_FRAMES, "x264-params": "keyint=8"}
QUICK = {"deadline": "realtime", "cpu-used": "8"}
OPTIONS = {
    "libx264": SOME_B_FRAMES,
    "libx265": {"x265-params": "log-level=none:keyint=12:pools=none"},
    "libvpx": QUICK,
    "libvpx-vp9": QUICK,
    "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"},
    "prores_ks": {"profile": "4444"},
}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
ODD, CLEAR, LARGER = drawing_of(63, 47), drawing_of(64, 48, alpha=0), drawing_of(128, 96)

# Codec, container, and special properties.
FILES = {
    "h264 mp4": ("libx264", "mp4", {}),
    "h264 mov": ("libx264", "mov", {}),
    "h264 mkv": ("libx264", "matroska", {}),
    "h264 avi": ("libx264", "avi", {}),
    "h264 ts": ("libx264", "mpegts", {}),
    "h264 flv": ("libx264", "flv", {}),
    "h264 bare": ("libx264", "h264", {}),
    "h264 fragments": ("libx264", "mp4", {"muxing": FRAGMENTS}),
    "h264 10 bits": ("libx264", "mp4", {"pix_fmt": "yuv420p10le"}),
    "h264 4:2:2 10 bits mkv": ("libx264", "matroska", {"pix_fmt": "yuv422p10le"}),
    "h264 odd": ("libx264", "mp4", {"pix_fmt": "yuv444p", "draw": ODD}),
    "h264 with sound": ("libx264", "mp4", {"sound": 1.5}),
    "h264 mkv with sound": ("libx264", "matroska", {"sound": 1.5}),
    "h264 uneven mp4": ("libx264", "mp4", {"times": UNEVEN}),
    "h264 uneven mkv": ("libx264", "matroska", {"times": UNEVEN}),
    "h264 uneven ts": ("libx264", "mpegts", {"times": UNEVEN}),
    "h264 mkv without an end": ("libx264", "matroska", {"muxing": {"live": "1"}}),
    "hevc mp4": ("libx265", "mp4", {}),
    "hevc 10 bits mkv": ("libx265", "matroska", {"pix_fmt": "yuv420p10le"}),
    "vp8 webm": ("libvpx", "webm", {}),
    "vp9 webm": ("libvpx-vp9", "webm", {}),
    "vp9 odd": ("libvpx-vp9", "webm", {"draw": ODD}),
    "vp9 alpha": ("libvpx-vp9", "webm", {"pix_fmt": "yuva420p", "draw": CLEAR}),
    "vp9 mp4": ("libvpx-vp9", "mp4", {}),
    "av1 mp4": ("libsvtav1", "mp4", {"draw": LARGER}),
    "av1 10 bits webm": ("libsvtav1", "webm", {"draw": LARGER, "pix_fmt": "yuv420p10le"}),
    "mpeg4 mp4": ("mpeg4", "mp4", {"b_frames": 2}),
    "mpeg4 odd avi": ("mpeg4", "avi", {"b_frames": 2, "draw": ODD}),
    "mpeg2 ts": ("mpeg2video", "mpegts", {"b_frames": 2}),
    "mpeg2 vob": ("mpeg2video", "vob", {"b_frames": 2}),
    "mpeg1": ("mpeg1video", "mpeg", {"b_frames": 2}),
    "mjpeg odd mov": ("mjpeg", "mov", {"pix_fmt": "yuvj420p", "draw": ODD}),
    "mjpeg avi": ("mjpeg", "avi", {"pix_fmt": "yuvj420p"}),
    "mjpeg parts": ("mjpeg", "mpjpeg", {"pix_fmt": "yuvj420p"}),
    "png alpha mov": ("png", "mov", {"pix_fmt": "rgba", "draw": CLEAR}),
    "qtrle alpha mov": ("qtrle", "mov", {"pix_fmt": "argb", "draw": CLEAR}),
    "prores alpha mov": ("prores_ks", "mov", {"pix_fmt": "yuva444p10le", "draw": CLEAR}),
    "ffv1 odd 10 bits mkv": ("ffv1", "matroska", {"pix_fmt": "yuv420p10le", "draw": ODD}),
    "huffyuv avi": ("huffyuv", "avi", {"pix_fmt": "yuv422p"}),
    "raw avi": ("rawvideo", "avi", {"pix_fmt": "bgr24"}),
    "wmv": ("wmv2", "asf", {}),
    "flv": ("flv", "flv", {}),
    "gif": ("gif", "gif", {"pix_fmt": "rgb8"}),
    "apng": ("apng", "apng", {"pix_fmt": "rgb24"}),
    "y4m": ("wrapped_avframe", "yuv4mpegpipe", {}),
}
COUNTED = ("mp4", "mov")  # containers that always state their number of frames


@pytest.mark.parametrize("name", FILES)
def test_all_frames_in_order(name):
    codec, container, particulars = FILES[name]
    data = encode(codec, container, OPTIONS.get(codec), COUNT, **particulars)
    numbers, times, end, frames, reader = read_both_ways(data, SIZE)
    assert numbers == list(range(COUNT)) and end is None and reader.count in (None, COUNT)
    height, width = particulars.get("draw", drawing)(0).shape[:2]
    assert (frames.height, frames.width) == (height, width)
    if times[0] is not None:
        expected = [time / 25 for time in particulars.get("times", range(COUNT))]
        assert times == pytest.approx(expected, abs=0.0011)  # Matroska rounds to milliseconds
        assert frames.rate == pytest.approx((COUNT - 1) / expected[-1], rel=0.005)
    if container in COUNTED and "muxing" not in particulars:
        assert reader.count == COUNT


@pytest.mark.parametrize("name", ["vp9 alpha", "png alpha mov", "qtrle alpha mov", "prores alpha mov"])
def test_transparency_is_dropped(name):
    codec, container, particulars = FILES[name]
    with read_frames(encode(codec, container, OPTIONS.get(codec), 1, **particulars), SIZE) as reader:
        image = torch.from_numpy(next(reader).rgb).int()
    assert (image - torch.from_numpy(drawing(0)).int()).abs().float().mean() < 4


def follows_messages(program):
    """Returns True if FFmpeg's program applies the codec's messages. Version 5.1 (Debian 12) ignores H.264's."""
    text = subprocess.run([program, "-version"], capture_output=True, check=True, text=True).stdout
    version = re.match(r"ffmpeg version (\d+)\.", text)
    return version is None or int(version[1]) >= 7


ORIENTATIONS = [Orientation(*flags) for flags in product([False, True], repeat=3)]
MESSAGES = [*product(["libx264", "libx265"], ["mp4", "matroska"])]


@pytest.mark.parametrize(
    ("source", "orientation"),
    [*product([None], ORIENTATIONS), *zip([*MESSAGES, *reversed(MESSAGES)], ORIENTATIONS, strict=True)],
)
def test_orientation(source, orientation, tmp_path):
    """Reads the container's matrix (None) and messages of a codec. FFmpeg's program, if installed, agrees."""
    if source is None:
        data = with_matrix(encode("libx264", "mp4", SOME_B_FRAMES, COUNT), orientation)
    else:
        codec, form = source
        data = encode(codec, form, OPTIONS[codec], COUNT, edit=with_message(codec, orientation))
    frames = open_frames(data, SIZE)
    with read_frames(data, SIZE) as reader:
        images = list(reader)
    assert len(images) == len(frames) == COUNT
    for frame in images:
        assert torch.equal(frame.square, frames.pixels(frame.index))
        expected = oriented(drawing(frame.index), orientation)
        assert frame.rgb.shape == expected.shape == (frames.height, frames.width, 3)
        assert np.abs(frame.rgb.astype(int) - expected).mean() < 3  # 20 or more for any other orientation
    program = shutil.which("ffmpeg")
    if program and (source is None or follows_messages(program)):
        (tmp_path / "video").write_bytes(data)
        command = [program, "-i", tmp_path / "video", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        shown = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.uint8)
        assert np.abs(shown.astype(int) - np.concatenate([frame.rgb.ravel() for frame in images])).mean() < 1


def test_other_angles_are_upright():
    """As in the official package; FFmpeg's program would add black corners."""
    data = bytearray(with_matrix(encode("libx264", "mp4", count=1, draw=lambda _: drawing(5)), Orientation()))
    struct.pack_into(">5i", data, data.index(b"tkhd") + 44, -46341, 46341, 0, -46341, -46341)  # 135 degrees
    with read_frames(bytes(data), SIZE) as reader:
        assert number_in(torch.from_numpy(next(reader).rgb)) == 5 and (reader.height, reader.width) == (HEIGHT, WIDTH)


def all_at(time):
    """An ``edit`` by which all frames have one time."""

    def edit(position, packet):
        packet.pts = packet.dts = time

    return edit


def first_five_at_zero(position, packet):
    packet.pts = packet.dts = packet.pts if position >= 5 else 0


@pytest.mark.parametrize(
    ("codec", "container", "edit"),
    [
        ("libx264", "mp4", all_at(0)),
        ("libvpx-vp9", "mp4", all_at(0)),
        ("mjpeg", "mov", all_at(0)),
        ("libx264", "matroska", all_at(0)),
        ("libvpx-vp9", "webm", all_at(9000)),
        ("libx264", "flv", all_at(0)),
        ("libx264", "mpegts", all_at(0)),
        ("libx264", "mp4", first_five_at_zero),
        ("libx264", "matroska", first_five_at_zero),
    ],
)
def test_times_that_do_not_ascend(codec, container, edit):
    """Such frames are numbered by the stated rate."""
    options = {"bf": "0"} if codec == "libx264" else QUICK if codec == "libvpx-vp9" else None
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    data = encode(codec, container, options, COUNT, edit=edit, pix_fmt=pix_fmt)
    numbers, times, end, frames, reader = read_both_ways(data, SIZE)
    assert numbers == list(range(COUNT)) and end is None
    assert frames.rate == reader.rate == 25
    assert times == pytest.approx([number / 25 for number in range(COUNT)], abs=0.0011)
    assert times == [frames.time(number) for number in range(COUNT)]


def test_the_stated_rate_is_more_exact_than_rounded_times():
    """Matroska rounds times to milliseconds: the times of four frames have an average rate of 30."""
    data = encode("libx264", "matroska", B_FRAMES, 4, rate=Fraction(30000, 1001))
    with read_frames(data, SIZE) as reader:
        assert [frame.time for frame in reader] == pytest.approx([0, 0.033, 0.067, 0.1])
    assert open_frames(data, SIZE).rate == pytest.approx(30000 / 1001, rel=1e-9)


@pytest.mark.parametrize("ticks", [2, 24])
def test_the_rate_of_an_avi_file_whose_times_count_packets(ticks):
    """Copies of MP4 files with B-frames have empty packets between the frames, at 50 or 600 packets per second."""
    data = encode("libx264", "avi", B_FRAMES, times=range(0, 20 * ticks, ticks), rate=25 * ticks)
    frames = open_frames(data, SIZE)
    with read_frames(data, SIZE) as reader:
        assert (len(frames), frames.rate, reader.rate, len(list(reader))) == (20, 25, 25, 20)


@pytest.mark.parametrize(("transposed", "expected"), [(False, Fraction(2)), (True, Fraction(1, 2))])
def test_pixel_aspect(transposed, expected):
    """Of the upright frame."""
    data = encode("libx264", "mp4", {**B_FRAMES, "x264-params": "sar=2/1"}, 2)
    with read_frames(with_matrix(data, Orientation(transposed)), SIZE) as reader:
        assert reader.pixel_aspect == expected
    with read_frames(encode("libx264", "mp4", count=2), SIZE) as reader:
        assert reader.pixel_aspect == 1


@pytest.mark.parametrize(
    ("container", "hidden"),
    [("mp4", 1), ("mp4", 11), ("mp4", 17), *((f, t) for f in ("mp4", "matroska") for t in (-50, -1))],
)
def test_first_time_is_not_zero(container, hidden):
    """An edit list hides frames, or the first frame is shown later."""
    found = read_both_ways(encode("libx264", container, B_FRAMES, COUNT, edit=shown_earlier(hidden)), SIZE)
    assert found.numbers == list(range(max(hidden, 0), COUNT)) and found.end is None
    assert found.reader.count in (None, len(found.numbers)) and (container, found.reader.count) != ("mp4", None)
    assert found.times == pytest.approx([number / 25 for number in range(len(found.numbers))], abs=0.0011)


def cut_before_the_second_keyframe():
    """An ``edit`` after which the first shown frames refer to missing ones."""
    keyframes = []

    def edit(position, packet):
        keyframes.extend([position] * packet.is_keyframe)
        return len(keyframes) > 1

    return edit


@pytest.mark.parametrize("container", ["mp4", "matroska"])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_missing_beginning(codec, container):
    options = {"x265-params": "log-level=none:keyint=12:open-gop=1:bframes=3:b-adapt=0:pools=none"}
    if codec == "libx264":
        options = {**B_FRAMES, "x264-params": "open-gop=1:scenecut=0"}
    data = encode(codec, container, options, 40, edit=cut_before_the_second_keyframe())
    numbers = read_both_ways(data, SIZE).numbers
    assert numbers == list(range(numbers[0], 40)) and 8 <= numbers[0] <= 12


def test_metadata_in_other_encodings():
    """They do not prevent opening a file."""
    data = encode("libx264", "matroska", count=3)
    assert data.count(b"Lavf") > 0
    assert len(open_frames(data.replace(b"Lavf", b"\xe9\xe8\xff\xfe"), SIZE)) == 3
