"""A linear layer with GELU in one kernel, in Triton's interpreter if there is no GPU."""

import pytest
import torch
import torch.nn.functional as F
from parity import random_map

from sam2fast.kernels._dispatch import backend
from sam2fast.kernels.linear_gelu import linear_gelu


def test_unsupported_inputs(triton_device):
    x, weight, bias = (random_map(*shape).to(triton_device) for shape in ((5, 16), (24, 16), (24,)))
    with pytest.raises(ValueError, match=r"expected x \(\.\.\., K\)"):
        linear_gelu(x, weight.t(), bias)
    with backend("triton"):
        with pytest.raises(RuntimeError, match="one dtype"):
            linear_gelu(x.bfloat16(), weight, bias)
        with torch.autocast(triton_device.type, torch.bfloat16), pytest.raises(RuntimeError, match="autocast"):
            linear_gelu(x, weight, bias)


def test_gelu_is_exact(triton_device):
    """As close in fp32 as by an error function of fp32, also where the tail is all that is left."""
    z = torch.linspace(-12, 12, 16 * 4096, device=triton_device).view(-1, 16)
    with backend("triton"):
        found = linear_gelu(z, torch.eye(16, device=triton_device), torch.zeros(16, device=triton_device))
    exact = F.gelu(z.double())
    error, of_torch = ((x.double() - exact).abs() for x in (found, F.gelu(z)))
    assert error.max() < 5e-7 and (error / (exact.abs() + 1e-3)).max() < 2 * (of_torch / (exact.abs() + 1e-3)).max()
