"""Folders of images and images in memory, by random access and as streams; folders compared with the official code."""

import logging
import os
import pickle
import random
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import oracle  # noqa: F401  (makes the official package importable)
import pytest
import torch
from numbered_videos import assert_both_refuse
from parity import random_image
from PIL import Image, ImageFile
from sam2.utils.misc import load_video_frames

from sam2fast.video_io import NoFramesError, VideoError, open_frames, read_frames, sources
from sam2fast.video_io.sources import frame_files

SIZE = 48
# In numerical order, not in string order.
NAMES = ["0.jpg", "2.jpeg", "10.JPG", "011.JPEG", "100.jpg"]


@pytest.fixture
def folder(tmp_path):
    for seed, name in enumerate(NAMES):
        Image.fromarray(random_image(64, 80, seed)).save(tmp_path / name, "JPEG")
    (tmp_path / "notes.txt").write_text("no frame")
    Image.fromarray(random_image(20, 20)).save(tmp_path / "5.png")
    Image.fromarray(random_image(20, 20)).save(tmp_path / "6.Jpg", "JPEG")
    return tmp_path


@pytest.fixture
def numbered(tmp_path):
    """Writes files in any order; each image is filled with its index in ``names``."""

    def write(names):
        for place, name in random.Random(0).sample(list(enumerate(names)), len(names)):
            image = Image.fromarray(np.full((8, 8, 3), place, np.uint8))
            forms = {".jp": "JPEG", ".pn": "PNG", ".we": "WebP", ".ti": "TIFF", ".bm": "BMP"}
            form = forms[os.path.splitext(name)[1][:3].lower()]
            image.save(tmp_path / name, form, **({"lossless": True} if form == "WebP" else {}))
        return tmp_path

    return write


def official(folder):
    return load_video_frames(str(folder), SIZE, offload_video_to_cpu=True, compute_device=torch.device("cpu"))


def assert_damaged(source, index, error, message):
    """One frame cannot be read: the others can at random, and a stream ends there."""
    frames, reader = open_frames(source(), SIZE), read_frames(source(), SIZE)
    for _ in range(2):
        with pytest.raises(error, match=message):
            frames[index]
    for other in {0, index - 1, index + 1}:
        assert frames[other].shape == (3, SIZE, SIZE)
    for before in range(index):
        assert torch.equal(next(reader).square, frames.pixels(before))
    with pytest.raises(error, match=message):
        next(reader)
    assert list(reader) == []


class TestFolder:
    def test_equals_the_official_one(self, folder):
        """Also other contents than colour JPEG, and an EXIF orientation, which both ignore."""
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(random_image(64, 80)).save(folder / "200.jpg", exif=exif)
        Image.fromarray(random_image(64, 80)[..., 0]).save(folder / "201.jpg")
        Image.fromarray(random_image(64, 80)).save(folder / "202.jpg", "PNG")
        Image.fromarray(random_image(64, 80)).convert("CMYK").save(folder / "203.jpg")
        expected, height, width = official(folder)
        frames = open_frames(str(folder), SIZE)
        assert (frames.height, frames.width) == (height, width) == (64, 80)
        assert len(frames) == len(NAMES) + 4 and frames.shape == expected.shape and frames.dtype == expected.dtype
        for index in range(len(frames)):
            assert frames[index].is_contiguous()
            assert (frames[index] - expected[index]).abs().max() < 1e-6

    def test_opening_reads_one_header(self, folder, monkeypatch):
        opened = []
        original = Image.open

        def open_image(file, **more):
            opened.append(Path(file.name).name)
            return original(file, **more)

        monkeypatch.setattr(Image, "open", open_image)
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("pixels were decoded"))
        open_frames(folder, SIZE)
        assert opened == ["0.jpg"]

    @pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "truncated"])
    def test_a_damaged_file_affects_only_its_frame(self, folder, content):
        path = folder / "10.JPG"
        path.write_bytes(path.read_bytes()[:900] if content is None else content)
        assert_damaged(lambda: folder, 2, VideoError, r"frame 2, .*10\.JPG")

    def test_size_when_the_first_file_is_damaged(self, folder):
        (folder / "0.jpg").write_bytes(b"no image")
        frames = open_frames(folder, SIZE)
        assert (len(frames), frames.height, frames.width) == (5, 64, 80)

    def test_another_size_affects_only_its_frame(self, folder):
        """The official function resizes every image silently, and its masks have the last one's size."""
        Image.fromarray(random_image(60, 90)).save(folder / "10.JPG", "JPEG")
        assert_damaged(lambda: folder, 2, VideoError, "frame 2 is 90x60 pixels, but the video is 80x64")

    def test_no_images(self, tmp_path):
        (tmp_path / "video.mp4").write_bytes(b"")
        with pytest.raises(RuntimeError, match="no images found in"):
            official(tmp_path)
        assert_both_refuse(lambda: tmp_path, NoFramesError, "no images found in")
        (tmp_path / "0.jpg").write_bytes(b"no image")
        assert_both_refuse(lambda: tmp_path, VideoError, "none of the 1 files")
        assert issubclass(NoFramesError, VideoError) and issubclass(NoFramesError, RuntimeError)


@pytest.mark.parametrize(
    "names",
    [
        NAMES,
        ["1.jpg", "01.jpg", "001.jpg"][::-1],
        ["-3.jpg", "-1.jpg", "4.jpg"],
        ["-1.5.png", "-1.25.png", "0.png", "0.25.png", "0.5.png", "2.0.png", "10.0.png"],
        ["frame_2.png", "frame_10.png", "frame_100.PNG"],
        ["a1b2.jpg", "a1b10.jpg", "a2b1.jpg", "a10b1.jpg", "b.jpg"],
        ["take 1 frame 9.webp", "take 1 frame 11.webp", "take 2 frame 3.webp"],
        ["0.Jpg", "1.jPEG"],
        ["slice 2.tif", "slice 10.TIFF"],
        ["1_1.jpg", "1_2.jpg", "1_10.jpg", "2_1.jpg"],  # int() reads 1_10 as 110
        ["0.bmp", "1.BMP"],
    ],
    ids=str,
)
def test_order(names, numbered):
    folder = numbered(names)
    assert [path.name for path in frame_files(folder)] == names
    frames = open_frames(folder, SIZE)
    assert [int(frames.pixels(index)[0, 0, 0]) for index in range(len(frames))] == list(range(len(names)))
    assert [int(frame.rgb[0, 0, 0]) for frame in read_frames(folder, SIZE)] == list(range(len(names)))


@pytest.mark.parametrize(
    ("frames", "others"),
    [
        (["0.jpg", "1.JPEG"], ["2.Jpg", "3.png", "4.webp"]),
        (["2.Jpg", "3.jPG"], ["0.png", "1.webp"]),
        (["0.tif", "1.tif", "2.tif"], ["3.png", "4.png", "preview.jpg"]),
        (["0.webp", "1.webp"], ["a.bmp", "b.tif"]),
        (["0.jpg", "1.jpg"], ["2.png", "3.png", "4.webp", "5.webp"]),
        (["0.jpg", "1.jpg"], ["2.png", "3.png"]),
        (["0.webp"], []),
    ],
    ids=str,
)
def test_the_most_frequent_format_counts(frames, others, numbered, caplog):
    """Of several the first; what is left out is named."""
    folder = numbered([*frames, *others])
    if others:
        (folder / "clip.mp4").write_bytes(b"")
    (folder / "notes.txt").write_text("no frame")
    (folder / "thumbnails.jpg").mkdir()
    for hidden in ("._0.jpg", ".1.png", ".jpg"):
        (folder / hidden).write_bytes(b"no image")
    with caplog.at_level(logging.WARNING, "sam2fast"):
        for _ in range(2):
            assert [path.name for path in frame_files(folder)] == frames
    names = ", ".join(sorted([*others, "clip.mp4"]))
    note = f"{folder}: skipped {len(others) + 1} files of other kinds: {names}"
    assert caplog.messages == [note] * bool(others)


@pytest.mark.parametrize("target", ["nowhere.png", "1.png"], ids=["dangling", "a loop"])
def test_a_broken_link_is_a_missing_frame(target, numbered):
    folder = numbered(["0.png", "2.png"])
    (folder / "1.png").symlink_to(target)
    assert_damaged(lambda: folder, 1, VideoError, r"frame 1, .*1\.png, cannot be read")


@pytest.mark.parametrize("kind", ["16 bits", "alpha", "P", "1", "L"])
def test_unusual_images(kind, tmp_path):
    rgb = random_image(16, 16)
    if kind == "16 bits":
        values = np.linspace(0, 65535, 16 * 16).astype(np.uint16).reshape(16, 16)
        image, expected = Image.fromarray(values), np.repeat(np.rint(values / 257).astype(np.uint8)[..., None], 3, -1)
    elif kind == "alpha":
        image, expected = Image.fromarray(np.concatenate([rgb, np.zeros((16, 16, 1), np.uint8)], -1)), rgb
    else:
        image = Image.fromarray(rgb).convert(kind)
        expected = np.asarray(image.convert("RGB"))
    image.save(tmp_path / "0.png")
    with read_frames(tmp_path, 16) as reader:
        frame = next(reader)
    assert torch.equal(frame.square, open_frames(tmp_path, 16).pixels(0))
    assert np.array_equal(frame.rgb, expected) and np.array_equal(frame.square.numpy(), expected)


class TestImages:
    @pytest.mark.parametrize(
        "kind",
        [
            str,
            lambda path: np.array(Image.open(path)),
            Image.open,
            lambda path: torch.from_numpy(np.array(Image.open(path))),
            lambda path: torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1),
            lambda path: np.array(Image.open(path)) / 255,
        ],
        ids=["path", "array", "pil", "tensor", "channels first", "float"],
    )
    def test_equal_the_folder_bit_for_bit(self, folder, kind):
        expected = open_frames(folder, SIZE)
        frames = open_frames([kind(folder / name) for name in NAMES], SIZE)
        assert (frames.height, frames.width) == (64, 80)
        assert all(torch.equal(frame, other) for frame, other in zip(frames, expected, strict=True))

    def test_opening_copies_and_decodes_nothing(self, monkeypatch):
        monkeypatch.setattr(sources, "resized", lambda *args: pytest.fail("a frame was decoded"))
        video = [random_image(60, 80), random_image(60, 80)]
        frames = open_frames(video, SIZE)
        monkeypatch.undo()
        video[0][:] = 7
        assert (frames.pixels(0) == 7).all()

    @pytest.mark.parametrize("kind", [list, tuple, iter], ids=["list", "tuple", "iterator"])
    @pytest.mark.parametrize(
        ("bad", "error", "message"),
        [
            (np.zeros((5, 5, 2), np.uint8), VideoError, r"frame 2: .*\(5, 5, 2\)"),
            (random_image(64, 48), VideoError, "frame 2 is 48x64 pixels, but the video is 64x48"),
            (7, TypeError, "frame 2: .*int"),
            ("nowhere.png", FileNotFoundError, "nowhere.png"),
        ],
        ids=["shape", "size", "type", "path"],
    )
    def test_an_invalid_frame_affects_only_itself(self, kind, bad, error, message):
        images = [random_image(48, 64, seed) for seed in range(4)]
        images[2] = bad
        assert_damaged(lambda: kind(images), 2, error, message)


class TestPages:
    """Image files that hold a video."""

    IMAGES = [Image.fromarray(random_image(6, 8, seed)) for seed in range(5)]

    @pytest.mark.parametrize(
        ("form", "options"), [("WebP", {"lossless": True, "duration": [100, 300, 100, 100, 100]}), ("TIFF", {})]
    )
    @pytest.mark.parametrize("kind", ["path", "bytes", "file"])
    def test_all_images_in_any_order(self, tmp_path, form, options, kind):
        path = tmp_path / "video"
        self.IMAGES[0].save(path, form, save_all=True, append_images=self.IMAGES[1:], **options)
        with path.open("rb") as file:
            video = {"path": path, "bytes": path.read_bytes(), "file": file}[kind]
            frames = open_frames(video, 8)
            expected = open_frames(self.IMAGES, 8)
            for index in (4, 0, 2, 1, 3):
                assert torch.equal(frames.pixels(index), expected.pixels(index))
            assert len(frames) == 5 and (frames.height, frames.width) == (6, 8)
            times = [0, 0.1, 0.4, 0.5, 0.6] if form == "WebP" else [None] * 5
            assert [frames.time(index) for index in range(5)] == times
            assert frames.rate == (4 / 0.6 if form == "WebP" else None)
            if kind != "file":
                assert torch.equal(pickle.loads(pickle.dumps(frames)).pixels(3), frames.pixels(3))
            frames.close()
            with read_frames(video, 8) as reader:
                assert (reader.count, reader.rate) == (5, frames.rate)
                for frame, image in zip(reader, self.IMAGES, strict=True):
                    assert np.array_equal(frame.rgb, np.asarray(image)) and frame.time == times[frame.index]

    @pytest.mark.parametrize("form", ["WebP", "TIFF", "PNG", "BMP"])
    def test_one_image_is_no_video(self, tmp_path, form):
        pytest.importorskip("av")
        self.IMAGES[0].save(tmp_path / "image", form)
        assert_both_refuse(lambda: tmp_path / "image", VideoError, "is a single image")

    @pytest.mark.parametrize("form", ["WebP", "TIFF"])
    def test_a_file_that_is_cut_off(self, tmp_path, form):
        self.IMAGES[0].save(tmp_path / "video", form, save_all=True, append_images=self.IMAGES[1:])
        data = (tmp_path / "video").read_bytes()
        assert_both_refuse(lambda: data[: len(data) // 2], VideoError, "cannot be read|single image")


class TestRefused:
    @pytest.mark.parametrize(
        ("make", "error", "message"),
        [
            (lambda: "nowhere/nothing.mp4", FileNotFoundError, "nothing.mp4"),
            *((lambda source=x: source, TypeError, type(x).__name__) for x in (None, 1.5, True, {})),
            (lambda: Image.new("RGB", (5, 5)), TypeError, "Image"),
            *((make, NoFramesError, "no images|no frames") for make in (list, tuple, lambda: iter([]))),
            (lambda: np.zeros((0, 5, 5, 3), np.uint8), NoFramesError, "no images|no frames"),
            *(
                (lambda video=x: video, VideoError, r"expected \(T, H, W\), \(T, H, W, 3\) or \(T, 3, H, W\)")
                for x in (np.zeros((4, 5, 3), np.uint8), np.zeros((2, 4, 4, 5), np.uint8), torch.zeros(2, 5))
            ),
        ],
        ids=range(13),
    )
    def test_other_sources(self, make, error, message):
        assert_both_refuse(make, error, message)

    def test_without_pyav(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "av", None)
        assert_both_refuse(lambda: b"video", ImportError, r"sam2fast\[video\]")
        for source in ("http://127.0.0.1:9/video", 0):
            with pytest.raises(ImportError, match=r"sam2fast\[video\]"):
                read_frames(source, SIZE)

    @pytest.mark.parametrize(("function", "name"), [("os.scandir", ""), ("os.stat", "video.mp4")])
    def test_without_permission(self, function, name, tmp_path, monkeypatch):
        denied = mock.Mock(side_effect=PermissionError(13, "Permission denied"))  # the superuser may read everything
        with monkeypatch.context() as patched:
            patched.setattr(function, denied)
            assert_both_refuse(lambda: tmp_path / name, VideoError, f"{name} .*: Permission denied")
