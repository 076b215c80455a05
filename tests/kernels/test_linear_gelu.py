"""A linear layer with GELU in one kernel, in Triton's interpreter if there is no GPU; and the MLP around it."""

import pytest
import torch
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
