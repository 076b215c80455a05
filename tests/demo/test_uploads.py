"""What becomes of uploaded files, good ones and bad ones."""

import errno
import os
import time
import zlib
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
import track_films
from demo_client import DemoClient, Refusal
from PIL import Image

from sam2fast.demo.server import library, transcode
from sam2fast.demo.server.app import SERVICE


@pytest.fixture(scope="module")
def predictor(narrow_predictor):
    return narrow_predictor


def written(
    frames: list[np.ndarray], codec: str = "mpeg4", form: str = "mp4", rate: int = 30, pixels: str = "yuv420p"
) -> bytes:
    """A film of these frames."""
    file = BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        if codec == "mpeg4":
            stream.bit_rate = 4_000_000
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file.getvalue()


def ramp(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Grey frames that get brighter by 4 each."""
    return [np.full((height, width, 3), 20 + 4 * t, dtype=np.uint8) for t in range(count)]


def kept(app, video) -> tuple[list[np.ndarray], list[float]]:
    return track_films.decoded(app.extensions[SERVICE].library.root / video["path"])


def leftovers(app) -> list[str]:
    return os.listdir(app.extensions[SERVICE].library.incoming)


@pytest.fixture(autouse=True)
def nothing_is_left_behind(app):
    yield
    assert leftovers(app) == []


def test_an_upload_is_a_film_of_constant_rate(client, app):
    video = client.upload(written(ramp(30), rate=30))
    assert (video["width"], video["height"]) == (64, 48)
    frames, times = kept(app, video)
    assert times == pytest.approx([t / 24 for t in range(24)], abs=1e-4)
    # Each tick shows the source's frame of its time, to the nearest.
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


def test_an_upload_can_be_tracked_and_is_not_in_the_gallery(client):
    video = client.upload(written(track_films.pictures(6), rate=24))
    session = client.start(video["path"])
    client.add(session)
    assert len(client.track(session)) == 6
    client.close(session)
    edges = client.graphql("{videos{edges{node{path}}}}")["videos"]["edges"]
    assert video["path"] not in [edge["node"]["path"] for edge in edges]


def test_the_same_film_is_there_once(client, app):
    content = written(ramp(5), rate=24)
    paths = {client.upload(content)["path"] for _ in range(2)}
    assert len(paths) == 1


@pytest.mark.parametrize(
    ("variables", "first", "count"),
    [
        ({"start": 0.5}, 12, 12),
        ({"seconds": 0.25}, 0, 6),
        ({"start": 0.25, "seconds": 0.5}, 6, 12),
        ({"seconds": 99.0}, 0, 24),
        ({"start": 0.96}, 23, 1),
    ],
)
def test_a_part(client, app, variables, first, count):
    frames, _ = kept(app, client.upload(written(ramp(24), rate=24), **variables))
    assert len(frames) == count and float(frames[0].mean()) == pytest.approx(20 + 4 * first, abs=3)


def test_no_longer_than_allowed_and_by_its_own_rate(make_server):
    app = make_server(max_seconds=0.5, fps=None)
    frames, times = kept(app, DemoClient(app.test_client()).upload(written(ramp(30), rate=25)))
    assert times == pytest.approx([t / 25 for t in range(12)], abs=1e-4)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((2160, 3840), (720, 1280)),
        ((1920, 1080), (1280, 720)),
        ((1200, 1600), (720, 960)),
        ((480, 640), (480, 640)),
        ((10, 5000), (3, 1280)),
    ],
)
def test_sizes(size, expected):
    assert transcode.fitted_size(*size) == expected


def test_large_odd_and_turned(client, app, tmp_path):
    """A phone's film: stored lying, to be shown upright."""
    file = tmp_path / "lying.mp4"
    file.write_bytes(
        written(
            [np.tile(np.arange(0, 242, 2, dtype=np.uint8)[None, :, None], (91, 1, 3))] * 2,
            "mjpeg",
            "mov",
            24,
            "yuvj444p",
        )
    )  # noqa: E501
    video = client.upload(file.read_bytes())
    assert (video["width"], video["height"]) == (120, 90)

    turned = file.read_bytes()
    upright = bytes.fromhex("00010000" + "00000000" * 3 + "00010000" + "00000000" * 3 + "40000000")
    quarter = bytes.fromhex("00000000" + "00010000" + "00000000" + "ffff0000" + "00000000" * 4 + "40000000")
    at = turned.rindex(upright)  # the track's matrix; the movie's comes first
    video = client.upload(turned[:at] + quarter + turned[at + len(upright) :])
    assert (video["width"], video["height"]) == (90, 120)
    frames, _ = kept(app, video)
    assert abs(float(frames[0][10].mean()) - float(frames[0][110].mean())) > 100  # the ramp goes down, not across


def test_oldest_uploads_go_but_not_those_in_use(make_server, monkeypatch):
    monkeypatch.setattr(library, "UPLOADS_KEPT", 2)
    app = make_server()
    client, root = DemoClient(app.test_client()), app.extensions[SERVICE].library.root
    paths = []
    for number in range(4):
        paths.append(client.upload(written(ramp(1 + number), rate=24))["path"])
        os.utime(root / paths[-1], (number, number))
        if number == 0:
            client.start(paths[0])
    assert [path for path in paths if (root / path).exists()] == [paths[0], paths[2], paths[3]]
    assert set(app.extensions[SERVICE].library._known) == {paths[0], paths[2], paths[3]}
    assert not (root / paths[1].replace("uploads", "posters/uploads").replace(".mp4", ".jpg")).exists()


def test_a_poster_that_does_not_fit_is_none(tmp_path, monkeypatch):
    videos = library.Library(tmp_path)

    def half(picture, path, quality):
        assert path.parent == videos.incoming  # where what a killed server leaves is removed
        path.write_bytes(b"\xff\xd8")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(library, "write_jpeg", half)
    assert not videos._write_poster(tmp_path / "posters" / "a.jpg", Image.new("RGB", (8, 8)))
    assert not list((tmp_path / "posters").iterdir()) and not list(videos.incoming.iterdir())


def test_what_a_killed_server_left_is_removed(tmp_path):
    library.Library(tmp_path)
    for name, age in (("old.part", 2 * library.SECONDS_TO_COME_IN), ("new.part", 0)):
        file = tmp_path / library.INCOMING / name
        file.touch()
        os.utime(file, (time.time() - age, time.time() - age))
    folder = tmp_path / library.INCOMING / "drawn"
    folder.mkdir()
    (folder / "film.mp4").touch()
    os.utime(folder, (0, 0))
    assert [path.name for path in library.Library(tmp_path).incoming.iterdir()] == ["new.part"]


def test_what_another_server_takes_away_meanwhile(tmp_path, monkeypatch):
    """Its posters pass through the folder at any time."""
    library.Library(tmp_path)
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / library.INCOMING / name).touch()
        os.utime(tmp_path / library.INCOMING / name, (0, 0))
    original = Path.iterdir

    def iterdir(self):
        for path in list(original(self)):
            if path.name == "a.jpg":
                path.unlink()
            yield path

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert not os.listdir(library.Library(tmp_path).incoming)


def png(width: int, height: int) -> bytes:
    """A picture that is small as a file however large it is, without ever holding its pixels."""
    chunks = b""
    rows = zlib.compress(bytes(1 + width // 8) * min(height, 64))
    for name, data in (
        (b"IHDR", width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])),
        (b"IDAT", rows),
        (b"IEND", b""),
    ):
        chunks += len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n" + chunks


def growing(small: tuple[int, int], large: tuple[int, int]) -> bytes:
    """A film that states the size (height, width) of its first frame, and whose second frame has another."""
    packets = []
    for size in (small, large):
        with av.open(BytesIO(written(ramp(1, *size), "mjpeg", "mov", 24, "yuvj444p"))) as container:
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
    ("content", "told"),
    [
        (b"", "cannot be read as a video"),
        (b"hello", "cannot be read as a video"),
        (b"hello, this is text", "none of MP4, QuickTime, Matroska and WebM"),
        (png(64, 64), "none of MP4"),
        (PLAYLIST, "none of MP4"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "none of MP4"),
        (b"\0\0\0\x20ftypisom" + bytes(300), "cannot be read as a video"),
        (b"\0\0\0\x10ftypisom\0\0\0\0" + PLAYLIST, "cannot be read as a video"),
        (b"\x1a\x45\xdf\xa3" + bytes(300), "cannot be read as a video"),
    ],
    ids=["empty", "short", "text", "picture", "playlist", "concat", "no boxes", "playlist in disguise", "no ebml"],
)
def test_no_videos(client, content, told):
    refused = client.upload(content)
    assert isinstance(refused, Refusal) and refused.code == "BAD_VIDEO" and told in refused.message


def test_wrong_codec(client):
    refused = client.upload(written(ramp(2), "ffv1", "matroska"))
    assert refused.code == "BAD_VIDEO" and "encoded as ffv1; accepted are h264" in refused.message


def test_sound_alone(client):
    file = BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), dtype=np.float32), format="fltp", layout="stereo")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert "holds no video, only audio" in client.upload(file.getvalue()).message


def test_frames_of_enormous_size(client, monkeypatch):
    monkeypatch.setattr(transcode, "MOST_PIXELS", 64 * 48)
    refused = client.upload(written(ramp(2, 50, 64)))
    assert refused.code == "BAD_VIDEO" and "more than 3072 pixels" in refused.message
    # What no header states: the decoder does not even make such a frame, or its size would be told here.
    refused = client.upload(growing((48, 64), (96, 128)))
    assert refused.code == "BAD_VIDEO" and "frame 1 of the file cannot be decoded" in refused.message


def test_reading_that_takes_too_long(client, monkeypatch):
    monkeypatch.setattr(transcode, "SECONDS_TO_SPEND", -1.0)
    assert "takes too long" in client.upload(written(ramp(3))).message


def test_files_that_are_too_large_are_refused_as_they_come(make_server):
    app = make_server(max_upload_megabytes=1)
    client = DemoClient(app.test_client())
    film = written(ramp(2))
    refused = client.upload(film + bytes((1 << 20) + 1 - len(film)))
    assert refused == Refusal(413, "TOO_LARGE", "the file is larger than 1 MB")
    assert leftovers(app) == []
    assert client.upload(film)["width"] == 64


def test_a_huge_declared_length_is_refused_before_anything_is_read(make_server):
    class Never:
        def read(self, *_: object) -> bytes:
            raise AssertionError("it was read")

        readline = readlines = read

    http = make_server(max_upload_megabytes=1).test_client()
    for kind in ("multipart/form-data; boundary=x", "application/json"):
        environ = {"CONTENT_LENGTH": str(10**12), "CONTENT_TYPE": kind, "wsgi.input": Never()}
        answer = http.post("/graphql", environ_overrides=environ)
        (error,) = answer.get_json()["errors"]
        assert answer.status_code == 413 and error["extensions"]["code"] == "TOO_LARGE"


def test_times_that_are_none(client):
    film = written(ramp(3))
    for variables, told in (
        ({"start": -1}, "startTimeSec is -1.0; expected 0 to 1,000,000 seconds"),
        ({"seconds": 0}, "durationTimeSec is 0.0; expected more than 0 seconds"),
        ({"start": 5}, "no frame after 5 seconds"),
        ({"start": 1e308}, "startTimeSec is 1e+308; expected"),
    ):
        assert told in client.upload(film, **variables).message


def test_requests_without_their_file(client):
    form = {"operations": '{"query": "mutation($file:Upload!){uploadVideo(file:$file){path}}"}', "map": "{}"}
    answer = client.http.post("/graphql", data=form, content_type="multipart/form-data")
    assert "errors" in answer.get_json()
    refused = client.graphql("mutation($file:Upload!){uploadVideo(file:$file){path}}", file="/etc/passwd")
    assert "file is no uploaded file" in refused.message


def test_one_file_at_a_time(client):
    form = {
        "operations": '{"query": "{defaultVideo{path}}"}', "map": "{}",
        "a": (BytesIO(written(ramp(1))), "a.mp4"), "b": (BytesIO(written(ramp(1))), "b.mp4"),
    }  # fmt: skip
    answer = client.http.post("/graphql", data=form, content_type="multipart/form-data")
    assert "more than one file" in answer.get_json()["errors"][0]["message"]


def test_rates_are_bounded():
    class Reader:
        rate = 1000.0

    assert transcode._own_rate(Reader()) == Fraction(30)  # type: ignore[arg-type]


def test_names_of_files_do_not_count(client, app):
    video = client.upload(written(ramp(2)), name="../../../etc/x.mp4")
    assert Path(video["path"]).parent == Path("uploads") and len(Path(video["path"]).stem) == 64
