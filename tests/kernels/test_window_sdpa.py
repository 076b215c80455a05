"""Attention by torch, over whole maps and after the rotation: the configuration names the backend, or torch chooses."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from sam2fast.kernels import _launch
from sam2fast.kernels import _sdpa as sdpa
from sam2fast.kernels import window_attention as package
from sam2fast.kernels import window_attention as shapes
from sam2fast.kernels._dispatch import backend
from sam2fast.kernels._launch import Row
from sam2fast.kernels._op import OPS
from sam2fast.kernels.memory_attention import rope_attention_reference
from sam2fast.kernels.window_attention import window_attention
from sam2fast.utils.testing import relative_error

CPU = torch.device("cpu")


@pytest.fixture
def heads():
    """Queries, keys and values of four heads."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 4, 30, 16, generator=generator) for _ in range(3)]


@pytest.fixture
def calls(monkeypatch):
    """Names of the backends that were called; they support everything, and compute as torch does."""
    found = []

    def stand_in(name):
        def call(*tensors, scale):
            found.append(name)
            return F.scaled_dot_product_attention(*tensors, scale=scale)

        return call

    monkeypatch.setattr(sdpa, "_is_supported", lambda *tensors: True)
    monkeypatch.setattr(sdpa, "refused", set())
    monkeypatch.setattr(sdpa, "_BACKENDS", {sdpa.FLASH: stand_in("flash"), sdpa.CUDNN: stand_in("cudnn")})
    return found


def test_the_named_backend_is_called(heads, calls):
    for choice in (sdpa.KERNEL, sdpa.DEFAULT, sdpa.FLASH, sdpa.CUDNN, 9):
        assert torch.equal(sdpa.attention_by(choice)(*heads), F.scaled_dot_product_attention(*heads))
    assert calls == ["flash", "cudnn"]


def test_scores_are_scaled(heads, calls):
    for choice in (sdpa.DEFAULT, sdpa.FLASH, sdpa.CUDNN):
        expected = F.scaled_dot_product_attention(*heads, scale=0.1)
        assert torch.equal(sdpa.attention_by(choice, 0.1)(*heads), expected)


def test_what_a_backend_refuses_is_not_tried_again(heads, calls, monkeypatch):
    def refuse(*tensors, scale):
        calls.append("refused")
        raise RuntimeError("no execution plan")

    monkeypatch.setitem(sdpa._BACKENDS, sdpa.CUDNN, refuse)
    attend = sdpa.attention_by(sdpa.CUDNN)
    for _ in range(3):
        assert torch.equal(attend(*heads), F.scaled_dot_product_attention(*heads))
    assert calls == ["refused"]
    attend(*(x[:1] for x in heads))
    assert calls == ["refused"] * 2
    sdpa.attention_by(sdpa.FLASH)(*heads)
    assert calls[2:] == ["flash"]


def test_a_graph_holds_the_named_backend(heads, calls):
    graph = torch.compile(sdpa.attention_by(sdpa.CUDNN), backend="eager", fullgraph=True)
    assert torch.equal(graph(*heads), F.scaled_dot_product_attention(*heads)) and calls == ["cudnn"]
    assert not sdpa.refused


def test_out_of_memory_is_no_refusal(heads, calls, monkeypatch):
    def full(*tensors, scale):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setitem(sdpa._BACKENDS, sdpa.CUDNN, full)
    with pytest.raises(torch.OutOfMemoryError):
        sdpa.attention_by(sdpa.CUDNN)(*heads)
    assert not sdpa.refused


def test_what_is_left_to_torch():
    with FakeTensorMode():
        for device, dtype, d, suits in (
            ("cuda", torch.bfloat16, 96, True),
            ("cuda", torch.float16, 56, True),
            ("cuda", torch.float32, 96, False),
            ("cuda", torch.bfloat16, 256, True),
            ("cuda", torch.bfloat16, 264, False),
            ("cuda", torch.bfloat16, 90, False),
            ("cpu", torch.bfloat16, 96, False),
        ):
            x = torch.empty(1, 2, 64, d, device=device, dtype=dtype)
            assert sdpa._is_supported(x, x, x) == suits
        wanted = torch.empty(1, 2, 64, 96, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        assert not sdpa._is_supported(wanted, wanted, wanted)
        with torch.no_grad():
            assert sdpa._is_supported(wanted, wanted, wanted)


@pytest.mark.parametrize("choice", [sdpa.DEFAULT, sdpa.FLASH, sdpa.CUDNN])
@pytest.mark.parametrize("queries", [256, 64])
@torch.no_grad()
def test_operators_of_the_backends_have_the_expected_results(choice, queries):
    """By shape, dtype and device, as tracing sees them."""
    with FakeTensorMode():
        query, key, value = (
            torch.empty(1, tokens, 4, 72, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
            for tokens in (queries, 256, 256)
        )
        out = sdpa.attention_by(choice)(query, key, value)
    assert (out.shape, out.dtype, out.device.type) == (query.shape, torch.bfloat16, "cuda")
    assert not sdpa.refused


@torch.no_grad()
def test_a_row_names_the_backend(monkeypatch):
    """As it does on a GPU, by the dispatcher's choice and not under a forced reference implementation."""
    chosen = []
    monkeypatch.setattr(package, "attention_by", lambda choice: chosen.append(choice))
    monkeypatch.setattr(OPS["window_attention"], "uses_kernel", lambda *_: False)
    monkeypatch.setattr(package, "window_attention_reference", lambda *_, **__: None)
    monkeypatch.setattr(_launch, "architecture", lambda device: "sm_90")
    for choice in (sdpa.DEFAULT, sdpa.CUDNN):
        meta = {"BLOCK_M": 64, "BLOCK_N": 64, "SDPA": choice}
        config = Row("*", "*", "global", meta, {"num_warps": 4})
        monkeypatch.setattr(_launch, "custom_rows", lambda config=config: {"window_attention": [config]})
        assert shapes.sdpa_choice(CPU, torch.float32) == choice
        with FakeTensorMode():
            qkv, bias = (torch.empty(*size, 48, device="cuda") for size in ((1, 8, 8), ()))
            window_attention(qkv, bias, 2, 0)
            window_attention(qkv, bias, 2, 4)
            with backend("torch"):
                window_attention(qkv, bias, 2, 0)
    assert chosen == [sdpa.DEFAULT, sdpa.CUDNN]


@pytest.mark.parametrize(("heads", "d", "width"), [(1, 64, 64), (2, 20, 24)])  # heads of 20 channels are padded to 32
@torch.no_grad()
def test_a_row_names_the_backend_of_rotated_attention(triton_device, calls, monkeypatch, heads, d, width):
    """A forced kernel, a number of splits and fewer objects than ``SDPA_FROM`` take our kernel."""
    launch = pytest.importorskip("sam2fast.kernels.memory_attention.launch")
    own = launch.config("cpu", "float32", "*")
    row = Row("*", "*", "*", {**own.meta, "SDPA": sdpa.CUDNN}, own.options)
    generator, side = torch.Generator().manual_seed(0), 5
    made = [torch.randn(2, side**2, heads, n, generator=generator).transpose(1, 2) for n in (d, d, width)]
    arguments = [x.to(triton_device) for x in (*made, *(random_angles(side**2, d // 2, generator)))]
    expected = rope_attention_reference(*arguments)
    cases = [("auto", None, None, ["cudnn"]), ("triton", None, None, []), ("auto", 1, None, []),
             ("auto", None, 2, ["cudnn"]), ("auto", None, 3, [])]  # fmt: skip
    for name, splits, objects, called in cases:  # of two objects
        calls.clear()
        some = row if objects is None else row._replace(meta={**row.meta, "SDPA_FROM": objects})
        monkeypatch.setattr(_launch, "custom_rows", lambda some=some: {"memory_attention": [some]})
        with backend(name):
            actual = launch.rope_attention_triton(*arguments, splits=splits)
        assert calls == called and actual.transpose(1, 2).is_contiguous()
        assert relative_error(expected, actual) < 1e-5


def random_angles(positions, pairs, generator):
    """Cosines and sines."""
    angles = torch.rand(positions, pairs, generator=generator)
    return angles.cos(), angles.sin()
