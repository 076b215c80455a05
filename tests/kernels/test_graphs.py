"""Ops without a kernel of their own, and blocks of the image encoder, as one graph without a break."""

import pytest
import torch
from parity import random_map
from torch import nn

from sam2fast.kernels._cpu import linear
from sam2fast.kernels.linear_gelu import linear_gelu
from sam2fast.kernels.mask_ops import (
    fill_holes_and_remove_sprinkles,
    fill_holes_in_mask_scores,
    masks_to_boxes,
    upsample_masks,
)
from sam2fast.kernels.window_attention import window_attention

LOGITS = random_map(2, 1, 12, 20)
CALLS = {
    "fill_holes_and_remove_sprinkles": lambda: fill_holes_and_remove_sprinkles(LOGITS, 0.0, 8.0, 8.0),
    "fill_holes_in_mask_scores": lambda: fill_holes_in_mask_scores(LOGITS, 8),
    "upsample_masks": lambda: upsample_masks(LOGITS, (32, 40)),
    "masks_to_boxes": lambda: masks_to_boxes(LOGITS > 0),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_op(call):
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(call, backend="aot_eager", fullgraph=True)(), call())


def test_a_mistyped_backend_is_an_error_in_graphs_too(monkeypatch):
    monkeypatch.setenv("SAM2FAST_BACKEND", "trition")
    torch._dynamo.reset()
    with pytest.raises(Exception, match="trition"):
        torch.compile(CALLS["fill_holes_in_mask_scores"], backend="aot_eager", fullgraph=True)()


class Ops(nn.Module):
    """Attention in windows and an MLP, as blocks of the image encoder compute them."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.first, self.last = nn.Linear(96, 288), nn.Linear(96, 384), nn.Linear(384, 96)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv = linear(x, self.qkv.weight, self.qkv.bias)
        x = window_attention(qkv, self.qkv.bias, 1, 8, None)
        return linear(linear_gelu(x, self.first.weight, self.first.bias), self.last.weight, self.last.bias)


class TestOnTheCPU:
    """Ops that compilers would make slower are one node each; exported programs do not contain them."""

    BLOCK = Ops().eval()
    X = random_map(1, 64, 64, 96)

    @torch.no_grad()
    def test_compiled_block(self):
        torch._dynamo.reset()
        graphs = []

        def keep(graph, _):
            graphs.append(graph)
            return graph.forward

        compiled = torch.compile(self.BLOCK, backend=keep, fullgraph=True)(self.X)
        torch.testing.assert_close(compiled, self.BLOCK(self.X), rtol=1e-4, atol=1e-4)
        calls = [n.target for n in graphs[0].graph.nodes if n.op == "call_function"]
        ours = [str(call) for call in calls if isinstance(call, torch._ops.OpOverload)]
        # Multiplications run in oneDNN on some processors, in torch on others.
        assert [name for name in ours if name != "sam2fast.linear.default"] == [
            "sam2fast.window_attention_eager.default"
        ]

    def test_gradients_are_compiled_normally(self):
        torch._dynamo.reset()
        compiled = torch.compile(self.BLOCK, backend="aot_eager", fullgraph=True)
        found = []
        for call in (self.BLOCK, compiled):
            x = self.X[:, :16, :16].clone().requires_grad_()
            call(x).square().mean().backward()
            found.append(x.grad)
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)

    @torch.no_grad()
    def test_exported_block(self):
        exported = torch.export.export(self.BLOCK, (self.X,))
        targets = [str(n.target) for n in exported.graph.nodes if n.op == "call_function"]
        assert targets and not [t for t in targets if "sam2fast" in t]
        torch.testing.assert_close(exported.module()(self.X), self.BLOCK(self.X), rtol=1e-4, atol=1e-4)
