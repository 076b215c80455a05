"""A block's norm, MLP and residual in one kernel, in Triton's interpreter if there is no GPU."""

import pytest
import torch
from kernel_checks import as_accurate
from kernel_records.mlp import EPS, arguments

from sam2fast.kernels._dispatch import backend
from sam2fast.kernels.mlp import is_joined, mlp
from sam2fast.modeling.hiera_block import MultiScaleBlock

# Rows, channels and hidden columns.
SHAPES = {
    "two pieces": (9, 96, 384),
    "one piece": (130, 64, 256),
    "channels and columns that fill no block": (33, 40, 70),
    "a second piece that is not full": (5, 140, 33),
    "one of each": (1, 1, 1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("rows", "channels", "columns"), SHAPES.values(), ids=SHAPES)
@torch.no_grad()
def test_kernel(triton_device, dtype, rows, channels, columns):
    """On rows of a larger tensor."""
    x, *given = arguments(rows, channels, columns, dtype, triton_device)
    x = torch.cat([x, torch.full_like(x, float("nan"))])[:rows]
    found = as_accurate(mlp, x, *given, EPS)
    if found.numel() == 1:
        torch.testing.assert_close(found, mlp.reference(x, *given, EPS))


@pytest.mark.parametrize("channels", [96, 24])
@torch.no_grad()
def test_the_reference_is_the_end_of_a_block(channels):
    """Equal bit by bit."""
    torch.manual_seed(0)
    block, x = MultiScaleBlock(channels, channels, 2), torch.randn(1, 8, 8, channels)
    torch.nn.init.normal_(block.norm2.weight)
    first, last = block.mlp.layers
    expected = x + block.mlp(block.norm2(x))
    norm, shift = (block.norm2.weight, block.norm2.bias), torch.zeros(channels)
    found = mlp(x, shift, *norm, first.weight, first.bias, last.weight, last.bias, block.norm2.eps)
    assert torch.equal(found, expected)


@torch.no_grad()
def test_nan_stays_in_its_row(triton_device):
    x, *given = arguments(4, 32, 64, torch.float32, triton_device)
    x[1, 3] = float("nan")
    with backend("triton"):
        found = mlp(x, *given, EPS)
    assert found.isnan().all(dim=1).tolist() == [False, True, False, False]
    assert not found[[0, 2, 3]].isnan().any()


def test_widths_that_are_joined(monkeypatch):
    """On Hopper in 16 bits: the first stage of tiny and small."""
    device = torch.device("cpu")
    for hopper in (True, False):
        monkeypatch.setattr("sam2fast.kernels.mlp.is_hopper", lambda device, hopper=hopper: hopper)
        joined = [C for C in (16, 64, 96, 112, 144, 192) if is_joined(device, torch.bfloat16, C)]
        assert joined == ([96] if hopper else []) and not is_joined(device, torch.float32, 96)


def test_unsupported_inputs(triton_device):
    x, shift, *given = arguments(4, 8, 20, torch.float32, triton_device)
    for wrong in ((x[:, :7], shift, *given), (x, shift[:7], *given), (x, shift, *given[:2], given[2][:5], *given[3:])):
        with pytest.raises(ValueError, match=r"expected x \(\.\.\., C\)"):
            mlp(*wrong, EPS)
    with backend("triton"):
        with pytest.raises(RuntimeError, match="one dtype"):
            mlp(x.bfloat16(), shift, *given, EPS)
        with pytest.raises(RuntimeError, match="float64"):
            mlp(*(each.double() for each in (x, shift, *given)), EPS)
        with torch.autocast(triton_device.type, torch.bfloat16), pytest.raises(RuntimeError, match="autocast"):
            mlp(x, shift, *given, EPS)
        with pytest.raises(RuntimeError, match="at most 192 channels"):
            mlp(*arguments(1, 193, 4, torch.float32, triton_device), EPS)
