"""Truncated and damaged videos: everything readable is read, and one clear error describes the damage."""

import functools
import io
import random
import re

import pytest
import torch
from parity import random_image
from PIL import Image

from sam2fast.video_io import VideoError, open_frames, read_frames

av = pytest.importorskip("av")

from numbered_videos import (  # noqa: E402  (after the question whether there is PyAV)
    B_FRAMES,
    Silence,
    assert_both_refuse,
    drawing_of,
    encode,
    number_in,
    read_both_ways,
    shown_earlier,
)

SIZE, COUNT = 32, 75
INDEX_FIRST, FRAGMENTS = {"movflags": "faststart"}, {"movflags": "frag_keyframe+empty_moov"}
QUICK = {"deadline": "realtime", "cpu-used": "8"}
UNEVEN = [*range(0, 40, 3), *range(40, 60), 90, 91, 120, 240]

FILES = {
    "mp4": lambda: encode("libx264", "mp4", B_FRAMES, muxing=INDEX_FIRST),
    "mp4, long sound": lambda: encode("libx264", "mp4", B_FRAMES, muxing=INDEX_FIRST, sound=9.0),
    "edit list": lambda: encode("libx264", "mp4", B_FRAMES, muxing=INDEX_FIRST, edit=shown_earlier(17)),
    "mp4, uneven": lambda: encode("libx264", "mp4", B_FRAMES, muxing=INDEX_FIRST, times=UNEVEN),
    "fragments": lambda: encode("libx264", "mp4", B_FRAMES, muxing=FRAGMENTS),
    "mkv": lambda: encode("libx264", "matroska", B_FRAMES),
    "mkv, sound": lambda: encode("libx264", "matroska", B_FRAMES, sound=3.0),
    "mkv, long sound": lambda: encode("libx264", "matroska", B_FRAMES, sound=9.0),
    "webm": lambda: encode("libvpx", "webm", QUICK),
    "avi": lambda: encode("libx264", "avi", B_FRAMES),
    "flv": lambda: encode("libx264", "flv"),
}


@functools.cache
def file(name):
    return FILES[name]()


def first_share(data, share):
    return data[: int(len(data) * share)]


def numbers_and_end(data):
    """Numbers of the frames, and the message about the end."""
    found = read_both_ways(data, SIZE, exact=False)
    return found.numbers, found.end


class TestCutOff:
    @pytest.mark.parametrize("share", [0.9, 0.75])
    @pytest.mark.parametrize(
        ("name", "stated"),
        [
            ("mp4", 75),
            ("edit list", 58),
            ("mp4, uneven", len(UNEVEN)),
            ("fragments", r"\d+"),
            ("mkv", 75),
            ("mkv, sound", 75),
            ("mkv, long sound", 75),
            ("webm", 75),
            ("avi", 75),
            ("flv", None),
        ],
    )
    def test_missing_frames_are_reported(self, name, stated, share):
        whole, _ = numbers_and_end(file(name))
        numbers, end = numbers_and_end(first_share(file(name), share))
        count = len(numbers)
        assert 0 < count <= len(whole) and numbers == sorted(set(numbers))
        if count < len(whole):
            of = f" of about {stated}" if stated else ""
            assert re.match(rf"the video of \d+ bytes: read {count}{of} frames; the rest", end)
        else:
            assert end is None  # only the index is missing

    @pytest.mark.parametrize("name", ["mp4, long sound", "mkv, long sound"])
    def test_missing_audio_is_ignored(self, name):
        numbers, end = numbers_and_end(first_share(file(name), 0.97))
        assert numbers == list(range(COUNT)) and end is None

    def test_a_recording_without_a_size(self):
        data = file("mkv")
        size = data.index(b"\x18\x53\x80\x67") + 4
        endless = data[:size] + b"\x01" + b"\xff" * 7 + data[size + 8 :]
        assert numbers_and_end(endless) == (list(range(COUNT)), None)
        _, end = numbers_and_end(endless[: len(data) // 2])
        assert "of about 75 frames" in end


def damaged(data, which, filler=None):
    """The same file with one packet overwritten by noise or by a constant."""
    with av.open(io.BytesIO(data)) as container:
        packet = bytes([packet for packet in container.demux(video=0) if packet.size][which])
    assert data.count(packet) == 1
    noise = random.Random(0).randbytes(len(packet)) if filler is None else bytes([filler]) * len(packet)
    return data.replace(packet, noise)


def without_the_first(position, packet):
    return position >= 5


class TestDamagedAmid:
    @pytest.mark.parametrize("which", [20, -1])
    @pytest.mark.parametrize(
        ("codec", "container", "options"),
        [
            ("libx264", "mp4", {"x264-params": "keyint=1"}),
            ("libx264", "matroska", B_FRAMES),
            ("libvpx-vp9", "webm", QUICK),
            ("mpeg4", "mp4", {}),
            ("ffv1", "matroska", {}),
        ],
        ids=str,
    )
    def test_frames_before_the_damage_and_the_error_at_it(self, codec, container, options, which):
        undamaged = encode(codec, container, options, 40)
        data = damaged(undamaged, which)
        frames, whole = open_frames(data, SIZE), open_frames(undamaged, SIZE)
        assert len(frames) == 40 and frames.truncated is None
        bad, reader = 0, read_frames(data, SIZE)
        with pytest.raises(VideoError) as raised:
            for bad, frame in enumerate(reader, start=1):
                assert frame.index == bad - 1
                # libavcodec's concealment of the damage is not deterministic.
                assert frame.index >= 18 or torch.equal(frame.square, frames.pixels(frame.index))
        message = str(raised.value)
        assert re.fullmatch(rf"frame {bad} of the video of \d+ bytes cannot be decoded; it is damaged there", message)
        assert list(reader) == [] and bad >= 18
        for index in range(bad):
            assert which == 20 and index >= 18 or torch.equal(frames.pixels(index), whole.pixels(index))
        for _ in range(2):
            with pytest.raises(VideoError, match=re.escape(message)):
                frames.pixels(bad)
        if which == 20:
            assert torch.equal(frames.pixels(39), whole.pixels(39))

    def test_unknown_number_of_frames(self, caplog):
        """They are left out, and a warning is logged."""
        data = damaged(encode("mjpeg", "avi", pix_fmt="yuvj420p", count=20), 10, filler=0)
        numbers, end = numbers_and_end(data)
        assert numbers == [*range(10), *range(11, 20)] and end is None
        assert len(caplog.messages) == 2
        assert all("bytes: 1 of its packets cannot be decoded" in message for message in caplog.messages)

    @pytest.mark.parametrize("which", [20, -1])
    @pytest.mark.parametrize(
        ("codec", "container", "options", "edit"),
        [
            ("libx264", "avi", B_FRAMES, None),
            ("libx264", "mp4", B_FRAMES, without_the_first),
            ("libvpx", "webm", QUICK, None),
        ],
        ids=["h264 avi", "no keyframe at first", "vp8"],
    )
    def test_random_access_and_streaming_agree(self, codec, container, options, edit, which):
        numbers, end = numbers_and_end(damaged(encode(codec, container, options, 40, edit=edit), which))
        assert len(numbers) > 25 and end is None

    @pytest.mark.parametrize("container", ["mpegts", "h264"])
    def test_another_frame_size(self, container):
        parts = [encode("libx264", container, B_FRAMES, 12, draw=drawing_of(*size)) for size in ((64, 48), (96, 64))]
        data = b"".join(parts)
        frames, reader = open_frames(data, SIZE), read_frames(data, SIZE)
        assert (frames.height, frames.width) == (48, 64) and len(frames) == 24
        for index in range(12):
            assert number_in(frames.pixels(index)) == number_in(next(reader).square) == index
        for read in (lambda: frames.pixels(12), lambda: next(reader), lambda: frames.pixels(20)):
            with pytest.raises(VideoError, match=r"frame (12|20) is 96x64 pixels, but the video is 64x48"):
                read()
        assert number_in(frames.pixels(11)) == 11 and list(reader) == []


def image_file(form):
    file = io.BytesIO()
    Image.fromarray(random_image(48, 64)).save(file, form)
    return file.getvalue()


def cover_and_sound():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        silence, cover = Silence(container, 1.0), container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 48, 64, "yuvj420p"
        cover.disposition = 0x400  # a cover
        image = av.VideoFrame.from_ndarray(random_image(48, 64), format="rgb24")
        image.pts = 0
        container.mux([*cover.encode(image), *cover.encode(None)])
        silence.up_to(1.0)
    return file.getvalue()


def without_keyframes():
    return encode("libx264", "mp4", count=10, edit=lambda position, packet: not packet.is_keyframe)


def without_packets():
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        container.start_encoding()
    return file.getvalue()


NOT_A_VIDEO, NOTHING = "cannot be read as a video", "no frame of .* can be decoded|cannot be read"
REFUSED = {
    **{
        form: (lambda form=form: image_file(form), "is a single image")
        for form in ("PNG", "JPEG", "WebP", "BMP", "TIFF")
    },
    "empty": (lambda: b"", f"{NOT_A_VIDEO}: it is an empty file: copy or download it again"),
    "PDF": (lambda: image_file("PDF"), f"{NOT_A_VIDEO}: it is a PDF or PostScript document: export its image"),
    "web page": (lambda: b"<!DOCTYPE html><html>", f"{NOT_A_VIDEO}: it is a web page: download"),
    "a word": (lambda: b"no video", NOT_A_VIDEO),
    "zeros": (lambda: bytes(5000), NOT_A_VIDEO),
    "cover and sound": (cover_and_sound, "only a cover image, audio"),
    "no frames": (lambda: encode("libx264", "matroska", count=0), NOTHING),
    "no frames avi": (lambda: encode("mpeg4", "avi", count=0), NOTHING),
    "no tracks": (without_packets, "has no frames$"),
    "without keyframes": (without_keyframes, "no frame of .* can be decoded"),
    "without its index": (lambda: first_share(encode("libx264", "mp4", B_FRAMES), 0.5), "incomplete"),
    **{
        f"a quarter of {name}": (lambda name=name: first_share(file(name), 0.25), NOTHING)
        for name in ("mp4", "mkv", "avi")
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name, tmp_path):
    content, word = REFUSED[name][0](), REFUSED[name][1]
    path = tmp_path / "video"
    path.write_bytes(content)
    for source in (lambda: path, lambda: content, lambda: io.BytesIO(content)):
        assert_both_refuse(source, VideoError, word)


def test_a_text_file_is_refused(tmp_path):
    """By its name."""
    (tmp_path / "notes.txt").write_text("frames: none\n" * 100)
    assert_both_refuse(lambda: tmp_path / "notes.txt", VideoError, "is text, not a video")
