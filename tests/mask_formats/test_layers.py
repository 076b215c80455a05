"""Overlays: colours, outlines, and the strips in which they are made."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from sam2fast.io import png
from sam2fast.mask_formats.layers import id_colours, layers_png


@pytest.mark.parametrize("scale", [1, 20])
def test_overlay_tints_and_outlines_masks_and_leaves_the_rest(scale, monkeypatch):
    ids = np.zeros((40 * scale, 60 * scale), dtype=np.uint16)
    ids[10 * scale : 30 * scale, 10 * scale : 30 * scale] = 1
    ids[10 * scale : 30 * scale, 30 * scale : 50 * scale] = 2
    image = np.full((*ids.shape, 3), 100, dtype=np.uint8)
    pixels = np.asarray(Image.open(BytesIO(layers_png(image, ids)))).astype(int)
    colours = id_colours(2).astype(int)
    for x, number in ((20, 1), (40, 2)):
        np.testing.assert_allclose(pixels[20 * scale, x * scale], (100 + colours[number]) / 2, atol=1)
    for x in (10, 30, 50):  # the last edge is to the background
        assert (pixels[20 * scale, x * scale - 1 : x * scale + 1] > 200).all()
    assert (pixels[: 9 * scale] == 100).all() and (pixels[:, 52 * scale :] == 100).all()
    assert (image == 100).all()
    # Strips of ten rows join to the same image.
    monkeypatch.setattr(png, "STRIP_BYTES", 10 * 3 * ids.shape[1])
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(layers_png(image, ids)))), pixels)
