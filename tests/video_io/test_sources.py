"""Folders of JPEG files compared with the original, images in memory, and refused sources."""

import sys

import numpy as np
import oracle  # noqa: F401  (makes the official package importable)
import pytest
import torch
from parity import random_image
from PIL import Image, ImageFile
from sam2.utils.misc import load_video_frames

from sam2fast.video_io import NoFramesError, VideoError, open_frames, sources

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


def official(folder):
    return load_video_frames(str(folder), SIZE, offload_video_to_cpu=True, compute_device=torch.device("cpu"))


class TestFolder:
    @pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "Path"])
    def test_equals_the_official_one(self, folder, kind):
        expected, height, width = official(folder)
        frames = open_frames(kind(folder), SIZE)
        assert (frames.height, frames.width) == (height, width) == (64, 80)
        assert len(frames) == len(NAMES) and frames.shape == expected.shape and frames.dtype == expected.dtype
        for index in range(len(NAMES)):
            assert frames[index].is_contiguous()
            assert (frames[index] - expected[index]).abs().max() < 1e-6

    def test_grey_and_other_contents(self, folder):
        Image.fromarray(random_image(64, 80)[..., 0]).save(folder / "200.jpg")
        Image.fromarray(random_image(64, 80)).save(folder / "201.jpg", "PNG")
        Image.fromarray(random_image(64, 80)).convert("CMYK").save(folder / "202.jpg")
        assert (torch.stack(list(open_frames(folder, SIZE))) - official(folder)[0]).abs().max() < 1e-6

    def test_exif_orientation_is_ignored_as_in_the_original(self, folder):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(random_image(64, 80)).save(folder / "300.jpg", exif=exif)
        expected, height, width = official(folder)
        frames = open_frames(folder, SIZE)
        assert (frames.height, frames.width) == (height, width) == (64, 80)
        assert (frames[-1] - expected[-1]).abs().max() < 1e-6

    def test_opening_reads_one_header(self, folder, monkeypatch):
        opened = []
        original = Image.open
        monkeypatch.setattr(Image, "open", lambda path, *args: opened.append(path.name) or original(path, *args))
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("pixels were decoded"))
        open_frames(folder, SIZE)
        assert opened == ["0.jpg"]

    @pytest.mark.parametrize("content", [b"", b"no image", None], ids=["empty", "text", "truncated"])
    def test_a_damaged_file_affects_only_its_frame(self, folder, content):
        path = folder / "10.JPG"
        path.write_bytes(path.read_bytes()[:900] if content is None else content)
        frames = open_frames(folder, SIZE)
        for _ in range(2):
            with pytest.raises(VideoError, match=r"frame 2, .*10\.JPG"):
                frames[2]
        assert frames[1].shape == frames[3].shape == (3, SIZE, SIZE)

    def test_size_when_the_first_file_is_damaged(self, folder):
        (folder / "0.jpg").write_bytes(b"no image")
        frames = open_frames(folder, SIZE)
        assert (len(frames), frames.height, frames.width) == (5, 64, 80)

    def test_another_size_affects_only_its_frame(self, folder):
        """The original resizes every image silently, and its masks have the last one's size."""
        Image.fromarray(random_image(60, 90)).save(folder / "10.JPG", "JPEG")
        frames = open_frames(folder, SIZE)
        with pytest.raises(VideoError, match=r"frame 2 is 90x60 pixels, but the video is 80x64"):
            frames[2]
        assert frames[1].shape == frames[3].shape == (3, SIZE, SIZE)

    def test_only_damaged_files(self, tmp_path):
        (tmp_path / "0.jpg").write_bytes(b"no image")
        with pytest.raises(VideoError, match="none of the 1 files"):
            open_frames(tmp_path, SIZE)

    def test_no_images(self, tmp_path):
        with pytest.raises(RuntimeError, match="no images found in"):
            official(tmp_path)
        with pytest.raises(RuntimeError, match="no images found in") as raised:
            open_frames(tmp_path, SIZE)
        assert isinstance(raised.value, NoFramesError) and isinstance(raised.value, VideoError)


class TestImages:
    def arrays(self, folder):
        return [np.array(Image.open(folder / name)) for name in NAMES]

    @pytest.mark.parametrize(
        "kind",
        [
            lambda array: array,
            Image.fromarray,
            torch.from_numpy,
            lambda array: torch.from_numpy(array).permute(2, 0, 1),
            lambda array: array / 255,
        ],
        ids=["array", "pil", "tensor", "channels first", "float"],
    )
    def test_equal_the_folder_bit_for_bit(self, folder, kind):
        expected = open_frames(folder, SIZE)
        frames = open_frames([kind(array) for array in self.arrays(folder)], SIZE)
        assert (frames.height, frames.width) == (64, 80)
        for index in range(len(NAMES)):
            assert torch.equal(frames[index], expected[index])

    def test_paths(self, folder):
        expected = open_frames(folder, SIZE)
        frames = open_frames(tuple(str(folder / name) for name in NAMES), SIZE)
        assert all(torch.equal(frame, other) for frame, other in zip(frames, expected, strict=True))

    @pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
    @pytest.mark.parametrize("height", [3, 60])
    def test_one_array(self, height, kind):
        video = np.stack([random_image(height, 80, seed) for seed in range(3)])
        frames, expected = open_frames(kind(video), SIZE), open_frames(list(video), SIZE)
        assert (len(frames), frames.height, frames.width) == (3, height, 80)
        assert all(torch.equal(frame, other) for frame, other in zip(frames, expected, strict=True))

    def test_opening_copies_and_decodes_nothing(self, monkeypatch):
        monkeypatch.setattr(sources, "resized", lambda *args: pytest.fail("a frame was decoded"))
        video = [random_image(60, 80), random_image(60, 80)]
        frames = open_frames(video, SIZE)
        monkeypatch.undo()
        video[0][:] = 7
        assert (frames.pixels(0) == 7).all()

    @pytest.mark.parametrize("empty", [[], (), np.zeros((0, 5, 5, 3), np.uint8)], ids=["list", "tuple", "array"])
    def test_empty(self, empty):
        with pytest.raises(NoFramesError, match="no images"):
            open_frames(empty, SIZE)

    @pytest.mark.parametrize(
        "video",
        [
            np.zeros((4, 5, 3), np.uint8),
            np.zeros((2, 3, 4, 5), np.uint8),
            np.zeros((2, 4, 5, 3), np.float32),
            torch.zeros(2, 4, 5, 3),
        ],
        ids=["one image", "channels first", "float array", "float tensor"],
    )
    def test_other_arrays(self, video):
        with pytest.raises(VideoError, match=r"expected uint8 \(T, H, W, 3\)"):
            open_frames(video, SIZE)

    @pytest.mark.parametrize("kind", [list, iter], ids=["list", "iterator"])
    def test_an_invalid_frame_affects_only_itself(self, kind):
        video = [random_image(60, 80), np.zeros((5, 5, 2), np.uint8), 7, "nowhere.png", random_image(60, 80)]
        frames = open_frames(kind(video), SIZE)
        with pytest.raises(VideoError, match=r"frame 1: .*\(5, 5, 2\)"):
            frames[1]
        with pytest.raises(TypeError, match="frame 2: .*int"):
            frames[2]
        with pytest.raises(FileNotFoundError, match="nowhere.png"):
            frames[3]
        assert torch.equal(frames[0], frames[4])

    @pytest.mark.parametrize("kind", [list, tuple, iter], ids=["list", "tuple", "iterator"])
    def test_another_size_affects_only_its_frame(self, kind):
        frames = open_frames(kind([random_image(60, 80), random_image(80, 60), random_image(60, 80)]), SIZE)
        with pytest.raises(VideoError, match="frame 1 is 60x80 pixels, but the video is 80x60"):
            frames[1]
        assert len(frames) == 3 and torch.equal(frames[0], frames[2])


class TestRefused:
    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nothing.mp4"):
            open_frames(tmp_path / "nothing.mp4", SIZE)

    @pytest.mark.parametrize("source", [None, 5, True, Image.new("RGB", (5, 5)), {}], ids=lambda x: type(x).__name__)
    def test_other_types(self, source):
        with pytest.raises(TypeError, match=type(source).__name__):
            open_frames(source, SIZE)

    def test_without_pyav(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(ImportError, match=r"pip install 'sam2fast\[video\]'"):
            open_frames(b"video", SIZE)
