"""Images in every input type, and invalid images."""

import io
from typing import Any

import numpy as np
import oracle  # noqa: F401  (makes torchvision importable for the official package)
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from hypothesis_profiles import examples
from image_strategies import COLOUR, FLOATS, GREY, LAYOUTS, rgb_images
from junk import arrays, tensors
from PIL import Image

from sam2fast.transforms import CHANNELS, ImageError, SAM2Transforms, to_pixels

SIDE = 128
MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"]
DEEP_MODES = ["I;16", "I;16B", "I;16L", "I;16N"]


def assert_pixels(actual: torch.Tensor, expected: np.ndarray) -> None:
    assert actual.dtype == torch.from_numpy(expected).dtype and not actual.requires_grad
    np.testing.assert_array_equal(actual.numpy(), expected)


@examples(30)
@given(rgb_images(), st.sampled_from(sorted(LAYOUTS)), st.sampled_from(sorted(COLOUR)))
def test_every_container_of_an_image(rgb, layout, container):
    before = rgb.copy()
    array = LAYOUTS[layout](rgb)
    assert_pixels(to_pixels(array), rgb)
    held = COLOUR[container](array)
    assert_pixels(to_pixels(held), rgb)
    np.testing.assert_array_equal(array, before)
    white = SAM2Transforms(SIDE, 0.0).from_pixels(to_pixels(held))
    torch.testing.assert_close(white, SAM2Transforms(SIDE, 0.0)(rgb), rtol=0, atol=2e-6)


@examples(25)
@given(rgb_images(), st.sampled_from(sorted(LAYOUTS)), st.sampled_from(sorted(GREY)))
def test_every_container_of_a_grey_image(rgb, layout, container):
    grey = rgb[..., 0]
    expected = np.repeat(grey[..., None], 3, axis=2)
    assert_pixels(to_pixels(LAYOUTS[layout](grey)), expected)
    assert_pixels(to_pixels(GREY[container](grey)), expected)


@examples(20)
@example(np.zeros((2, 3, 3), np.uint8), "foreign bytes", "longdouble", False)
@given(rgb_images(), st.sampled_from(sorted(LAYOUTS)), st.sampled_from(FLOATS), st.booleans())
def test_float_images(rgb, layout, dtype, as_tensor):
    image = (rgb / 255).astype(dtype)
    expected = image.astype(np.float32)
    assert_pixels(to_pixels(LAYOUTS[layout](image)), expected)
    if as_tensor and dtype in ("<f8", "<f4", "<f2"):
        assert_pixels(to_pixels(torch.from_numpy(image).permute(2, 0, 1).requires_grad_()), expected)


@examples(40)
@given(
    st.sampled_from(MODES + DEEP_MODES),
    st.integers(0, 9),
    st.integers(0, 9),
    st.binary(min_size=1, max_size=9),
    st.booleans(),
)
def test_pil_images_of_any_mode(mode, width, height, filling, closed):
    """Every mode with any bytes is accepted, unless values are out of range."""
    image = Image.new("L" if mode in DEEP_MODES else mode, (width, height))
    size = len(Image.new(mode, (1, 1)).tobytes())
    filled = (filling * (size * width * height))[: size * width * height]
    if width and height and mode != "1":
        image = Image.frombytes(mode, (width, height), filled)
    if closed:
        image.close()
    if closed or 0 in (width, height):
        with pytest.raises(ImageError):
            to_pixels(image)
        return
    values = np.asarray(image) if mode in ("I", "F") else np.zeros(1)
    top = {"I": 65535, "F": 1.0}.get(mode, 0)
    if values.min() >= 0 and values.max() <= top:
        assert_usable(to_pixels(image), (height, width))
    else:
        with pytest.raises(ImageError, match="expected"):
            to_pixels(image)


def assert_usable(pixels: torch.Tensor, size: Any) -> None:
    assert tuple(pixels.shape) == (*size, 3) and pixels.numel() and not pixels.requires_grad
    assert pixels.dtype == torch.uint8 or (pixels.dtype == torch.float32 and 0 <= pixels.min() <= pixels.max() <= 1)
    assert torch.isfinite(SAM2Transforms(32, 0.0).from_pixels(pixels)).all()


# Shapes of images, and others.
SHAPES = st.one_of(
    npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.sampled_from(CHANNELS)),
    st.tuples(st.sampled_from(CHANNELS), st.integers(0, 5), st.integers(0, 5)),
)


@examples(60)
@example(np.zeros((), np.uint16))
@given(arrays(SHAPES))
def test_any_array(array):
    before = array.copy()
    try:
        pixels = to_pixels(array)
    except ImageError as error:
        assert "expected" in str(error) or "empty" in str(error)
    else:
        assert_usable(pixels, array.shape[:2])
    np.testing.assert_array_equal(array, before)


@examples(40)
@example(torch.zeros(2, 2, 3).to_sparse())
@example(torch.zeros(2, 2, 3, dtype=torch.uint8, device="meta"))
@given(tensors())
def test_any_tensor(tensor):
    try:
        pixels = to_pixels(tensor)
    except ImageError as error:
        assert "expected" in str(error) or "empty" in str(error)
    else:
        is_first = tensor.ndim == 3 and tensor.shape[0] in CHANNELS
        assert_usable(pixels, tensor.shape[1:] if is_first else tensor.shape[:2])


# The rotation of a file's pixels by its EXIF orientation.
UPRIGHT = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: np.rot90(x),
}


@examples(15)
@given(rgb_images(), st.integers(0, 10) | st.integers(0, 65535), st.sampled_from(["PNG", "TIFF", "WEBP"]))
def test_files_are_upright(tmp_path_factory, rgb, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    path = tmp_path_factory.getbasetemp() / "turned"
    path.write_bytes(buffer.getvalue())
    assert_pixels(to_pixels(path), UPRIGHT.get(orientation, lambda x: x)(rgb).copy())
