"""A linear layer with GELU in one kernel, in Triton's interpreter if there is no GPU; and the MLP around it."""

import pytest
import torch
import torch.nn.functional as F
from parity import random_map

from sam2fast.kernels._dispatch import backend
from sam2fast.kernels.linear_gelu import gelu_mlp, linear_gelu

DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda d: str(d).removeprefix("torch.")
)


def inputs(shape, outer, device, dtype=torch.float32):
    K = shape[-1]
    x, weight, bias = random_map(*shape), random_map(outer, K, seed=1) * K**-0.5, random_map(outer, seed=2)
    return [t.to(device, dtype) for t in (x, weight, bias)]


def test_unsupported_inputs(triton_device):
    x, weight, bias = inputs((5, 16), 24, triton_device)
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


@DTYPES
@torch.no_grad()
def test_mlp_in_a_graph(dtype):
    """One node, in chunks of rows; the last chunk is shorter."""
    x, weight1, bias1 = inputs((1, 70, 80, 96), 48, torch.device("cpu"), dtype)
    weight2, bias2 = (t.to(dtype) for t in (random_map(96, 48, seed=4), random_map(96, seed=5)))
    expected = gelu_mlp(x, weight1, bias1, weight2, bias2)
    torch._dynamo.reset()
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph.forward

    actual = torch.compile(gelu_mlp, backend=keep, fullgraph=True)(x, weight1, bias1, weight2, bias2)
    torch.testing.assert_close(actual, expected)
    calls = [n.target for n in graphs[0].graph.nodes if n.op == "call_function"]
    assert calls[-1] == torch.ops.sam2fast.gelu_mlp_eager.default and len(calls) <= 2  # x.is_cpu may be one
