"""Logits of masks in one kernel, in Triton's interpreter if there is no GPU."""

import pytest
import torch
from kernel_checks import as_accurate
from kernel_records.mask_logits import arguments

from sam2fast.engine.common import in_blocks
from sam2fast.kernels._dispatch import backend
from sam2fast.kernels.mask_logits import mask_logits, mask_logits_reference

SHAPES = {
    "one block": ((1, 1, 1, 1), 1),
    "a row of blocks": ((2, 1, 5, 20), 3),
    "a column of blocks": ((3, 5, 1, 9), 4),
    "published": ((2, 2, 3, 32), 3),
    "rows of several programs": ((1, 1, 17, 64), 1),
}


@pytest.mark.parametrize(
    ("name", "dtype", "features"),
    [
        *((name, torch.float32, "own") for name in SHAPES),
        *((name, torch.float32, "none") for name in ("published", "rows of several programs")),
        *((name, torch.bfloat16, "shared") for name in ("published", "a row of blocks")),
        ("published", torch.float16, "own"),
    ],
    ids=str,
)
@torch.no_grad()
def test_kernel(triton_device, name, dtype, features):
    given = arguments(*SHAPES[name], dtype, triton_device, shared=features == "shared")
    if features == "none":
        given[1] = None
    assert as_accurate(mask_logits, *given, least=2e-5).dtype == torch.float32


@torch.no_grad()
def test_prompts_do_not_mix(triton_device):
    """All other maps are NaN."""
    x, features, weights = arguments((3, 2, 3, 16), 3, torch.float32, triton_device, shared=False)
    for each in (x, features, weights):
        each[::2] = float("nan")
    with backend("triton"):
        found = mask_logits(x, features, weights)
    torch.testing.assert_close(found[1:2], mask_logits_reference(x[1:2], features[1:2], weights[1:2]))


@torch.no_grad()
def test_the_reference_keeps_each_pixel(triton_device):
    """What is put into blocks is found at its pixel."""
    pixels = torch.randn(1, 5, 8, 12, device=triton_device)
    x, weights = in_blocks(pixels, (2, 3)).contiguous(), torch.eye(5, device=triton_device)[None]
    assert torch.equal(mask_logits_reference(x, None, weights), torch.nn.functional.gelu(pixels))
    features = torch.randn(1, 8, 12, 5, device=triton_device)
    expected = torch.nn.functional.gelu(pixels + features.permute(0, 3, 1, 2))
    assert torch.equal(mask_logits_reference(x, features, weights), expected)


def test_unsupported_inputs(triton_device):
    x, features, weights = arguments((2, 1, 2, 8), 3, torch.float32, triton_device)
    for wrong in ((x[0], features, weights), (x, features[:, 1:], weights), (x, features, weights[:1])):
        with pytest.raises(ValueError, match="expected x"):
            mask_logits(*wrong)
    given = arguments((1, 1, 1, 257), 1, torch.float32, triton_device)
    with backend("triton"), pytest.raises(RuntimeError, match="at most 256 channels"):
        mask_logits(*given)
