"""Frames with more than 8 bits: one scale for the files of a video, and TIFF stacks that Pillow cannot read."""

import pickle
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from sam2fast.video_io import VideoError, open_frames, read_frames
from sam2fast.video_io.sources import TiffPages

SIZE = 16
# Brighter from frame to frame: 14 bits, of which the first frame uses 10.
FRAMES = [
    np.linspace(0, most, SIZE * SIZE).astype(np.uint16).reshape(SIZE, SIZE) for most in (1000, 4000, 9000, 12_000)
]


def as_bytes(values, white):
    grey = np.rint(np.minimum(values / white, 1) * 255).astype(np.uint8)
    return grey if grey.ndim == 3 else grey[..., None].repeat(3, 2)


def all_pixels(video):
    frames = open_frames(video, SIZE)
    found = [frames.pixels(index).numpy() for index in range(len(frames))]
    with read_frames(video, SIZE) as reader:
        assert all(np.array_equal(one, frame.rgb) for one, frame in zip(found, reader, strict=True))
    return found


def write(folder, suffix, frames=FRAMES):
    folder.mkdir()
    for index, values in enumerate(frames):
        Image.fromarray(values).save(folder / f"{index}.{suffix}")
    return folder


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_one_scale_for_a_folder(tmp_path, suffix, caplog):
    folder = write(tmp_path / "frames", suffix)
    for video in (folder, sorted(folder.iterdir())):
        for found, values in zip(all_pixels(video), FRAMES, strict=True):
            assert np.array_equal(found, as_bytes(values, 12_000))
    assert f"{folder}: a frame has values from 0 to 1000: values are scaled so that 0 is black" in caplog.text
    assert caplog.text.count(f"{folder}: a frame") == 1


def test_the_order_of_frames_does_not_matter(tmp_path):
    frames = open_frames(write(tmp_path / "frames", "png"), SIZE)
    assert np.array_equal(frames.pixels(3), as_bytes(FRAMES[3], 12_000))
    assert np.array_equal(frames.pixels(0), as_bytes(FRAMES[0], 12_000))


def test_many_frames(tmp_path, monkeypatch):
    """Sixteen of them decide."""
    frames = [np.full((SIZE, SIZE), 100 * index + 100, np.uint16) for index in range(40)]
    folder = write(tmp_path / "frames", "png", frames)
    assert np.array_equal(all_pixels(folder)[20], as_bytes(frames[20], 4000))


def test_a_bright_frame_keeps_all_unchanged(tmp_path):
    bright = np.full((SIZE, SIZE), 60_000, np.uint16)
    folder = write(tmp_path / "frames", "png", [*FRAMES, bright])
    assert np.array_equal(all_pixels(folder)[1], as_bytes(FRAMES[1], 65_535))


@pytest.mark.parametrize("white", [20_000, 60_000])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_one_scale_for_colours(tmp_path, suffix, white):
    """Pillow keeps 8 bits of colours. A dark frame is not brightened if another one is bright."""
    cv2 = pytest.importorskip("cv2")
    (tmp_path / "frames").mkdir()
    frames = [np.linspace(0, most, SIZE * SIZE * 3).astype(np.uint16).reshape(SIZE, SIZE, 3) for most in (5000, white)]
    for index, values in enumerate(frames):
        assert cv2.imwrite(str(tmp_path / f"frames/{index}.{suffix}"), values[..., ::-1])
    white = white if white < 32_768 else 65_535
    for found, values in zip(all_pixels(tmp_path / "frames"), frames, strict=True):
        assert np.abs(found.astype(int) - as_bytes(values, white)).max() <= 1


def test_a_frame_without_finite_values(tmp_path, caplog):
    (tmp_path / "frames").mkdir()
    for index, value in enumerate((np.nan, 8)):
        tifffile.imwrite(tmp_path / f"frames/{index}.tif", np.full((SIZE, SIZE), value, np.float32))
    first, second = all_pixels(tmp_path / "frames")
    assert not first.any() and (second == 255).all()
    assert "no finite value, and is black: values are scaled so that 0 is black and 8 is white; all" in caplog.text


def test_a_damaged_frame(tmp_path):
    folder = write(tmp_path / "frames", "png")
    (folder / "1.png").write_bytes(b"no image")
    frames = open_frames(folder, SIZE)
    assert np.array_equal(frames.pixels(0), as_bytes(FRAMES[0], 12_000))
    with pytest.raises(VideoError, match="frame 1, .* cannot be read"):
        frames.pixels(1)


def test_an_iterator_has_the_scale_of_its_first_image(tmp_path):
    folder = write(tmp_path / "frames", "png")
    frames = open_frames(iter(sorted(folder.iterdir())), SIZE)
    for index, values in enumerate(FRAMES):
        assert np.array_equal(frames.pixels(index), as_bytes(values, 1000))


STACKS = {
    "int16": np.stack(FRAMES).astype(np.int16),
    "uint16": np.stack(FRAMES),
    "separate planes": np.stack(FRAMES * 3).reshape(3, 4, SIZE, SIZE).swapaxes(0, 1),
}


@pytest.mark.parametrize("name", STACKS)
def test_a_stack(tmp_path, name):
    """A path, the bytes and a file, after a thumbnail; it can be sent to other processes."""
    path, values = tmp_path / "stack.tif", STACKS[name]
    with tifffile.TiffWriter(path) as file:
        file.write(np.zeros((4, 4), values.dtype), subfiletype=1, metadata=None)
        for page in values:
            options = {"photometric": "rgb", "planarconfig": "separate"} if page.ndim == 3 else {}
            file.write(page, metadata=None, **options)
    expected = [as_bytes(np.moveaxis(page, 0, -1) if page.ndim == 3 else page, values.max()) for page in values]
    with path.open("rb") as file:
        for video in (path, path.read_bytes(), file):
            assert np.array_equal(all_pixels(video), expected)
    pages = pickle.loads(pickle.dumps(TiffPages(path, SIZE)))
    assert np.array_equal(np.asarray(pages.image(2)), expected[2])


def test_a_stack_of_channels(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (5, 3, SIZE, SIZE), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "cells.tif", values, imagej=True, metadata={"axes": "TCYX"})
    found = all_pixels(tmp_path / "cells.tif")
    assert len(found) == 5
    assert np.abs(found[4].astype(int) - as_bytes(np.moveaxis(values[4], 0, -1), 65535)).max() <= 1


def test_without_tifffile(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "stack.tif", STACKS["separate planes"], photometric="rgb", planarconfig="separate")
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(VideoError, match="3 bands of uint16 in separate planes: pip install 'sam2fast.images.'"):
        open_frames(tmp_path / "stack.tif", SIZE).pixels(0)
