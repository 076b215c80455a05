"""Boxes and masks for photographs with an EXIF orientation, as Pillow displays them."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from sam2fast.cli.segmenter import mask_box
from sam2fast.datasets.dataset_files import DatasetError, read_orientation
from sam2fast.datasets.displayed import TURNS, displayed_box, displayed_segmentation
from sam2fast.io.rle import decode_rle, encode_rle

STORED = np.zeros((40, 60), bool)
STORED[4:10, 30:52] = True
STORED[4:20, 48:52] = True  # no symmetry
POLYGON = [[30, 4, 52, 4, 52, 20, 48, 20, 48, 10, 30, 10]]


@pytest.fixture(params=range(1, 9))
def photograph(request, tmp_path):
    """A file of the orientation, and the mask as it is displayed."""
    exif = Image.Exif()
    exif[0x0112] = request.param
    path = tmp_path / "photograph.png"
    Image.fromarray(STORED.astype(np.uint8) * 255).save(path, exif=exif)
    with Image.open(path) as image:
        shown = np.asarray(ImageOps.exif_transpose(image)) > 0
    assert read_orientation(path) == request.param and (shown.shape == (60, 40)) == (request.param in TURNS)
    return path, shown


def corners(mask):
    x0, y0, x1, y1 = mask_box(mask)
    return x0, y0, x1 + 1, y1 + 1


def test_displayed_pixels_stay(photograph):
    path, shown = photograph
    rle, box = encode_rle(shown), corners(shown)
    for stated in ((None, None), shown.shape, STORED.shape):
        assert displayed_segmentation(rle, stated, shown.shape, path) == rle
    assert displayed_box(box, shown.shape, shown.shape, path) == box
    height, width = shown.shape
    halves = tuple(x / 2 for x in box)
    assert displayed_box(halves, (height // 2, width // 2), shown.shape, path) == box
    assert displayed_segmentation(POLYGON, shown.shape, shown.shape, path) is POLYGON


def test_stored_pixels_are_rotated(photograph):
    path, shown = photograph
    if shown.shape == STORED.shape:  # the size does not say which pixels these are: they are displayed ones
        assert displayed_segmentation(POLYGON, STORED.shape, shown.shape, path) is POLYGON
        return
    for segmentation in (encode_rle(STORED), POLYGON):
        found = displayed_segmentation(segmentation, STORED.shape, shown.shape, path)
        np.testing.assert_array_equal(decode_rle(found), shown)
    found = displayed_segmentation(encode_rle(STORED), (None, None), shown.shape, path)
    np.testing.assert_array_equal(decode_rle(found), shown)
    for factor in (1, 0.25, 3):
        size = (round(40 * factor), round(60 * factor))
        box = tuple(x * factor for x in corners(STORED))
        np.testing.assert_allclose(displayed_box(box, size, shown.shape, path), corners(shown))


def test_other_sizes_are_refused_by_name(photograph):
    path, shown = photograph
    height, width = shown.shape
    for stated in ((50, 50), (40, 80), (height, width + 9)):
        text = f"photograph.png is displayed with {width}x{height} pixels, .* for {stated[1]}x{stated[0]}; expected"
        with pytest.raises(DatasetError, match=f"{text} the same ratio"):
            displayed_box((1, 1, 2, 2), stated, shown.shape, path)
        with pytest.raises(DatasetError, match=f"{text} this size"):
            displayed_segmentation(POLYGON, stated, shown.shape, path)
    if shown.shape == STORED.shape:
        with pytest.raises(DatasetError, match="is displayed with 60x40 pixels, .* for 40x60"):
            displayed_box((1, 1, 2, 2), (60, 40), shown.shape, path)


@pytest.mark.parametrize(
    ("size", "copy"), [((599, 401), (150, 100)), ((599, 401), (149, 101)), ((333, 500), (1000, 1502))]
)
def test_copies_are_rounded(tmp_path, size, copy):
    path = tmp_path / "a.png"
    Image.new("L", size[::-1]).save(path)
    height, width = copy
    found = displayed_box((width / 2, height / 2, width, height), copy, size, path)
    np.testing.assert_allclose(found, (size[1] / 2, size[0] / 2, size[1], size[0]))
