import io

import numpy as np
import pytest
from PIL import Image

from sam2fast.io import png
from sam2fast.io.png import encode_png, encode_rows

RANDOM = np.random.default_rng(0)


def read(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("strip_bytes", [1, 100, 1 << 20])
@pytest.mark.parametrize("dtype, shape", [("u1", (7, 5)), ("u2", (7, 5)), ("u1", (7, 5, 3)), ("u1", (1, 1, 3))])
def test_pixels_are_read_back(monkeypatch, strip_bytes, dtype, shape):
    monkeypatch.setattr(png, "STRIP_BYTES", strip_bytes)
    pixels = RANDOM.integers(0, 256 ** int(dtype[1]), shape).astype(dtype)
    found = read(encode_png(pixels))
    np.testing.assert_array_equal(found, pixels)
    np.testing.assert_array_equal(read(encode_png(np.asfortranarray(pixels))), pixels)


def test_a_palette():
    indices, colours = np.arange(12, dtype=np.uint8).reshape(3, 4), RANDOM.integers(0, 256, (12, 3)).astype(np.uint8)
    with Image.open(io.BytesIO(encode_png(indices, colours))) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), indices)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), colours[indices])


def test_an_error_of_a_strip_is_raised():
    def rows(start, stop):
        raise MemoryError(f"rows {start} to {stop}")

    with pytest.raises(MemoryError, match="rows 0 to 4"):
        encode_rows(rows, (4, 4), np.dtype(np.uint8))
