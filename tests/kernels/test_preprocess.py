"""Resizing and normalising in one kernel, in Triton's interpreter if there is no GPU."""

import pytest
import torch
from kernel_checks import by_kernel

from sam2fast.kernels._dispatch import backend, launches
from sam2fast.kernels.preprocess import MEAN, STD, resize_and_normalise, resize_and_normalise_reference
from sam2fast.transforms import SAM2Transforms
from sam2fast.video_io.frames import Frames
from sam2fast.video_io.sources import ImageList

# Input and output sides: smaller, larger, by odd factors, one pixel, and one axis alone.
SIZES = [((30, 49), (16, 16)), ((13, 9), (32, 48)), ((16, 100), (16, 16)), ((1, 1), (7, 5)), ((9, 5), (1, 1)),
         ((33, 32), (32, 33)), ((60, 7), (11, 64))]  # fmt: skip


def pixels(batch, height, width, device, dtype=torch.uint8):
    values = torch.randint(0, 256, (batch, height, width, 3), generator=torch.Generator().manual_seed(0))
    return values.to(device, torch.uint8) if dtype == torch.uint8 else (values / 255).to(device, dtype)


@pytest.mark.parametrize(
    ("dtype", "given", "wanted"),
    [*((torch.uint8, *sizes) for sizes in SIZES), *((torch.float32, *SIZES[n]) for n in (1, 5))],
    ids=str,
)
def test_kernel(triton_device, dtype, given, wanted):
    image, white = pixels(2, *given, triton_device, dtype), 255.0 if dtype == torch.uint8 else 1.0
    expected = resize_and_normalise_reference(image, wanted, MEAN, STD, white)
    actual = by_kernel(resize_and_normalise, image, wanted, MEAN, STD, white)
    assert actual.shape == (2, 3, *wanted) and actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=2e-5)


def test_an_image_of_the_right_size_keeps_its_bits(triton_device):
    image = pixels(1, 24, 40, triton_device)
    with backend("triton"):
        actual = resize_and_normalise(image, (24, 40), MEAN, STD, 255.0)
    assert torch.equal(actual, resize_and_normalise_reference(image, (24, 40), MEAN, STD, 255.0))
    assert actual.is_contiguous(memory_format=torch.channels_last)


def test_images_and_frames_use_it(triton_device):
    """The image predictor's transforms and the video predictor's frames."""
    transforms, image = SAM2Transforms(32, 0.0), pixels(1, 40, 50, torch.device("cpu"))[0]

    answers = []
    for name in ("torch", "triton"):
        before = launches["preprocess"]
        with backend(name):
            frames = Frames(ImageList([image[:32, :32]], 32), 32, triton_device)
            answers.append((transforms(image, triton_device), frames[0]))
        assert launches["preprocess"] - before == (2 if name == "triton" else 0)
    torch.testing.assert_close(answers[0][0], answers[1][0], rtol=1e-5, atol=2e-5)
    assert torch.equal(answers[0][1], answers[1][1])


def test_wrong_pixels():
    image = pixels(1, 4, 4, torch.device("cpu"))
    for bad in (image[0], image[..., :2], image.short()):
        with pytest.raises(ValueError, match=r"expected pixels \(B, H, W, 3\)"):
            resize_and_normalise(bad, (8, 8), MEAN, STD, 255.0)
    with pytest.raises(ValueError, match="no pixels"):
        resize_and_normalise(image[:, :0], (8, 8), MEAN, STD, 255.0)
