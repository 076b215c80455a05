"""A depthwise convolution with its layer norm in one kernel, in Triton's interpreter if there is no GPU."""

import pytest
import torch
from kernel_checks import as_accurate
from kernel_records.depthwise_norm import EPS, arguments

from sam2fast.kernels._dispatch import backend
from sam2fast.kernels._op import OPS
from sam2fast.kernels.depthwise_norm import depthwise_norm, depthwise_norm_reference
from sam2fast.modeling.memory_encoder import CXBlock

SHAPES = {
    "one position": ((1, 1, 1, 2), 7),
    "maps smaller than the kernel": ((3, 2, 3, 20), 7),
    "one row": ((2, 1, 9, 33), 5),
    "one column": ((2, 9, 1, 48), 3),
    "no neighbours": ((2, 3, 4, 8), 1),
    "published": ((1, 8, 9, 256), 7),
}


@pytest.mark.parametrize(
    ("name", "dtype", "has_shift"),
    [
        *((name, torch.float32, True) for name in SHAPES),
        *(("one row", *case) for case in ((torch.float32, False), (torch.bfloat16, True), (torch.float16, False))),
    ],
    ids=str,
)
@torch.no_grad()
def test_kernel(triton_device, dtype, name, has_shift):
    x, shift, *rest = arguments(*SHAPES[name], dtype, triton_device)
    as_accurate(depthwise_norm, x, shift if has_shift else None, *rest, EPS, least=2e-5)


@torch.no_grad()
def test_maps_do_not_mix(triton_device):
    """All other maps are NaN."""
    x, *rest = arguments((3, 4, 5, 16), 7, torch.float32, triton_device)
    x[::2] = float("nan")
    with backend("triton"):
        found = depthwise_norm(x, *rest, EPS)
    torch.testing.assert_close(found[1:2], depthwise_norm_reference(x[1:2], *rest, EPS), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_reference_is_a_convnext_blocks():
    torch.manual_seed(0)
    block, x = CXBlock(12), torch.randn(2, 6, 5, 12)
    weight = block.dwconv.weight[:, 0].permute(1, 2, 0).contiguous()
    norm = block.norm.weight, block.norm.bias, block.norm.eps
    expected = block.norm(block.dwconv(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
    torch.testing.assert_close(
        depthwise_norm(x, None, weight, block.dwconv.bias, *norm), expected, rtol=1e-5, atol=1e-5
    )


def test_fp32_is_left_to_torch():
    """Its convolutions were not measured."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        given = arguments((1, 2, 2, 4), 3, dtype, torch.device("cpu"))
        assert OPS["depthwise_norm"].prefers_torch(*given, EPS) == (dtype == torch.float32)


def test_unsupported_inputs(triton_device):
    x, shift, weight, *rest = arguments((1, 3, 3, 8), 3, torch.float32, triton_device)
    with pytest.raises(ValueError, match="with an odd k"):
        depthwise_norm(x, shift, weight[:2, :2], *rest, EPS)
    with pytest.raises(ValueError, match="vectors"):
        depthwise_norm(x, shift[:3], weight, *rest, EPS)
    given = arguments((1, 1, 1, 1025), 1, torch.float32, triton_device)
    with backend("triton"), pytest.raises(RuntimeError, match="at most 1024 channels"):
        depthwise_norm(*given, EPS)
