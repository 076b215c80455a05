"""Accepted images, refused images, and numerical agreement with the original."""

import io
import warnings

import numpy as np
import oracle  # noqa: F401  (makes torchvision importable for the official package)
import pytest
import torch
from parity import random_image
from PIL import Image
from sam2.utils.transforms import SAM2Transforms as OfficialTransforms

from sam2fast.transforms import ImageError, SAM2Transforms, to_pixels

RGB = random_image(60, 80)


@pytest.mark.parametrize("size", [(600, 800), (1500, 700), (64, 64), (1, 1), (1024, 1024)], ids=str)
def test_preprocessing_equals_the_official_one(size):
    image = random_image(*size)
    expected = OfficialTransforms(1024, 0.0)(image)
    actual = SAM2Transforms(1024, 0.0)(image)
    assert actual.shape == (3, 1024, 1024) and actual.dtype == torch.float32
    assert (expected - actual).abs().max() < 1e-5


def test_batches_of_different_sizes():
    images = [random_image(60, 80), random_image(90, 40)]
    expected = OfficialTransforms(256, 0.0).forward_batch(images)
    assert (expected - SAM2Transforms(256, 0.0).forward_batch(images)).abs().max() < 1e-5


@pytest.mark.parametrize("image", [(RGB / 255).astype(np.float32), Image.fromarray(RGB)], ids=["float", "PIL"])
def test_other_images_as_the_original(image):
    expected = OfficialTransforms(256, 0.0)(image)
    assert (expected - SAM2Transforms(256, 0.0)(image)).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_as_the_original(dtype):
    """One and a batch, with gradients; the steps of which preprocessing consists."""
    found = []
    for transforms in (OfficialTransforms(256, 0.0), SAM2Transforms(256, 0.0)):
        image = transforms.to_tensor(RGB).to(dtype).requires_grad_()
        one, batch = transforms.transforms(image), transforms.transforms(image.expand(2, 3, 60, 80))
        (one.square().sum() + batch.sum()).backward()
        found.append((image.detach(), one, batch, image.grad))
    for expected, actual in zip(*found, strict=True):
        assert actual.dtype == expected.dtype and actual.shape == expected.shape
        assert (expected - actual).abs().max() < 1e-5 * expected.abs().max()
    with pytest.raises(ImageError, match=r"torch.uint8 \(3, 60, 80\); expected float images"):
        SAM2Transforms(256, 0.0).transforms(torch.zeros(3, 60, 80, dtype=torch.uint8))


@pytest.mark.parametrize("normalize", [True, False])
def test_coordinates_as_the_original(normalize):
    ours, official = SAM2Transforms(1024, 0.0), OfficialTransforms(1024, 0.0)
    points, boxes = torch.rand(2, 5, 2) * 100, torch.rand(3, 4) * 100
    for name, value in (("transform_coords", points), ("transform_boxes", boxes)):
        expected, actual = (getattr(t, name)(value, normalize, (60, 80)) for t in (official, ours))
        assert torch.allclose(expected, actual, rtol=1e-6)
    with pytest.raises(ValueError, match="orig_hw"):
        ours.transform_coords(points, normalize=True)


GREY = RGB[..., 0]
GREY_AS_RGB = np.repeat(GREY[..., None], 3, axis=2)
PALETTE = Image.fromarray(RGB).quantize(16)
# Others: tests/properties/test_images.py.
ACCEPTED = {
    "black and white": (Image.fromarray(GREY > 99), np.where(GREY_AS_RGB > 99, 255, 0).astype(np.uint8)),
    "float": (Image.fromarray(GREY.astype(np.float32) / 255), (GREY_AS_RGB / 255).astype(np.float32)),
    "palette": (PALETTE, np.array(PALETTE.convert("RGB"))),
}


@pytest.mark.parametrize(("image", "expected"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_images_of_pil(image, expected):
    pixels = to_pixels(image)
    assert pixels.dtype == torch.from_numpy(expected).dtype
    np.testing.assert_allclose(pixels.numpy(), expected, rtol=1e-6)


class TestFiles:
    def test_path_and_string(self, tmp_path):
        path = tmp_path / "image.png"
        Image.fromarray(RGB).save(path)
        assert np.array_equal(to_pixels(path).numpy(), RGB)
        assert np.array_equal(to_pixels(str(path)).numpy(), RGB)

    def test_exif_orientation_is_applied_to_files(self, tmp_path):
        path = tmp_path / "turned.png"
        exif = Image.Exif()
        exif[0x0112] = 6  # rotate by 90 degrees clockwise to view
        Image.fromarray(RGB).save(path, exif=exif)
        assert np.array_equal(to_pixels(path).numpy(), np.rot90(RGB, -1))
        with Image.open(path) as image:  # an opened image is used unchanged, as in the original
            assert np.array_equal(to_pixels(image).numpy(), RGB)

    def test_sixteen_bit_png(self, tmp_path):
        path = tmp_path / "deep.png"
        Image.fromarray(GREY.astype(np.uint16) * 257).save(path)
        assert np.array_equal(to_pixels(path).numpy(), GREY_AS_RGB)

    @pytest.mark.parametrize(("most", "white"), [(4095, 4095), (700, 700), (4096, 65535), (0, 65535)])
    def test_few_bits_in_a_sixteen_bit_png(self, tmp_path, caplog, most, white):
        """12 bits or fewer are scaled by their own maximum, and the log says so; opened images stay as they are."""
        path, values = tmp_path / "deep.png", np.linspace(0, most, 48).astype(np.uint16).reshape(6, 8)
        Image.fromarray(values).save(path)
        assert np.array_equal(to_pixels(path).numpy()[..., 0], np.rint(values * (255 / white)))
        assert (f"deep.png has 16 bits, and values up to {most} only" in caplog.text) == (white == most)
        with Image.open(path) as image:
            assert np.array_equal(to_pixels(image).numpy()[..., 0], np.rint(values / 257))

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_bytes_and_open_files(self, tmp_path, kind):
        path = tmp_path / "turned"
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(RGB).save(path, kind, exif=exif)
        content = path.read_bytes()
        with path.open("rb") as file:
            file.read(7)  # files are read from the start
            for image in (content, bytearray(content), memoryview(content), io.BytesIO(content), file):
                assert np.array_equal(to_pixels(image).numpy(), np.rot90(RGB, -1))
            assert not file.closed
            assert np.array_equal(to_pixels(file).numpy(), np.rot90(RGB, -1))  # once more

    def test_bytes_of_twelve_bits(self, caplog):
        buffer, values = io.BytesIO(), np.linspace(0, 4095, 48).astype(np.uint16).reshape(6, 8)
        Image.fromarray(values).save(buffer, "PNG")
        assert np.array_equal(to_pixels(buffer.getvalue()).numpy()[..., 0], np.rint(values * (255 / 4095)))
        assert "the data has 16 bits, and values up to 4095 only" in caplog.text

    def test_bytes_and_files_that_are_no_image(self, tmp_path):
        path = tmp_path / "image.png"
        Image.fromarray(RGB).save(path)
        content = path.read_bytes()
        with path.open("rb") as closed:
            pass
        with path.open() as text:
            for image in (b"", b"no image", content[:900], io.BytesIO(b"none"), closed):
                with pytest.raises(ImageError, match="the data cannot be read as an image"):
                    to_pixels(image)
            with pytest.raises(ImageError, match='it is open as text; expected mode "rb"'):
                to_pixels(text)

    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nothing.png"):
            to_pixels(tmp_path / "nothing.png")

    def test_no_image(self, tmp_path):
        path = tmp_path / "text.png"
        path.write_text("no image")
        with pytest.raises(ImageError, match="text.png cannot be read"):
            to_pixels(path)

    @pytest.mark.parametrize("suffix", ["png", "jpg"])
    def test_truncated(self, tmp_path, suffix):
        path = tmp_path / f"cut.{suffix}"
        Image.fromarray(random_image(300, 300)).save(path)
        path.write_bytes(path.read_bytes()[:3000])
        with pytest.raises(ImageError, match="cannot be read|cannot be decoded"):
            to_pixels(path)


ALMOST_BLACK = {
    "8-bit values in uint16": (GREY.astype(np.uint16), "16 bits, where white is 65535, and values up to 4095 only"),
    "RGB": (RGB.astype(">u2"), "16 bits"),
    "12 bits": (GREY.astype(np.uint16) * 16, "16 bits"),
    "PIL I": (Image.fromarray(GREY.astype(np.int32)), "16 bits"),
    "PIL I;16": (Image.fromarray(GREY.astype(np.uint16)), "16 bits"),
    "uint8 of a float image": (
        (RGB / 255).round().astype(np.uint8),
        "uint8, where white is 255, and has values 0 and 1",
    ),
    "PIL L of a mask": (Image.fromarray((GREY > 99).astype(np.uint8)), "uint8"),
    "float, divided twice": ((RGB / 255 / 255).astype(np.float32), r"values up to 1/255 only, as if divided twice"),
    "float tensor": (torch.from_numpy(RGB / 255**2), "as if divided twice"),
}


@pytest.mark.parametrize(("image", "cause"), ALMOST_BLACK.values(), ids=ALMOST_BLACK.keys())
def test_values_of_another_range(image, cause):
    """They are used unchanged, with a warning."""
    with pytest.warns(UserWarning, match=f"the image is almost black: .*{cause}"):
        pixels = to_pixels(image)
    assert pixels.float().max() <= (0.004 if pixels.is_floating_point() else 16)


@pytest.mark.parametrize(
    "image",
    [
        RGB,
        GREY.astype(np.uint16) * 257,
        RGB.astype(np.float32) / 255,
        np.zeros((5, 5), np.uint16),
        Image.new("1", (5, 5), 1),
    ]
    + [np.zeros((5, 5, 3), dtype) for dtype in (np.uint8, np.float32)],
)
def test_images_in_the_range_of_their_type(image):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_pixels(image)


REFUSED = {
    "empty": (np.zeros((0, 5, 3), np.uint8), "empty"),
    "empty tensor": (torch.zeros(3, 0, 5), "empty"),
    "two channels": (np.zeros((5, 5, 2), np.uint8), r"shape \(5, 5, 2\)"),
    "channels first": (np.zeros((3, 50, 60), np.uint8), "channels first"),
    "four dimensions": (np.zeros((1, 5, 5, 3), np.uint8), r"shape \(1, 5, 5, 3\)"),
    "one dimension": (np.zeros(5, np.uint8), r"shape \(5,\)"),
    "scalar": (np.zeros((), np.uint8), r"shape \(\)"),
    "int64": (np.zeros((5, 5, 3), np.int64), "int64"),
    "bool": (np.zeros((5, 5, 3), bool), "bool"),
    "complex": (np.zeros((5, 5, 3), complex), "complex"),
    "objects": (np.full((5, 5, 3), None), "object"),
    "integer tensor": (torch.zeros(5, 5, 3, dtype=torch.int32), "int32"),
    "nan": (np.full((5, 5, 3), np.nan), "nan"),
    "infinite": (np.full((5, 5, 3), np.inf), "inf"),
    "float 0-255": (RGB.astype(np.float32), r"expected \[0, 1\]"),
    "negative": (np.full((5, 5, 3), -0.5), r"-0\.5"),
    "pil integers out of range": (Image.fromarray(np.full((5, 5), 70000, np.int32)), "70000"),
}


@pytest.mark.parametrize(("image", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_images(image, message):
    with pytest.raises(ImageError, match=message):
        to_pixels(image)


@pytest.mark.parametrize("image", [None, 5, [[1, 2]]], ids=repr)
def test_other_types(image):
    with pytest.raises(TypeError, match=type(image).__name__):
        to_pixels(image)
