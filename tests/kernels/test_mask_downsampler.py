"""Steps of the mask downsampler in one kernel each, in Triton's interpreter if there is no GPU."""

import pytest
import torch
from kernel_checks import as_accurate
from kernel_records.mask_downsampler import EPS, layers

from sam2fast.kernels._dispatch import backend
from sam2fast.kernels.mask_downsampler import downsample_logits, downsample_map, downsample_map_reference
from sam2fast.kernels.mask_ops import scaled_masks
from sam2fast.modeling.memory_encoder import MaskDownSampler

MASKS = {  # logits, size, kernel, stride and padding
    "one pixel": ((1, 1, 1, 1), (1, 1), 1, 1, 0),
    "one logit": ((2, 1, 1, 1), (9, 70), 3, 2, 1),
    "odd sides": ((2, 1, 5, 7), (19, 131), 3, 2, 1),
    "the size of the masks": ((2, 1, 10, 9), (10, 9), 3, 2, 1),
    "smaller masks": ((1, 1, 20, 30), (7, 11), 3, 2, 1),
    "padding alone at the edges": ((1, 1, 4, 4), (6, 6), 3, 3, 4),
}
MAPS = {  # map, channels of the result, kernel, stride and padding
    "one of each": ((1, 1, 1, 1), 2, 1, 1, 0),
    "blocks that are not full": ((2, 9, 13, 4), 17, 3, 2, 1),
    "more channels than a block": ((1, 5, 6, 70), 100, 3, 2, 1),
    "the last step": ((1, 8, 10, 64), 256, 3, 2, 1),
    "windows side by side": ((2, 8, 8, 3), 48, 4, 4, 0),
    "padding alone at the edges": ((1, 3, 4, 5), 16, 3, 2, 4),
}


@pytest.mark.parametrize(
    ("dtype", "is_binary"),
    [(torch.float32, False), (torch.float32, True), (torch.bfloat16, False), (torch.float16, True)],
    ids=str,
)
@pytest.mark.parametrize(("shape", "size", "k", "stride", "padding"), MASKS.values(), ids=MASKS)
@torch.no_grad()
def test_logits(triton_device, dtype, shape, size, k, stride, padding, is_binary):
    """Binary masks of logits that are powers of two, so that interpolation is exact beside zero."""
    logits = 4 * torch.randn(shape, generator=torch.Generator().manual_seed(3))
    if is_binary:
        logits = logits.sign() * 4
    given = logits.to(triton_device), *layers(4, 1, k, dtype, triton_device, 5)
    as_accurate(downsample_logits, *given, size, 20.0, -10.0, is_binary, stride, padding, EPS, least=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("shape", "N", "k", "stride", "padding"), MAPS.values(), ids=MAPS)
@torch.no_grad()
def test_maps(triton_device, dtype, shape, N, k, stride, padding):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(3)).to(triton_device, dtype)
    as_accurate(downsample_map, x, *layers(N, shape[-1], k, dtype, triton_device, 5), stride, padding, EPS, least=2e-5)


@torch.no_grad()
def test_what_lies_beyond_a_map_is_not_read(triton_device):
    """Neither maps of other objects nor channels of other positions: all of them are NaN."""
    x = torch.full((3, 6, 5, 16), float("nan"), device=triton_device)
    x[1] = 1.0
    given = layers(20, 16, 3, torch.float32, triton_device, 5)
    with backend("triton"):
        found = downsample_map(x, *given, 2, 1, EPS)
    expected = downsample_map_reference(x[1:2], *given, 2, 1, EPS)
    torch.testing.assert_close(found[1:2], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_nan_stays_under_its_taps(triton_device):
    """The last block of the product's depth is not full: it reads no fourth row of taps."""
    x = torch.ones(1, 9, 8, 16, device=triton_device)
    x[0, 4, 5] = float("nan")
    given = layers(20, 16, 3, torch.float32, triton_device, 5)
    with backend("triton"):
        found = downsample_map(x, *given, 2, 1, EPS)
    expected = downsample_map_reference(x, *given, 2, 1, EPS)
    assert 0 < expected.isnan().sum() < expected.numel() / 2 and torch.equal(found.isnan(), expected.isnan())


@torch.no_grad()
def test_the_references_are_the_module():
    """Together with its last layer."""
    torch.manual_seed(0)
    module = MaskDownSampler(embed_dim=32, kernel_size=3, stride=2, padding=1)
    logits, size = 3 * torch.randn(2, 1, 16, 16), (64, 64)
    masks = scaled_masks(logits, size, 20.0, -10.0, False, torch.float32)
    x = None
    for conv, norm, _ in zip(*[iter(module.encoder[:-1])] * 3, strict=True):
        weight = conv.weight.permute(0, 2, 3, 1).contiguous()
        given = weight, conv.bias, norm.weight, norm.bias
        if x is None:
            x = downsample_logits(logits, *given, size, 20.0, -10.0, False, 2, 1, norm.eps)
        else:
            x = downsample_map(x, *given, 2, 1, norm.eps)
    torch.testing.assert_close(module.encoder[-1](x.permute(0, 3, 1, 2)), module(masks), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("size", "is_binary"), [((8, 8), False), ((4, 5), False), ((8, 8), True), ((4, 5), True)])
def test_masks_are_those_of_the_memory_encoder(size, is_binary):
    logits = 3 * torch.randn(2, 1, 4, 5)
    upsampled = torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False)
    masks = (upsampled > 0).float() if is_binary else upsampled.sigmoid()
    found = scaled_masks(logits, size, 20.0, -10.0, is_binary, torch.float32)
    torch.testing.assert_close(found, 20 * masks - 10, rtol=1e-6, atol=1e-5)


def test_unsupported_inputs(triton_device):
    x, given = torch.randn(1, 6, 6, 4, device=triton_device), layers(8, 4, 3, torch.float32, triton_device, 0)
    with pytest.raises(ValueError, match=r"expected maps x \(B, H, W, C\)"):
        downsample_map(x, given[0].permute(0, 3, 1, 2), *given[1:], 2, 1, EPS)
    with pytest.raises(ValueError, match="vectors"):
        downsample_map(x, given[0], given[1][:3], *given[2:], 2, 1, EPS)
    with backend("triton"):
        with pytest.raises(RuntimeError, match="one dtype"):
            downsample_map(x.bfloat16(), *given, 2, 1, EPS)
        with pytest.raises(RuntimeError, match="at most 256 channels"):
            downsample_map(x, *layers(300, 4, 3, torch.float32, triton_device, 0), 2, 1, EPS)
        given = layers(8, 1, 3, torch.float32, triton_device, 0)
        with pytest.raises(RuntimeError, match="supports only 4 channels"):
            downsample_logits(x[:, :1, :, :1], *given, (6, 6), 1.0, 0.0, False, 2, 1, EPS)
