"""Listing files and reading masks of ids and folders of objects."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sam2fast.datasets.dataset_files import (
    DatasetError,
    labels_in,
    list_files,
    object_folders,
    read_frame,
    read_labels,
    read_object_ids,
)
from sam2fast.io.label_maps import palette
from sam2fast.transforms import to_pixels


@pytest.mark.parametrize(("mode", "value"), [("1", 1), ("L", 255), ("P", 3), ("I;16", 300)])
def test_masks_of_every_kind(tmp_path, mode, value):
    labels = np.zeros((4, 6), dtype=np.uint16 if mode == "I;16" else np.uint8)
    labels[1:3, 2:4] = value
    image = Image.fromarray(labels > 0 if mode == "1" else labels)
    if mode == "P":
        image.putpalette(palette().tobytes())
    image.save(tmp_path / "a.png")
    found = read_labels(tmp_path / "a.png", (4, 6))
    np.testing.assert_array_equal(found, labels)
    assert labels_in(found) == (value,)
    with pytest.raises(DatasetError, match=r"a\.png has 6x4 pixels, its frame 4x6: they must be equal"):
        read_labels(tmp_path / "a.png", (6, 4))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_values_of_masks(dtype):
    rng = np.random.default_rng(0)
    for most in (1, 2, 16, 17, 200) * 5:
        labels = rng.choice(rng.integers(0, most + 1, 4), (7, 9)).astype(dtype)
        assert labels_in(labels) == tuple(i for i in np.unique(labels).tolist() if i)
    assert labels_in(np.zeros((2, 3), dtype)) == labels_in(np.zeros((0, 3), dtype)) == ()


def test_soft_edges(tmp_path):
    disk = Image.new("L", (80, 80))
    ImageDraw.Draw(disk).ellipse((10, 12, 60, 70), fill=255)
    soft, file = disk.resize((50, 50), Image.Resampling.BILINEAR), tmp_path / "a.png"
    soft.save(file)
    with pytest.raises(DatasetError, match=r"a\.png is white with \d+ grey values"):
        read_object_ids(file)
    assert np.array_equal(read_object_ids(file, ignored=[255]), np.asarray(soft))
    many = np.arange(80 * 80).reshape(80, 80) // 320  # objects 1 to 19, and what is not labelled
    unlabelled = Image.fromarray(np.where(many == 3, 255, many).astype(np.uint8))
    in_palette = soft.convert("P")
    for labels in (disk, unlabelled, in_palette, Image.fromarray(many.astype(np.uint8))):
        labels.save(file)
        assert np.array_equal(read_object_ids(file), np.asarray(labels))


@pytest.mark.parametrize("most", [4095, 65535])
def test_deep_images_are_those_of_predictors(tmp_path, most):
    values = np.linspace(0, most, 48).astype(np.uint16).reshape(6, 8)
    Image.fromarray(values).save(tmp_path / "a.png")
    found = read_frame(tmp_path / "a.png")
    assert found.dtype == np.uint8 and np.array_equal(found, to_pixels(tmp_path / "a.png").numpy())
    assert found.max() == 255 and 120 < found.mean() < 135


def test_frames_are_sorted_by_the_numbers_in_their_names(tmp_path):
    names = ["-1.5", "0.25", "0.5", "2", "2.5", "10", "10.0.1", "a"]
    for name in names[::-1]:
        (tmp_path / f"{name}.png").touch()
    assert [path.stem for path in list_files(tmp_path).values()] == names


def test_folders_of_objects(tmp_path):
    for name in ("10", "002", ".git"):
        (tmp_path / name).mkdir()
    assert {i: path.name for i, path in object_folders(tmp_path).items()} == {2: "002", 10: "10"}
    (tmp_path / "2").mkdir()
    with pytest.raises(DatasetError, match="2: another folder is the same object, 002"):
        object_folders(tmp_path)
    (tmp_path / "2").rename(tmp_path / "\N{ARABIC-INDIC DIGIT TWO}")
    with pytest.raises(DatasetError, match="must be named by a number"):
        object_folders(tmp_path)
    with pytest.raises(DatasetError, match="nowhere: No such file.*expected <object>/<frame>.png"):
        object_folders(tmp_path / "nowhere")
