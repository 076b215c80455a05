"""Patches as one product, in Triton's interpreter if there is no GPU."""

import oracle  # noqa: F401  (makes the official package importable)
import pytest
import torch
from kernel_checks import as_accurate
from kernel_records.embed_patches import MEAN, STD, arguments, in_float64
from mini_model import mini_model

from sam2fast.kernels._dispatch import backend
from sam2fast.kernels.embed_patches import embed_patches, embed_patches_reference
from sam2fast.kernels.preprocess import resize_and_normalise_reference

# Images, height, width and channels: one token, one row or column of tokens, tokens that fill no whole block, channels
# in one part and in two.
SIZES = [((2, 4, 4), 5), ((1, 4, 76), 96), ((3, 76, 4), 24), ((2, 36, 20), 144), ((1, 64, 64), 112), ((1, 8, 8), 16)]


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        *((torch.uint8, dtype) for dtype in (torch.float32, torch.bfloat16, torch.float16)),
        *((torch.float32, torch.float32), (torch.float32, torch.bfloat16), (torch.bfloat16, torch.float16)),
    ],
    ids=str,
)
@pytest.mark.parametrize(("shape", "channels"), SIZES)
@torch.no_grad()
def test_tokens(triton_device, shape, channels, dtype, given):
    inputs = arguments(shape, channels, given, dtype, triton_device)
    assert as_accurate(embed_patches, *inputs, least=1e-6, exact=in_float64(*inputs)).dtype == dtype


@torch.no_grad()
def test_padding_is_zero_after_normalization(triton_device):
    """Black is far from zero there: a token at the border of a black image sums fewer weights than one inside."""
    pixels = torch.zeros(1, 12, 12, 3, dtype=torch.uint8, device=triton_device)
    weight = torch.ones(7, 7, 3, 16, device=triton_device)
    bias, position = (torch.zeros(size, device=triton_device) for size in ((16,), (3, 3, 16)))
    with backend("triton"):
        found = embed_patches(pixels, weight, bias, position, MEAN, STD)
    black = -sum(m / s for m, s in zip(MEAN, STD, strict=True))
    taps = torch.tensor([4.0, 7, 7], device=triton_device)  # in each direction
    torch.testing.assert_close(found[0, :, :, 3], black * taps[:, None] * taps)


@torch.no_grad()
def test_bytes_give_what_their_normalized_map_gives(triton_device):
    pixels, *layers = arguments((2, 16, 20), 24, torch.uint8, torch.float32, triton_device)[:4]
    images = resize_and_normalise_reference(pixels, (16, 20), MEAN, STD, 255.0)
    for name in ("torch", "triton"):
        with backend(name):
            expected = embed_patches(images.permute(0, 2, 3, 1), *layers)
            found = embed_patches(pixels, *layers, MEAN, STD)
        torch.testing.assert_close(found, expected, rtol=0, atol=0 if name == "torch" else 1e-5)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, from inside the interpreter
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@torch.no_grad()
def test_only_tokens_of_a_broken_pixel_are_broken(triton_device, value):
    pixels, *layers = arguments((1, 32, 32), 16, torch.float32, torch.float32, triton_device)
    for y, x in ((9, 16), (19, 11), (0, 0), (31, 31)):
        broken = pixels.clone()
        broken[0, y, x] = value
        with backend("triton"):
            found = embed_patches(broken, *layers)
        expected = embed_patches_reference(broken, *layers)
        assert torch.equal(found.isfinite().all(-1), expected.isfinite().all(-1))


@torch.no_grad()
def test_the_reference_is_the_official_embedding():
    from sam2.modeling.backbones.hieradet import Hiera

    torch.manual_seed(0)
    trunk = Hiera(embed_dim=24, num_heads=1, stages=(1, 1, 1, 1), window_spec=(8, 4, 14, 7), global_att_blocks=())
    torch.nn.init.normal_(trunk.pos_embed)
    torch.nn.init.normal_(trunk.pos_embed_window)
    images, projection = torch.randn(2, 3, 64, 96), trunk.patch_embed.proj
    expected = trunk.patch_embed(images) + trunk._get_pos_embed((16, 24))
    weight, position = projection.weight.permute(2, 3, 1, 0).contiguous(), trunk._get_pos_embed((16, 24))[0]
    found = embed_patches(images.permute(0, 2, 3, 1), weight, projection.bias, position)
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_the_reference_is_the_modules_bit_by_bit():
    trunk = mini_model(()).image_encoder.trunk
    images, projection = torch.randn(2, 3, 64, 64), trunk.patch_embed.proj
    position = trunk._get_pos_embed((16, 16))
    expected = trunk.patch_embed(images.contiguous(memory_format=torch.channels_last)) + position
    weight = projection.weight.permute(2, 3, 1, 0).contiguous()
    assert torch.equal(embed_patches(images.permute(0, 2, 3, 1), weight, projection.bias, position[0]), expected)


def test_unsupported_inputs(triton_device):
    inputs = arguments((1, 8, 12), 8, torch.uint8, torch.float32, triton_device)
    pixels, weight, bias, position, *numbers = inputs
    for wrong in ((pixels[0], weight, bias, position), (pixels, weight.permute(3, 2, 0, 1), bias, position),
                  (pixels, weight, bias[:7], position), (pixels, weight, bias, position[None])):  # fmt: skip
        with pytest.raises(ValueError, match=r"expected pixels \(B, H, W, 3\)"):
            embed_patches(*wrong, *numbers)
    with pytest.raises(ValueError, match="expected 3 numbers"):
        embed_patches(pixels, weight, bias, position)
    with pytest.raises(ValueError, match="expected 0 numbers"):
        embed_patches(pixels.float(), weight, bias, position, *numbers)
    with backend("triton"):
        with pytest.raises(RuntimeError, match="multiples of 4, got 8 and 11"):
            embed_patches(pixels[:, :, :11], weight, bias, position, *numbers)
        with pytest.raises(RuntimeError, match="at most 256 channels"):
            embed_patches(*arguments((1, 4, 4), 257, torch.uint8, torch.float32, triton_device))
        with pytest.raises(RuntimeError, match="float64"):
            embed_patches(pixels, weight.double(), bias, position, *numbers)
        with torch.autocast(triton_device.type, torch.bfloat16), pytest.raises(RuntimeError, match="autocast"):
            embed_patches(*inputs)
    assert embed_patches(pixels[:, :7, :11], weight, bias, position, *numbers).shape == (1, 2, 3, 8)
