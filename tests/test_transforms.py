"""Accepted images, refused images, and numerical agreement with the official package."""

import io
import re
import warnings

import cv2
import numpy as np
import oracle  # noqa: F401  (makes torchvision importable for the official package)
import pytest
import torch
from parity import random_image
from PIL import Image
from sam2.utils.transforms import SAM2Transforms as OfficialTransforms

from sam2fast.transforms import ImageError, SAM2Transforms, to_pixels
from sam2fast.video_io import open_frames
from sam2fast.video_io.frames import CurrentFrame

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


@pytest.mark.parametrize("normalize", [True, False])
def test_coordinates_as_the_original(normalize):
    ours, official = SAM2Transforms(1024, 0.0), OfficialTransforms(1024, 0.0)
    points, boxes = torch.rand(2, 5, 2) * 100, torch.rand(3, 4) * 100
    for name, value in (("transform_coords", points), ("transform_boxes", boxes)):
        expected, actual = (getattr(t, name)(value, normalize, (60, 80)) for t in (official, ours))
        assert torch.allclose(expected, actual, rtol=1e-6)


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


def test_path_and_string(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(RGB).save(path)
    assert np.array_equal(to_pixels(path).numpy(), RGB)
    assert np.array_equal(to_pixels(str(path)).numpy(), RGB)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_orientation_is_applied_to_paths_bytes_and_files(tmp_path, kind):
    """An opened image is used unchanged, as in the official package; Pillow itself rotates TIFF."""
    path, exif = tmp_path / "rotated", Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to view
    Image.fromarray(RGB).save(path, kind, exif=exif)
    content = path.read_bytes()
    with path.open("rb") as file:
        file.read(7)  # files are read from the start
        for image in (path, content, bytearray(content), memoryview(content), io.BytesIO(content), file, file):
            assert np.array_equal(to_pixels(image).numpy(), np.rot90(RGB, -1))
        assert not file.closed
    with Image.open(path) as image:
        assert np.array_equal(to_pixels(image).numpy(), RGB if kind == "PNG" else np.rot90(RGB, -1))


@pytest.mark.parametrize("most", [700, 4095, 10_000, 16_383, 32_767, 32_769, 65_535, 0])
def test_sixteen_bit_png(tmp_path, caplog, most):
    """15 bits or fewer are scaled by their own maximum, and the log says so; opened images stay as they are."""
    path, values = tmp_path / "deep.png", np.linspace(0, most, 48).astype(np.uint16).reshape(6, 8)
    Image.fromarray(values).save(path)
    white = most if 0 < most < 32_768 else 65_535
    for image, name in ((path, "deep.png"), (path.read_bytes(), "the data")):
        caplog.clear()
        assert np.array_equal(to_pixels(image).numpy(), np.rint(values * (255 / white))[..., None].repeat(3, 2))
        assert (f"{name} has 16 bits, and values up to {most} only" in caplog.text) == (white == most < 32_768)
    with warnings.catch_warnings(), Image.open(path) as image:
        warnings.simplefilter("ignore")  # almost black
        assert np.array_equal(to_pixels(image).numpy()[..., 0], np.rint(values / 257))


ALMOST_BLACK = {
    "8-bit values in uint16": (GREY.astype(np.uint16), "16 bits, where white is 65535, and values up to 4095 only"),
    "RGB": (RGB.astype(">u2"), "16 bits"),
    "12 bits": (GREY.astype(np.uint16) * 16, "16 bits"),
    "PIL I": (Image.fromarray(GREY.astype(np.int32)), "16 bits"),
    "PIL I;16": (Image.fromarray(GREY.astype(np.uint16)), "16 bits"),
    "uint8 of a float image": ((RGB / 255).round().astype(np.uint8), "uint8, where white is 255"),
    "PIL L of a mask": (Image.fromarray((GREY > 99).astype(np.uint8)), "uint8"),
    "float, divided twice": ((RGB / 255 / 255).astype(np.float32), "1/255 only, as if divided twice"),
    "float tensor": (torch.from_numpy(RGB / 255**2), "divided twice"),
}


@pytest.mark.parametrize(("image", "cause"), ALMOST_BLACK.values(), ids=ALMOST_BLACK.keys())
def test_values_of_another_range(image, cause):
    """They are used unchanged, with a warning."""
    with pytest.warns(UserWarning, match=f"the image is almost black: .*{cause}"):
        pixels = to_pixels(image)
    assert pixels.float().max() <= (0.004 if pixels.is_floating_point() else 16)


@pytest.mark.parametrize("kind", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("most", [255, 4095, 10_000, 65535])
def test_sixteen_bit_colours(tmp_path, kind, channels, most):
    """Pillow keeps the upper 8 bits, so values of fewer bits were almost black. A window is of the file's values."""
    path, values = tmp_path / f"deep{kind}", np.linspace(0, most, 48 * channels).astype(np.uint16)
    values = values.reshape(6, 8, channels)
    values[..., 3:] = 65535
    path.write_bytes(cv2.imencode(kind, values)[1])
    colours = values[..., 2::-1]
    expected = np.rint(colours * (255 / colours.max())).astype(np.uint8) if most < 65535 else colours >> 8
    for pixels in (to_pixels(path), to_pixels(path.read_bytes())):
        assert np.array_equal(pixels.numpy(), expected)
    if most < 65535:
        frame, _, _ = CurrentFrame(0, 8, torch.device("cpu")).prepared(path)
        windowed = open_frames([path], 32, window=(0, most / 2)).pixels(0)
        assert np.array_equal(frame.numpy(), np.asarray(Image.fromarray(expected).resize((8, 8))))
        halves = np.rint(np.minimum(colours / (most / 2), 1) * 255).astype(np.uint8)
        assert np.array_equal(windowed, np.asarray(Image.fromarray(halves).resize((32, 32))))


BLACK = [np.zeros((5, 5, 3), dtype) for dtype in (np.uint8, np.uint16, np.float32)]
WHITE = [Image.new("1", (5, 5), 1), GREY.astype(np.uint16) * 257, RGB.astype(np.float32) / 255]


@pytest.mark.parametrize("kind", [np.ma.masked_array, np.asmatrix])
def test_subclasses_of_arrays(kind):
    grey = np.asarray(GREY)
    assert torch.equal(to_pixels(kind(grey)), to_pixels(grey))


@pytest.mark.parametrize("image", [RGB, *BLACK, *WHITE])
def test_images_in_the_range_of_their_type(image):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_pixels(image)


def content_of(kind):
    buffer = io.BytesIO()
    Image.fromarray(random_image(300, 300)).save(buffer, kind)
    return buffer.getvalue()


with open(__file__, "rb") as CLOSED:
    pass
REFUSED = {
    "empty": (np.zeros((0, 5, 3), np.uint8), "empty"),
    "empty tensor": (torch.zeros(3, 0, 5), "empty"),
    "two channels": (np.zeros((5, 5, 2), np.uint8), "shape (5, 5, 2)"),
    "channels first": (np.zeros((3, 50, 60), np.uint8), "channels first"),
    "four dimensions": (np.zeros((1, 5, 5, 3), np.uint8), "shape (1, 5, 5, 3)"),
    "one dimension": (np.zeros(5, np.uint8), "shape (5,)"),
    "scalar": (np.zeros((), np.uint8), "shape ()"),
    "int64": (np.zeros((5, 5, 3), np.int64), "int64"),
    "bool": (np.zeros((5, 5, 3), bool), "bool"),
    "complex": (np.zeros((5, 5, 3), complex), "complex"),
    "objects": (np.full((5, 5, 3), None), "object"),
    "integer tensor": (torch.zeros(5, 5, 3, dtype=torch.int32), "int32"),
    "nan": (np.full((5, 5, 3), np.nan), "nan"),
    "infinite": (np.full((5, 5, 3), np.inf), "inf"),
    "float 0-255": (RGB.astype(np.float32), "expected [0, 1]"),
    "negative": (np.full((5, 5, 3), -0.5), "-0.5"),
    "pil integers out of range": (Image.fromarray(np.full((5, 5), 70000, np.int32)), "70000"),
    "no bytes": (b"", "cannot be read"),
    "bytes of no image": (b"no image", "cannot be read"),
    "truncated bytes": (content_of("PNG")[:900], "cannot be read"),
    "file of no image": (io.BytesIO(b"none"), "cannot be read"),
    "closed file": (CLOSED, "cannot be read"),
    "text file": (io.StringIO("none"), 'expected mode "rb"'),
}


@pytest.mark.parametrize(("image", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_images(image, message):
    with pytest.raises(ImageError, match=re.escape(message)):
        to_pixels(image)


@pytest.mark.parametrize("name", ["missing.png", "text.png", "cut.png", "cut.jpeg"])
def test_refused_files(tmp_path, name):
    path = tmp_path / name
    if name != "missing.png":
        path.write_bytes(b"no image" if name == "text.png" else content_of(path.suffix[1:])[:3000])
    with pytest.raises(FileNotFoundError if name == "missing.png" else ImageError, match=name):
        to_pixels(path)


TRANSFORMS = SAM2Transforms(256, 0.0)


def test_it_is_a_module_without_weights():
    official = OfficialTransforms(256, 0.0)
    assert isinstance(TRANSFORMS, torch.nn.Module) and TRANSFORMS.state_dict() == official.state_dict() == {}
    for name in ("resolution", "mask_threshold", "max_hole_area", "max_sprinkle_area", "mean", "std", "training"):
        assert getattr(TRANSFORMS, name) == getattr(official, name), name
    assert TRANSFORMS.to("cpu").eval() is TRANSFORMS


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        *((lambda x=x: to_pixels(x), TypeError, type(x).__name__) for x in (None, 5, [[1, 2]])),
        (lambda: TRANSFORMS.transforms(torch.zeros(3, 60, 80, dtype=torch.uint8)), ImageError, "torch.uint8"),
        (lambda: TRANSFORMS.transform_coords(torch.zeros(1, 2), normalize=True), ValueError, "orig_hw"),
    ],
)
def test_refused_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()
