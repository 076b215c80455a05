"""Folders of images: which files are frames, their order, and unusual image modes."""

import os
import random

import numpy as np
import pytest
import torch
from parity import random_image
from PIL import Image

from sam2fast.video_io import NoFramesError, VideoError, open_frames, read_frames
from sam2fast.video_io.sources import frame_files

SIZE = 32


def fill(folder, names):
    """Writes files in any order; each frame is filled with its index in ``names``."""
    for place, name in random.Random(0).sample(list(enumerate(names)), len(names)):
        image = Image.fromarray(np.full((8, 8, 3), place, np.uint8))
        form = {".jp": "JPEG", ".pn": "PNG", ".we": "WebP"}[os.path.splitext(name)[1][:3].lower()]
        image.save(folder / name, form, **({"lossless": True} if form == "WebP" else {}))
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ["0.jpg", "2.jpeg", "10.JPG", "011.JPEG", "100.jpg"],
        ["1.jpg", "01.jpg", "001.jpg"][::-1],
        ["-3.jpg", "-1.jpg", "4.jpg"],
        ["frame_2.png", "frame_10.png", "frame_100.PNG"],
        ["a1b2.jpg", "a1b10.jpg", "a2b1.jpg", "a10b1.jpg", "b.jpg"],
        ["7.jpg", "10.jpg", "cover.jpg"],
        ["take 1 frame 9.webp", "take 1 frame 11.webp", "take 2 frame 3.webp"],
        ["2024-01-01T10.59.59.png", "2024-01-01T11.00.01.png"],
        ["00000.Png", "00001.png"],
        ["0.Jpg", "1.jPEG"],
    ],
    ids=str,
)
def test_order(names, tmp_path):
    frames = open_frames(fill(tmp_path, names), SIZE)
    assert [path.name for path in frame_files(tmp_path)] == names
    assert [int(frames.pixels(index)[0, 0, 0]) for index in range(len(frames))] == list(range(len(names)))
    assert [int(frame.rgb[0, 0, 0]) for frame in read_frames(tmp_path, SIZE)] == list(range(len(names)))


@pytest.mark.parametrize(
    ("frames", "others"),
    [
        (["0.jpg", "1.JPEG"], ["2.Jpg", "3.png", "4.webp"]),
        (["2.Jpg", "3.jPG"], ["0.png", "1.webp"]),
        (["0.png", "1.PNG"], ["2.webp"]),
        (["0.webp"], []),
    ],
    ids=str,
)
def test_only_one_format_counts(frames, others, tmp_path):
    fill(tmp_path, [*frames, *others])
    (tmp_path / "notes.txt").write_text("no frame")
    (tmp_path / "thumbnails.jpg").mkdir()
    for hidden in ("._0.jpg", ".1.png", ".jpg"):
        (tmp_path / hidden).write_bytes(b"no image")
    assert [path.name for path in frame_files(tmp_path)] == frames


def test_a_dangling_link_is_a_missing_frame(tmp_path):
    fill(tmp_path, ["0.png", "2.png"])
    (tmp_path / "1.png").symlink_to(tmp_path / "nowhere.png")
    frames = open_frames(tmp_path, SIZE)
    assert len(frames) == 3 and frames[2].shape == (3, SIZE, SIZE)
    with pytest.raises(VideoError, match=r"frame 1, .*1\.png, cannot be read"):
        frames[1]


class TestUnusualImages:
    def only(self, folder, image, name="0.png"):
        image.save(folder / name)
        frames = open_frames(folder, image.height)
        with read_frames(folder, image.height) as reader:
            frame = next(reader)
        assert torch.equal(frame.square, frames.pixels(0)) and np.array_equal(frame.rgb, frame.square.numpy())
        return frame.rgb

    def test_sixteen_bits_are_scaled(self, tmp_path):
        values = np.linspace(0, 65535, 16 * 16).astype(np.uint16).reshape(16, 16)
        rgb = self.only(tmp_path, Image.fromarray(values))
        assert np.array_equal(rgb, np.repeat(np.rint(values / 257).astype(np.uint8)[..., None], 3, -1))

    def test_alpha_is_dropped(self, tmp_path):
        image = random_image(16, 16)
        alpha = np.zeros((16, 16, 1), np.uint8)
        assert np.array_equal(self.only(tmp_path, Image.fromarray(np.concatenate([image, alpha], -1))), image)

    def test_palettes_and_bits(self, tmp_path):
        image = Image.fromarray(random_image(16, 16))
        for mode in ("P", "1", "L"):
            odd = image.convert(mode)
            assert np.array_equal(self.only(tmp_path, odd), np.asarray(odd.convert("RGB")))

    def test_another_size_is_an_error_at_that_frame(self, tmp_path):
        for index, height in enumerate((16, 16, 18, 16)):
            Image.fromarray(random_image(height, 20, index)).save(tmp_path / f"f{index}.png")
        frames, reader = open_frames(tmp_path, SIZE), read_frames(tmp_path, SIZE)
        assert (frames.height, frames.width) == (reader.height, reader.width) == (16, 20)
        assert [torch.equal(next(reader).square, frames.pixels(index)) for index in (0, 1)] == [True, True]
        for read in (lambda: frames[2], lambda: next(reader)):
            with pytest.raises(VideoError, match="frame 2 is 20x18 pixels, but the video is 20x16"):
                read()
        assert frames[3].shape == (3, SIZE, SIZE) and list(reader) == []


class TestRefused:
    def test_empty_folder(self, tmp_path):
        (tmp_path / "video.mp4").write_bytes(b"")
        for read in (open_frames, read_frames):
            with pytest.raises(NoFramesError, match="no images found in .*expected JPEG, PNG or WebP files"):
                read(tmp_path, SIZE)

    def test_a_folder_without_permission(self, tmp_path, monkeypatch):
        def refuse(path):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(os, "scandir", refuse)  # the superuser may read everything
        for read in (open_frames, read_frames):
            with pytest.raises(VideoError, match=f"the folder {tmp_path} cannot be read: Permission denied"):
                read(tmp_path, SIZE)

    def test_a_path_without_permission(self, tmp_path, monkeypatch):
        def refuse(path, **options):
            raise PermissionError(13, "Permission denied", str(path))

        with monkeypatch.context() as patched:
            patched.setattr(os, "stat", refuse)
            for read in (open_frames, read_frames):
                with pytest.raises(VideoError, match=r"video\.mp4 is not accessible: Permission denied"):
                    read(tmp_path / "video.mp4", SIZE)

    def test_an_image_without_permission(self, tmp_path, monkeypatch):
        fill(tmp_path, ["0.png", "1.png", "2.png"])
        original = Image.open

        def refuse(path, *arguments):
            if path.name == "1.png":
                raise PermissionError(13, "Permission denied")
            return original(path, *arguments)

        frames, reader = open_frames(tmp_path, SIZE), read_frames(tmp_path, SIZE)
        monkeypatch.setattr(Image, "open", refuse)
        next(reader)
        for read in (lambda: frames[1], lambda: next(reader)):
            with pytest.raises(VideoError, match=r"frame 1, .*1\.png, cannot be read as an image: .*denied"):
                read()


def test_a_loop_of_links_affects_only_its_frame(tmp_path):
    for name in ("0.jpg", "1.jpg"):
        (tmp_path / name).touch()
    for name in ("2.jpg", "loop"):
        os.symlink(name, tmp_path / name)
    assert [path.name for path in frame_files(tmp_path)] == ["0.jpg", "1.jpg", "2.jpg"]
