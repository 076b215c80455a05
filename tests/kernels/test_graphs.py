"""Every op, and the image encoder as a whole, as one graph without a break."""

import pytest
import tame_weights
import torch
from parity import NARROW, random_map
from torch._subclasses.fake_tensor import FakeTensorMode

import sam2fast.kernels.linear_gelu
from sam2fast.build_sam import build_sam2
from sam2fast.kernels.layer_norm import add_layer_norm
from sam2fast.kernels.linear_gelu import linear_gelu
from sam2fast.kernels.mask_ops import (
    fill_holes_and_remove_sprinkles,
    fill_holes_in_mask_scores,
    mask_statistics,
    masks_to_boxes,
    pack_masks,
    suppress_overlaps,
    unpack_masks,
    upsample_and_pack,
    upsample_and_threshold,
    upsample_masks,
)
from sam2fast.kernels.memory_attention import AttendedMemory, memory_attention, rope_attention
from sam2fast.kernels.preprocess import resize_and_normalise
from sam2fast.kernels.window_attention import window_attention
from sam2fast.modeling.hiera import MultiScaleBlock
from sam2fast.modeling.position_encoding import axial_rope

ROPE = axial_rope(16, 4, 4, 10000.0, torch.device("cpu"))
LOGITS, QKV, BIAS = random_map(2, 1, 12, 20), random_map(1, 16, 20, 96), random_map(96)
QUERY, KEY, VALUE = (random_map(1, 1, 16, 16, seed=i) for i in range(3))
KEY_WEIGHT, VALUE_WEIGHT = random_map(16, 8), random_map(24, 8, seed=9)
MEMORY = AttendedMemory(
    pages=random_map(3, 16, 8),
    page_table=torch.tensor([[0, 2, -1], [-1, 1, -1]], dtype=torch.int32),
    page_time=torch.zeros(2, 3, dtype=torch.int32),
    position_encoding=random_map(16, 8, seed=1),
    time_encoding=random_map(7, 8, seed=2),
    pointers=random_map(2, 4, 8, seed=3),
    pointer_encoding=random_map(2, 4, 8, seed=4),
    pointer_valid=torch.tensor([[True, True, False, False], [False] * 4]),
)
CALLS = {
    "window_attention": lambda: window_attention(QKV, BIAS, 2, 7),
    "window_attention pooled": lambda: window_attention(QKV, BIAS, 2, 8, (2, 2)),
    "rope_attention": lambda: rope_attention(QUERY, KEY, VALUE, *ROPE),
    "memory_attention": lambda: memory_attention(QUERY, MEMORY, KEY_WEIGHT, None, VALUE_WEIGHT, None, *ROPE),
    "fill_holes_and_remove_sprinkles": lambda: fill_holes_and_remove_sprinkles(LOGITS, 0.0, 8.0, 8.0),
    "fill_holes_in_mask_scores": lambda: fill_holes_in_mask_scores(LOGITS, 8),
    "upsample_masks": lambda: upsample_masks(LOGITS, (32, 40)),
    "masks_to_boxes": lambda: masks_to_boxes(LOGITS > 0),
    "mask_statistics": lambda: mask_statistics(LOGITS[:, 0], (32, 50)),
    "upsample_and_threshold": lambda: upsample_and_threshold(LOGITS, (32, 50)),
    "upsample_and_pack": lambda: upsample_and_pack(LOGITS, (32, 50)),
    "pack_masks": lambda: pack_masks(LOGITS > 0),
    "unpack_masks": lambda: unpack_masks(pack_masks(LOGITS > 0), 20),
    "suppress_overlaps": lambda: suppress_overlaps(LOGITS),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_op(call):
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(call, backend="aot_eager", fullgraph=True)(), call())


def test_a_mistyped_backend_is_an_error_in_graphs_too(monkeypatch):
    monkeypatch.setenv("SAM2FAST_BACKEND", "trition")
    torch._dynamo.reset()
    with pytest.raises(Exception, match="trition"):
        torch.compile(CALLS["upsample_masks"], backend="aot_eager", fullgraph=True)()


@pytest.mark.parametrize("op", ["rope_attention", "memory_attention", "window_attention"])
def test_on_a_gpu_a_kernel_is_one_node(op, monkeypatch):
    """Traced with fake tensors on a GPU."""
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    with FakeTensorMode(), torch.no_grad():
        query, cos, weight = (torch.empty(*s, device="cuda") for s in ((1, 1, 16, 16), (16, 8), (16, 8)))
        memory = AttendedMemory(*(torch.empty(x.shape, dtype=x.dtype, device="cuda") for x in MEMORY))
        if op == "rope_attention":
            out = torch.compile(rope_attention, backend=keep, fullgraph=True)(query, query, query, cos, cos)
        elif op == "window_attention":
            qkv, bias = (torch.empty(*s, device="cuda") for s in ((1, 8, 8, 48), (48,)))
            out = torch.compile(window_attention, backend=keep, fullgraph=True)(qkv, bias, 2, 4, (2, 2))
        else:
            compiled = torch.compile(memory_attention, backend=keep, fullgraph=True)
            out = compiled(query, memory, weight, None, weight, None, cos, cos)
    shapes = {"rope_attention": (1, 1, 16, 16), "memory_attention": (2, 16, 16), "window_attention": (1, 4, 4, 16)}
    assert out.is_cuda and out.shape == shapes[op]
    calls = [n.target for n in graphs[0].graph.nodes if n.op == "call_function"]
    assert calls == [getattr(torch.ops.sam2fast, op).default]


def test_image_encoder():
    overrides = ["++model.image_size=128", *NARROW]
    model = build_sam2("sam2.1_hiera_t", None, device="cpu", hydra_overrides_extra=overrides)
    tame_weights.fill(model, 0)
    x = random_map(1, 3, 128, 128)
    with torch.no_grad():
        compiled = torch.compile(model.encode_image, backend="aot_eager", fullgraph=True)(x)
        for expected, actual in zip(model.encode_image(x), compiled, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


class TestOnTheCPU:
    """Ops that compilers would make slower are one node each; exported programs do not contain them."""

    BLOCK = MultiScaleBlock(96, 96, 1, 8).eval()
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
        # The two small multiplications run in oneDNN on some processors, in torch on others.
        assert [name for name in ours if name != "sam2fast.linear.default"] == [
            "sam2fast.window_attention_eager.default",
            "sam2fast.gelu_mlp_eager.default",
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


@pytest.mark.parametrize("op", ["add_layer_norm", "layer_norm", "linear_gelu", "resize_and_normalise"])
def test_around_attention_a_kernel_is_one_node_too(op, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(sam2fast.kernels.linear_gelu, "_prefers_torch", lambda *_: False)
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    with FakeTensorMode(), torch.no_grad():
        x, weight, bias, outer = (torch.empty(*s, device="cuda") for s in ((2, 5, 8), (12, 8), (8,), (12,)))
        pixels = torch.empty(1, 30, 40, 3, dtype=torch.uint8, device="cuda")
        call, shapes = {
            "add_layer_norm": (lambda: add_layer_norm(x, x, bias, bias, 1e-6, torch.bfloat16), [(2, 5, 8)] * 2),
            "layer_norm": (lambda: add_layer_norm(x, None, bias, bias, 1e-6)[1:], [(2, 5, 8)]),
            "linear_gelu": (lambda: [linear_gelu(x, weight, outer)], [(2, 5, 12)]),
            "resize_and_normalise": (
                lambda: [resize_and_normalise(pixels, (16, 16), (0.5,) * 3, (0.5,) * 3, 255.0)],
                [(1, 3, 16, 16)],
            ),
        }[op]
        outs = torch.compile(call, backend=keep, fullgraph=True)()
    assert [tuple(out.shape) for out in outs] == shapes and all(out.is_cuda for out in outs)
    calls = [str(n.target) for n in graphs[0].graph.nodes if n.op == "call_function"]
    assert [c for c in calls if c.startswith("sam2fast")] == [f"sam2fast.{op}.default"]
