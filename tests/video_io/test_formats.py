"""Video files of every format: all frames in order, by random access and forwards, with the same bits and times."""

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
    read_both_ways,
    shown_earlier,
    turned,
)

SIZE, COUNT = 32, 20
# In 25ths of a second.
UNEVEN = [0, 1, 2, 5, 6, 7, 15, 16, 17, 18, 19, 30, 31, 32, 33, 34, 35, 50, 51, 52]
SOME_B_FRAMES = {**B_FRAMES, "x264-params": "keyint=8"}
HEVC = {"x265-params": "log-level=none:keyint=12:pools=none"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
QUICK = {"deadline": "realtime", "cpu-used": "8"}
QUICK_AV1 = {"preset": "12", "svtav1-params": "lp=1"}
ODD, CLEAR, LARGER = drawing_of(63, 47), drawing_of(64, 48, alpha=0), drawing_of(128, 96)

# Codec, container, and special properties.
FILES = {
    "h264 mp4": ("libx264", "mp4", {"options": SOME_B_FRAMES}),
    "h264 mov": ("libx264", "mov", {"options": SOME_B_FRAMES}),
    "h264 mkv": ("libx264", "matroska", {"options": SOME_B_FRAMES}),
    "h264 avi": ("libx264", "avi", {"options": SOME_B_FRAMES}),
    "h264 ts": ("libx264", "mpegts", {"options": SOME_B_FRAMES}),
    "h264 flv": ("libx264", "flv", {"options": SOME_B_FRAMES}),
    "h264 bare": ("libx264", "h264", {"options": SOME_B_FRAMES}),
    "h264 fragments": ("libx264", "mp4", {"options": SOME_B_FRAMES, "muxing": FRAGMENTS}),
    "h264 10 bits": ("libx264", "mp4", {"options": SOME_B_FRAMES, "pix_fmt": "yuv420p10le"}),
    "h264 4:2:2 10 bits mkv": ("libx264", "matroska", {"options": SOME_B_FRAMES, "pix_fmt": "yuv422p10le"}),
    "h264 odd": ("libx264", "mp4", {"options": SOME_B_FRAMES, "pix_fmt": "yuv444p", "draw": ODD}),
    "h264 with sound": ("libx264", "mp4", {"options": SOME_B_FRAMES, "sound": 1.5}),
    "h264 mkv with sound": ("libx264", "matroska", {"options": SOME_B_FRAMES, "sound": 1.5}),
    "h264 uneven mp4": ("libx264", "mp4", {"options": SOME_B_FRAMES, "times": UNEVEN}),
    "h264 uneven mkv": ("libx264", "matroska", {"options": SOME_B_FRAMES, "times": UNEVEN}),
    "h264 uneven ts": ("libx264", "mpegts", {"options": SOME_B_FRAMES, "times": UNEVEN}),
    "h264 mkv without an end": ("libx264", "matroska", {"options": SOME_B_FRAMES, "muxing": {"live": "1"}}),
    "hevc mp4": ("libx265", "mp4", {"options": HEVC}),
    "hevc 10 bits mkv": ("libx265", "matroska", {"options": HEVC, "pix_fmt": "yuv420p10le"}),
    "vp8 webm": ("libvpx", "webm", {"options": QUICK}),
    "vp9 webm": ("libvpx-vp9", "webm", {"options": QUICK}),
    "vp9 odd": ("libvpx-vp9", "webm", {"options": QUICK, "draw": ODD}),
    "vp9 alpha": ("libvpx-vp9", "webm", {"options": QUICK, "pix_fmt": "yuva420p", "draw": CLEAR}),
    "vp9 mp4": ("libvpx-vp9", "mp4", {"options": QUICK}),
    "av1 mp4": ("libsvtav1", "mp4", {"options": QUICK_AV1, "draw": LARGER}),
    "av1 10 bits webm": ("libsvtav1", "webm", {"options": QUICK_AV1, "draw": LARGER, "pix_fmt": "yuv420p10le"}),
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
    "prores alpha mov": (
        "prores_ks",
        "mov",
        {"options": {"profile": "4444"}, "pix_fmt": "yuva444p10le", "draw": CLEAR},
    ),
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
    data = encode(codec, container, **{"count": COUNT, **particulars})
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
    with read_frames(encode(codec, container, **{"count": 1, **particulars}), SIZE) as reader:
        image = torch.from_numpy(next(reader).rgb).int()
    assert (image - torch.from_numpy(drawing(0)).int()).abs().float().mean() < 4


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_rotated(turn):
    data = turned(encode("libx264", "mp4", SOME_B_FRAMES, COUNT), turn)
    frames = open_frames(data, SIZE)
    with read_frames(data, SIZE) as reader:
        for frame in reader:
            assert torch.equal(frame.square, frames.pixels(frame.index))
            assert frame.rgb.shape == (frame.height, frame.width, 3)
            assert (frame.height, frame.width) == ((WIDTH, HEIGHT) if turn != 180 else (HEIGHT, WIDTH))
            assert number_in(torch.from_numpy(frame.rgb.copy()).rot90(turn // 90)) == frame.index
    assert frame.index == len(frames) - 1 == COUNT - 1


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
