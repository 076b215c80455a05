"""Transcoding of uploads, refusal of bad ones, and the library's files."""

import errno
import os
import time
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import moving_shapes
import numbered_videos
import numpy as np
import pytest
import torch
from demo_client import DemoClient, Refusal
from tones import sound_of, write_with_sound

from sam2fast.demo.server import exports, library, transcode, uploads
from sam2fast.demo.server.app import SERVICE
from sam2fast.demo.server.demo_errors import NotFoundError
from sam2fast.video_io import read_frames
from sam2fast.video_io.decoding import Orientation


def encode(
    frames: list[np.ndarray], codec: str = "mpeg4", form: str = "mp4", rate: int = 30, pixels: str = "yuv420p"
) -> bytes:
    """A video of these frames."""
    options = {"b": "4000000"} if codec == "mpeg4" else {}
    return numbered_videos.encode(
        codec, form, options, len(frames), pix_fmt=pixels, draw=lambda number: frames[number], rate=rate
    )


def ramp(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Grey frames that get brighter by 4 each."""
    return [np.full((height, width, 3), 20 + 4 * t, dtype=np.uint8) for t in range(count)]


def short() -> bytes:
    return encode(ramp(3))


def decode_upload(app, video) -> tuple[list[np.ndarray], list[float]]:
    return moving_shapes.decoded(app.extensions[SERVICE].library.root / video["path"])


def leftovers(app) -> list[str]:
    return os.listdir(app.extensions[SERVICE].library.incoming)


@pytest.fixture(autouse=True)
def no_temporary_files_remain(app):
    yield
    assert leftovers(app) == []


def test_an_upload_becomes_a_video_of_constant_rate(client, app):
    video = client.upload(encode(ramp(30), rate=30))
    assert (video["width"], video["height"]) == (64, 48)
    frames, times = decode_upload(app, video)
    assert times == pytest.approx([t / 24 for t in range(24)], abs=1e-4)
    # Each tick shows the source frame with the nearest time.
    grey = [float(frame.mean()) for frame in frames]
    expected = [20 + 4 * (t * 30 / 24) for t in range(24)]
    assert grey == pytest.approx(expected, abs=6)
    root = app.extensions[SERVICE].library.root
    with av.open(str(root / video["path"])) as container:
        (stream,) = container.streams
        assert stream.codec_context.name == "h264" and stream.pix_fmt == "yuv420p"
        assert stream.average_rate == 24 and not stream.codec_context.has_b_frames
        keyframes = [number for number, packet in enumerate(container.demux(stream)) if packet.is_keyframe]
    assert keyframes[0] == 0 and max(np.diff([*keyframes, 24])) <= 12
    content = (root / video["path"]).read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    assert (root / video["posterPath"]).read_bytes()[:2] == b"\xff\xd8"
    assert client.http.get(video["url"]).data == content
    # A repeated upload is stored once, whatever the file is called.
    assert client.upload(encode(ramp(30), rate=30), name="../../../etc/x.mp4") == video
    edges = client.graphql("{videos{edges{node{path}}}}")["videos"]["edges"]
    assert video["path"] not in [edge["node"]["path"] for edge in edges]
    assert Path(video["path"]).parent == Path("uploads") and len(Path(video["path"]).stem) == 64


def test_frames_of_other_numbers_than_the_sources_are_counted(make_server):
    """A source of variable rate is made constant; its session says so."""
    own_rate = DemoClient(make_server(fps=None).test_client())
    times = [0, 1, 2, 3, 10, 11, 12, 13, 14, 15]
    uneven = numbered_videos.encode("h264", "mp4", {}, len(times), times=times, rate=30)
    numberings = []
    for content in (uneven, encode(ramp(30), rate=30)):
        session = own_rate.start(own_rate.upload(content)["path"])
        numberings.append(own_rate.facts(session)["numbering"])
        own_rate.close(session)
    assert numberings[0]["repeated"] + numberings[0]["dropped"] > 0 and numberings[1] is None
    fewer = DemoClient(make_server(fps=24).test_client())
    session = fewer.start(fewer.upload(encode(ramp(30), rate=30))["path"])
    assert fewer.facts(session)["numbering"] == {"repeated": 0, "dropped": 6}
    fewer.close(session)


@pytest.mark.parametrize("place", ["arriving", "storing"])
def test_a_full_disk(client, monkeypatch, place):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/secret/file")

    if place == "arriving":
        monkeypatch.setattr(uploads.IncomingFile, "write", fail)
    else:
        monkeypatch.setattr(uploads, "transcode", fail)
    refused = client.upload(short())
    assert (refused.status, refused.code) == ({"arriving": 507, "storing": 200}[place], "DISK_FULL")
    assert "disk of the server is full" in refused.message and "/" not in refused.message


def test_a_full_disk_while_a_file_is_made(client, session, monkeypatch):
    client.add(session)

    def fail(*_):
        raise NotFoundError("no room in /secret") from OSError(errno.EDQUOT, "quota", "/secret/file")

    monkeypatch.setattr(exports, "export", fail)
    answer = client.http.get(f"/api/sessions/{session}/export?format=masks_png")
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"]) == (507, "DISK_FULL") and "secret" not in error["message"]


@pytest.mark.parametrize(
    ("variables", "first", "count"),
    [({"start": 0.5}, 12, 12), ({"start": 0.25, "seconds": 0.5}, 6, 12), ({"start": 0.96}, 23, 1)],
)
def test_a_part(client, app, variables, first, count):
    frames, _ = decode_upload(app, client.upload(encode(ramp(24), rate=24), **variables))
    assert len(frames) == count and float(frames[0].mean()) == pytest.approx(20 + 4 * first, abs=3)


def test_an_upload_has_square_pixels(client, app, tmp_path):
    source = write_with_sound(tmp_path / "wide.mp4", pixel_aspect=2)
    video = client.upload(source.read_bytes())
    assert (video["width"], video["height"]) == (128, 48)
    with read_frames(app.extensions[SERVICE].library.root / video["path"], 32) as reader:
        assert reader.pixel_aspect == 1


def test_uploads_are_cut_and_keep_their_sound_and_rate(make_server, tmp_path):
    app = make_server(fps=None, max_seconds=0.6)
    video = DemoClient(app.test_client()).upload(write_with_sound(tmp_path / "up.mp4").read_bytes())
    seconds, pitch = sound_of(app.extensions[SERVICE].library.root / video["path"])
    assert seconds == pytest.approx(0.6, abs=0.1) and pitch == pytest.approx(440, abs=5)
    assert decode_upload(app, video)[1] == pytest.approx([t / 25 for t in range(15)], abs=1e-4)


@pytest.mark.parametrize("orientation", [Orientation(False, True, False), Orientation(True, False, False)])
def test_a_mirrored_upload_is_upright(client, app, orientation):
    data = numbered_videos.with_matrix(numbered_videos.encode("libx264", "mp4", count=3), orientation)
    frames, _ = decode_upload(app, client.upload(data))
    for number, frame in enumerate(frames):
        expected = numbered_videos.oriented(numbered_videos.drawing(number), orientation)
        assert frame.shape == expected.shape and np.abs(frame.astype(int) - expected).mean() < 6


def test_an_upload_without_times_keeps_its_frames(client, app):
    """All of its timestamps are zero: the stated rate counts."""

    def at_zero(position, packet):
        packet.pts = packet.dts = 0

    data = numbered_videos.encode("libx264", "mp4", {"bf": "0"}, 12, edit=at_zero, rate=24)
    frames, times = decode_upload(app, client.upload(data))
    assert [numbered_videos.number_in(torch.from_numpy(frame)) for frame in frames] == list(range(12))
    assert times == pytest.approx([t / 24 for t in range(12)], abs=1e-4)


def test_sizes():
    sizes = {(2160, 3840): (720, 1280), (1200, 1600): (720, 960), (10, 5000): (3, 1280)}
    assert {size: transcode.fitted_size(*size) for size in sizes} == sizes


def test_large_odd_and_rotated(client, app):
    """A video of a phone, stored rotated."""
    ramp_across = np.tile(np.arange(0, 242, 2, dtype=np.uint8)[None, :, None], (91, 1, 3))
    lying = encode([ramp_across] * 2, "mjpeg", "mov", 24, "yuvj444p")
    video = client.upload(lying)
    assert (video["width"], video["height"]) == (120, 90)

    upright = bytes.fromhex("00010000" + "00000000" * 3 + "00010000" + "00000000" * 3 + "40000000")
    quarter = bytes.fromhex("00000000" + "00010000" + "00000000" + "ffff0000" + "00000000" * 4 + "40000000")
    at = lying.rindex(upright)  # the track's matrix; the movie's comes first
    video = client.upload(lying[:at] + quarter + lying[at + len(upright) :])
    assert (video["width"], video["height"]) == (90, 120)
    frames, _ = decode_upload(app, video)
    assert abs(float(frames[0][10].mean()) - float(frames[0][110].mean())) > 100  # the ramp goes down, not across


def test_oldest_unused_uploads_are_deleted(make_server, monkeypatch):
    monkeypatch.setattr(library, "MAX_UPLOADS", 2)
    app = make_server()
    client, root = DemoClient(app.test_client()), app.extensions[SERVICE].library.root
    paths = []
    for number in range(4):
        paths.append(client.upload(encode(ramp(1 + number), rate=24))["path"])
        os.utime(root / paths[-1], (number, number))
        if number == 0:
            client.start(paths[0])
    assert [path for path in paths if (root / path).exists()] == [paths[0], paths[2], paths[3]]
    assert set(app.extensions[SERVICE].library._descriptions) == {paths[0], paths[2], paths[3]}
    assert not (root / paths[1].replace("uploads", "posters/uploads").replace(".mp4", ".jpg")).exists()


def test_leftovers_of_a_killed_server_are_removed(tmp_path):
    library.Library(tmp_path)
    for name, age in (("old.part", 2 * library.STALE_SECONDS), ("new.part", 0)):
        file = tmp_path / library.INCOMING / name
        file.touch()
        os.utime(file, (time.time() - age, time.time() - age))
    folder = tmp_path / library.INCOMING / "drawn"
    folder.mkdir()
    (folder / "clip.mp4").touch()
    os.utime(folder, (0, 0))
    assert [path.name for path in library.Library(tmp_path).incoming.iterdir()] == ["new.part"]


def growing(small: tuple[int, int], large: tuple[int, int]) -> bytes:
    """A video whose header has the size (height, width) of the first frame; the second frame has another size."""
    packets = []
    for size in (small, large):
        with av.open(BytesIO(encode(ramp(1, *size), "mjpeg", "mov", 24, "yuvj444p"))) as container:
            packets.append(bytes(next(container.demux(video=0))))
    file = BytesIO()
    with av.open(file, "w", format="mov") as container:
        stream = container.add_stream("mjpeg", rate=24)
        stream.height, stream.width, stream.pix_fmt = *small, "yuvj444p"
        for time, content in enumerate(packets):
            packet = av.Packet(content)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, time, time, Fraction(1, 24)
            container.mux(packet)
    return file.getvalue()


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("content", "variables", "code", "word"),
    [
        (b"hello, this is text", {}, "BAD_VIDEO", "not MP4, QuickTime, Matroska or WebM"),
        (PLAYLIST, {}, "BAD_VIDEO", "not MP4"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(300), {}, "BAD_PHOTO", "photograph"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", {}, "BAD_VIDEO", "not MP4"),
        (b"\0\0\0\x10ftypisom\0\0\0\0" + PLAYLIST, {}, "BAD_VIDEO", "cannot be read as a video"),
        (b"\x1a\x45\xdf\xa3" + bytes(300), {}, "BAD_VIDEO", "cannot be read as a video"),
        (lambda: encode(ramp(2), "ffv1", "matroska"), {}, "BAD_VIDEO", "ffv1; accepted are h264"),
        (numbered_videos.sound_alone, {}, "BAD_VIDEO", "no video"),
        (short, {"start": -1}, "BAD_INPUT", "startTimeSec is -1.0"),
        (short, {"start": 1e308}, "BAD_INPUT", "startTimeSec is 1e+308"),
        (short, {"seconds": 0}, "BAD_INPUT", "durationTimeSec is 0.0"),
        (short, {"start": 5}, "BAD_VIDEO", "no frame after 5 seconds"),
    ],
    ids=range(12),
)
def test_refused_uploads(client, content, variables, code, word):
    refused = client.upload(content() if callable(content) else content, **variables)
    assert isinstance(refused, Refusal) and refused.code == code and word in refused.message


def test_frames_of_enormous_size(client, monkeypatch):
    monkeypatch.setattr(transcode, "MAX_PIXELS", 64 * 48)
    # No header states the size of the second one: the decoder refuses the frame.
    for content, word in ((encode(ramp(2, 50, 64)), "3072 pixels"), (growing((48, 64), (96, 128)), "frame 1")):
        refused = client.upload(content)
        assert refused.code == "BAD_VIDEO" and word in refused.message


def test_reading_that_takes_too_long(client, monkeypatch):
    monkeypatch.setattr(transcode, "MIN_DECODING_SECONDS", -1.0)
    monkeypatch.setattr(transcode, "DECODING_SECONDS", -1.0)
    assert "takes too long" in client.upload(short()).message


def test_files_that_are_too_large_are_refused_while_they_arrive(make_server):
    app = make_server(max_upload_megabytes=1)
    client = DemoClient(app.test_client())
    content = encode(ramp(2))
    refused = client.upload(content + bytes((1 << 20) + 1 - len(content)))
    assert refused == Refusal(413, "TOO_LARGE", "the file is larger than 1 MB")
    assert leftovers(app) == []
    assert client.upload(content)["width"] == 64


def test_a_huge_declared_length_is_refused_before_reading(make_server):
    class Unreadable:
        def read(self, *_: object) -> bytes:
            raise AssertionError("the body was read")

        readline = readlines = read

    http = make_server(max_upload_megabytes=1).test_client()
    for kind in ("multipart/form-data; boundary=x", "application/json"):
        environ = {"CONTENT_LENGTH": str(10**12), "CONTENT_TYPE": kind, "wsgi.input": Unreadable()}
        answer = http.post("/graphql", environ_overrides=environ)
        (error,) = answer.get_json()["errors"]
        assert answer.status_code == 413 and error["extensions"]["code"] == "TOO_LARGE"


def test_requests_without_their_file(client):
    form = {"operations": '{"query": "mutation($file:Upload!){uploadVideo(file:$file){path}}"}', "map": "{}"}
    answer = client.http.post("/graphql", data=form, content_type="multipart/form-data")
    assert "errors" in answer.get_json()
    refused = client.graphql("mutation($file:Upload!){uploadVideo(file:$file){path}}", file="/etc/passwd")
    assert "file is not an uploaded file" in refused.message


def test_one_file_at_a_time(client):
    form = {
        "operations": '{"query": "{defaultVideo{path}}"}', "map": "{}",
        "a": (BytesIO(encode(ramp(1))), "a.mp4"), "b": (BytesIO(encode(ramp(1))), "b.mp4"),
    }  # fmt: skip
    answer = client.http.post("/graphql", data=form, content_type="multipart/form-data")
    assert "more than one file" in answer.get_json()["errors"][0]["message"]
