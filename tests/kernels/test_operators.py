"""Where an operator is called, and where its function is called directly."""

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sam2fast.kernels import _operators
from sam2fast.kernels._operators import call_with_gradient, register_operator


def _scaled(x: Tensor, factor: float) -> Tensor:
    return x * factor


scaled = register_operator("sam2fast_tests::scaled")(_scaled)
scaled.register_fake(lambda x, factor: torch.empty_like(x))
scaled.register_autograd(
    lambda ctx, grad: (grad * ctx.factor, None),
    setup_context=lambda ctx, inputs, output: setattr(ctx, "factor", inputs[1]),
)
NODE = torch.ops.sam2fast_tests.scaled.default


@pytest.fixture
def direct(monkeypatch):
    """The arguments of direct calls of the function."""
    seen = []

    def function(*arguments):
        seen.append(arguments)
        return _scaled(*arguments)

    monkeypatch.setitem(_operators._functions, scaled, function)
    return seen


class Watch(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class Logged(Tensor):
    """A tensor subclass that sees every operator."""

    seen: list = []

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        cls.seen.append(func)
        return torch.zeros(2)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_the_function_is_called(direct, mode):
    x = torch.nn.Parameter(torch.arange(3.0))
    with mode():
        out = call_with_gradient(scaled, x, 2.0)
    assert len(direct) == 1 and out.tolist() == [0, 2, 4] and not out.requires_grad


def test_with_gradients_it_is_the_operator(direct):
    x = torch.arange(3.0, requires_grad=True)
    call_with_gradient(scaled, x, 2.0).sum().backward()
    assert not direct and x.grad.tolist() == [2, 2, 2]


@torch.no_grad()
def test_a_mode_sees_the_operator(direct):
    with Watch() as watch:
        call_with_gradient(scaled, torch.ones(2), 2.0)
    assert NODE in watch.seen and not direct


@torch.no_grad()
def test_fake_tensors_go_through_the_operator(direct):
    with FakeTensorMode() as mode:
        x = torch.empty(4, 5, device="cuda")
        assert call_with_gradient(scaled, x, 2.0).shape == (4, 5)
    out = call_with_gradient(scaled, x, 2.0)  # outside the mode, to which the tensor still belongs
    assert out.is_cuda and out.fake_mode is mode and not direct


@torch.no_grad()
def test_a_tensor_subclass_sees_the_operator(direct):
    Logged.seen.clear()
    call_with_gradient(scaled, Tensor._make_subclass(Logged, torch.ones(2)), 2.0)
    assert NODE in Logged.seen and not direct


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_torchs_tracer_sees_the_operator(direct):
    traced = torch.jit.trace(lambda x: call_with_gradient(scaled, x, 2.0), torch.ones(2), check_trace=False)
    assert "sam2fast_tests::scaled" in str(traced.graph) and not direct


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_transforms_see_the_operator(direct):
    out = torch.vmap(lambda x: call_with_gradient(scaled, x, 2.0))(torch.ones(3, 2))
    assert torch.equal(out, torch.full((3, 2), 2.0)) and not direct


@torch.no_grad()
def test_a_graph_holds_the_operator(direct):
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    torch.compile(lambda x: call_with_gradient(scaled, x, 2.0), backend=keep, fullgraph=True)(torch.ones(2))
    assert NODE in [n.target for n in graphs[0].graph.nodes] and not direct
    program = torch.export.export(Module(), (torch.ones(2),))
    assert NODE in [n.target for n in program.graph.nodes] and not direct


class Module(torch.nn.Module):
    def forward(self, x):
        return call_with_gradient(scaled, x, 2.0)


def test_a_torch_without_these_names_always_gets_the_operator(direct, monkeypatch):
    monkeypatch.setattr(_operators, "_dispatch_modes", lambda: 1)
    with torch.no_grad():
        call_with_gradient(scaled, torch.ones(2), 2.0)
    assert not direct
