"""Streams of frames: images, files, network addresses, cameras."""

import contextlib
import io
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from parity import random_image
from PIL import Image

from sam2fast.video_io import FrameReader, StreamFrame, VideoError, open_frames, read_frames

SIZE = 32
av = pytest.importorskip("av")

from numbered_videos import B_FRAMES, HEIGHT, WIDTH, drawing, encode, number_in  # noqa: E402  (needs PyAV)

COUNT = 20


@pytest.fixture(scope="module")
def video():
    return encode("libx264", "mp4", B_FRAMES, COUNT, muxing={"movflags": "faststart"})


def numbers_of(reader):
    with reader:
        return [number_in(frame.square) for frame in reader]


def make_images(count=4):
    return [random_image(48, 64, seed) for seed in range(count)]


def folder_of(images, path):
    for index, image in enumerate(images):
        Image.fromarray(image).save(path / f"{index}.png")
    return path


class TestImages:
    @pytest.mark.parametrize("kind", ["folder", "list", "array", "tensor", "iterator"])
    def test_same_bits_as_random_access(self, kind, tmp_path):
        images = make_images()
        source = {
            "folder": lambda: folder_of(images, tmp_path),
            "list": lambda: images,
            "array": lambda: np.stack(images),
            "tensor": lambda: torch.from_numpy(np.stack(images)),
            "iterator": lambda: iter(images),
        }[kind]
        frames = open_frames(source(), SIZE)
        with read_frames(source(), SIZE) as reader:
            assert (reader.height, reader.width, reader.rate) == (48, 64, None)
            assert reader.count == (None if kind == "iterator" else 4)
            for frame in reader:
                assert isinstance(frame, StreamFrame) and frame.time is None
                assert frame.square.shape == (SIZE, SIZE, 3) and frame.square.dtype == torch.uint8
                assert torch.equal(frame.square, frames.pixels(frame.index))
                assert np.array_equal(frame.rgb, images[frame.index])
        assert frame.index == len(frames) - 1 == 3 and frames.time(2) is None and frames.rate is None

    def test_an_iterator_is_read_one_image_at_a_time(self):
        asked = []

        def images():
            for index in range(10**9):
                asked.append(index)
                yield random_image(48, 64, index)

        reader = read_frames(images(), SIZE)
        assert asked == [0]
        for index in range(5):
            assert next(reader).index == index and asked == list(range(index + 1))

    def test_one_array_that_is_overwritten(self):
        """Frames that were returned do not change with it."""
        image = np.zeros((48, 64, 3), np.uint8)

        def images():
            for value in (10, 20, 30):
                image[:] = value
                yield image

        assert [int(frame.rgb[0, 0, 0]) for frame in list(read_frames(images(), SIZE))] == [10, 20, 30]

    def test_the_iterator_s_own_error(self):
        def images():
            yield random_image(48, 64)
            raise ZeroDivisionError

        reader = read_frames(images(), SIZE)
        next(reader)
        with pytest.raises(ZeroDivisionError):
            next(reader)
        assert list(reader) == []
        with pytest.raises(ZeroDivisionError):
            open_frames(images(), SIZE)


class TestFiles:
    def test_accepted_kinds(self, video, tmp_path):
        path = tmp_path / "a:b.with no known suffix"
        path.write_bytes(video)
        for source in (path, str(path), video, bytearray(video), memoryview(video), io.BytesIO(video)):
            reader, frames = read_frames(source, SIZE), open_frames(source, SIZE)
            assert isinstance(reader, FrameReader)
            assert (reader.height, reader.width, reader.rate, reader.count) == (HEIGHT, WIDTH, 25.0, COUNT)
            assert (frames.height, frames.width, frames.rate, len(frames)) == (HEIGHT, WIDTH, 25.0, COUNT)
            assert numbers_of(reader) == list(range(COUNT))
            assert [number_in(frames.pixels(index)) for index in (7, 19, 3)] == [7, 19, 3]

    def test_a_file_object_is_read_from_its_beginning_and_stays_open(self, video, tmp_path):
        (tmp_path / "video").write_bytes(video)
        with open(tmp_path / "video", "rb") as file:
            file.seek(1000)
            assert numbers_of(read_frames(file, SIZE)) == list(range(COUNT))
            frames = open_frames(file, SIZE)
            assert [number_in(frames.pixels(index)) for index in (15, 2)] == [15, 2]
            frames.close()
            assert not file.closed and file.read is not None

    def test_a_text_file_object(self):
        with pytest.raises(TypeError, match='mode "rb"'):
            read_frames(io.StringIO("video"), SIZE)

    def test_a_pipe(self):
        data = encode("libx264", "mpegts", B_FRAMES, COUNT)
        with _pipe(data) as file, pytest.raises(VideoError, match="cannot be rewound; use read_frames"):
            open_frames(file, SIZE)
        with _pipe(data) as file:
            assert numbers_of(read_frames(file, SIZE)) == list(range(COUNT))

    def test_closed(self, video, tmp_path):
        path = tmp_path / "video.mp4"
        path.write_bytes(video)
        reader = read_frames(path, SIZE)
        next(reader)
        assert _is_open(path) in (True, None)
        reader.close()
        reader.close()
        assert list(reader) == [] and not _is_open(path)
        reader = read_frames(path, SIZE)
        del reader
        assert not _is_open(path)
        reader = read_frames(path, SIZE)
        assert len(list(reader)) == COUNT and not _is_open(path)

    def test_nothing_is_read_ahead(self, tmp_path):
        """Opening a long file reads only its beginning."""
        noise = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
        data = encode("mjpeg", "matroska", {"qscale": "2"}, 400, pix_fmt="yuvj420p", draw=lambda number: noise)
        file = _Counting(data)
        reader = read_frames(file, SIZE)
        next(reader), next(reader)
        assert file.count < len(data) / 3
        reader.close()


class _Counting(io.BytesIO):
    count = 0

    def read(self, size=-1):
        data = super().read(size)
        self.count += len(data)
        return data


@contextlib.contextmanager
def _pipe(data):
    code = f"import sys; sys.stdout.buffer.write(bytes.fromhex('{data.hex()}'))"
    with subprocess.Popen([sys.executable, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(code.encode())
        process.stdin.close()
        yield process.stdout
        process.kill()


def _is_open(path):
    files = Path("/proc/self/fd")
    if not files.exists():
        return None
    return str(path) in [os.readlink(file) for file in files.iterdir() if file.is_symlink()]


@contextlib.contextmanager
def serving(path):
    server = Path(__file__).parents[1] / "support" / "video_server.py"
    with subprocess.Popen([sys.executable, str(server), str(path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


class TestAddresses:
    @pytest.fixture
    def address(self, video, tmp_path):
        (tmp_path / "video").write_bytes(video)
        with serving(tmp_path / "video") as address:
            yield address

    def test_a_video(self, video, address):
        reader = read_frames(f"{address}/video", SIZE)
        assert (reader.count, reader.rate) == (COUNT, 25.0)
        frames = open_frames(video, SIZE)
        squares = [frame.square for frame in reader]
        assert len(squares) == COUNT
        assert all(torch.equal(square, frames.pixels(index)) for index, square in enumerate(squares))
        with pytest.raises(VideoError, match=r"video can only be read forwards.*read_frames"):
            open_frames(f"{address}/video", SIZE)

    def test_a_connection_that_breaks(self, address):
        reader, seen = read_frames(f"{address}/most", SIZE), []
        with pytest.raises(VideoError, match=rf"/most: read \d+ of about {COUNT} frames; .*: Input/output error"):
            for frame in reader:
                seen.append(number_in(frame.square))
        assert 0 < len(seen) < COUNT and seen == sorted(set(seen))
        # FFmpeg 6 decodes one more frame, which is stored before the frame that is cut off and shown after it.
        assert seen[:-1] == list(range(len(seen) - 1))

    def test_endless(self, tmp_path):
        Image.fromarray(drawing(5)).save(tmp_path / "5.jpg")
        with serving(tmp_path / "5.jpg") as address:
            with read_frames(f"{address}/endless", SIZE) as reader:
                assert reader.count is None
                assert [number_in(next(reader).square) for _ in range(200)] == [5] * 200
            assert list(reader) == []
            with pytest.raises(VideoError, match="/cut: read 40 frames; the rest of the stream is damaged or missing"):
                for frame in read_frames(f"{address}/cut", SIZE):
                    last = frame.index
            assert last == 39

    def test_a_stream_that_stalls(self, tmp_path, monkeypatch):
        Image.fromarray(drawing(5)).save(tmp_path / "5.jpg")
        monkeypatch.setattr("sam2fast.video_io.containers.TIMEOUTS", (20.0, 0.5))
        ending = "frames; the rest of the stream is damaged or missing: no answer for 0.5 seconds or more"
        with serving(tmp_path / "5.jpg") as address, pytest.raises(VideoError, match=ending):
            list(read_frames(f"{address}/stalls", SIZE))

    def test_unreachable_addresses(self, address, monkeypatch):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            for source, word in (
                (f"http://127.0.0.1:{unused.getsockname()[1]}/video", "/video cannot be opened: Connection refused"),
                (f"{address}/nothing", "/nothing cannot be opened: .*404"),
                ("nonsense://video", "nonsense://video cannot be opened: Protocol not found"),
            ):
                with pytest.raises(VideoError, match=word):
                    read_frames(source, SIZE)
        monkeypatch.setattr("sam2fast.video_io.containers.TIMEOUTS", (0.2, 0.2))
        with pytest.raises(VideoError, match="/silent cannot be opened: no answer for 0.2 seconds"):
            read_frames(f"{address}/silent", SIZE)


class TestCameras:
    def test_refused(self):
        with pytest.raises(VideoError, match="no camera -1"):
            read_frames(-1, SIZE)
        with pytest.raises(TypeError, match=r"camera 0.*read_frames"):
            open_frames(0, SIZE)

    @pytest.mark.parametrize(
        ("system", "target", "form"),
        [
            ("Linux", "/dev/video1", "v4l2"),
            ("Darwin", "1", "avfoundation"),
            ("Windows", "video=Back", "dshow"),  # by their names
        ],
    )
    def test_opened_devices(self, system, target, form, monkeypatch, video):
        """The frames of a camera, which a file replaces here."""
        opened, original = [], av.open
        devices = [("Microphone", "audio"), ("Front", "video"), ("Back", "video")]
        devices = [SimpleNamespace(name=name, media_types=[kind]) for name, kind in devices]

        def open_file(file, mode, **options):
            opened.append((file, options["format"]))
            return original(io.BytesIO(video), mode)

        monkeypatch.setattr("platform.system", lambda: system)
        monkeypatch.setattr(av, "enumerate_input_devices", lambda form: devices, raising=False)
        monkeypatch.setattr(av, "open", open_file)
        assert numbers_of(read_frames(1, SIZE)) == list(range(COUNT))
        assert opened == [(target, form)]
        if system == "Windows":
            with pytest.raises(VideoError, match="no camera 2; found: Front, Back"):
                read_frames(2, SIZE)
