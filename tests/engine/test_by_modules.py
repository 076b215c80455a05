"""Parts that a user changed, on the CPU: their modules compute products as fast as plans do."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from compiled_forms import compile_module, graphs
from planned import difference, parts_of, results, without
from torch import nn

from sam2fast.engine.by_modules import FastProducts
from sam2fast.kernels import _cpu


@pytest.fixture
def by_convolution(monkeypatch):
    """The weights of linear layers that were computed as convolutions, which all with enough rows are from here on."""
    seen = []

    def counted(x, weight, bias):
        seen.append(weight)
        return F.conv2d(x, weight, bias)

    monkeypatch.setattr(_cpu, "F", SimpleNamespace(linear=F.linear, conv2d=counted))
    monkeypatch.setattr(_cpu, "_ONEDNN_IS_FASTER", True)
    monkeypatch.setattr(_cpu, "_LARGE_PRODUCT", 0)
    return seen


class Wrapped(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


WRAPPED = {
    "image": "image_encoder.trunk.blocks.1.mlp.layers.0",
    "masks": "sam_mask_decoder.transformer.layers.0.cross_attn_token_to_image.k_proj",
}


@pytest.mark.parametrize("part", WRAPPED)
def test_linear_layers_of_users_modules_are_fast(model, by_convolution, part):
    expected, layer = results(model), model.get_submodule(WRAPPED[part])
    model.set_submodule(WRAPPED[part], Wrapped(layer))
    by_convolution.clear()
    found = results(model)
    assert parts_of(model) == without(part) and difference(expected, found) < 1e-5
    assert any(weight.data_ptr() == layer.weight.data_ptr() for weight in by_convolution)


def test_an_operation_of_its_own_is_kept(by_convolution):
    class Doubled(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            with torch._C.DisableTorchFunctionSubclass():
                assert func is F.linear
                return 2 * F.linear(*args)

    x, weight = torch.randn(32, 8), torch.randn(4, 8)
    with torch.no_grad(), FastProducts():
        found, plain = F.linear(x, weight.as_subclass(Doubled)), F.linear(x, weight)
    torch.testing.assert_close(found, 2 * plain)
    assert len(by_convolution) == 1  # of the plain weight


PRODUCTS = {
    "linear": lambda x: nn.Linear(16, 8),
    "convolution": lambda x: nn.Conv2d(2, 4, 3, stride=2, padding=1),
    "transposed convolution": lambda x: nn.ConvTranspose2d(2, 4, 2, stride=2),
}


@pytest.mark.parametrize("make", PRODUCTS.values(), ids=PRODUCTS)
def test_bfloat16_without_instructions_for_it(monkeypatch, make):
    monkeypatch.setattr(_cpu, "EMULATES_BFLOAT16", True)
    torch.manual_seed(0)
    x = torch.randn(1, 2, 16, 16).bfloat16()
    layer = make(x).bfloat16()
    expected = copy.deepcopy(layer).float()(x.float()).bfloat16()
    with torch.no_grad(), FastProducts():
        assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("path", ["image_encoder.trunk.blocks.1.mlp", "sam_mask_decoder.transformer"])
@torch.no_grad()
def test_what_a_user_compiled_is_one_graph(model, path):
    expected = results(model)
    compile_module(model, path, "forward", fullgraph=True)
    assert difference(expected, results(model)) < 1e-5
    assert difference(expected, results(model)) < 1e-5 and graphs() == 1


def test_with_gradients_nothing_is_replaced(model, by_convolution):
    layer, x = nn.Linear(8, 8), torch.ones(32, 8)
    with FastProducts():
        layer(x).sum().backward()
        assert not by_convolution
        with torch.no_grad():
            layer(x)
    assert len(by_convolution) == 1
