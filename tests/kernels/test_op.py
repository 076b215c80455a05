"""What an op makes of its declaration: the operator and where it is called, the schema, the choice of a kernel."""

import inspect
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sam2fast.kernels import _op
from sam2fast.kernels._dispatch import backend
from sam2fast.kernels._op import OPS, Op, op, schema
from sam2fast.kernels.mask_ops import pack_masks
from sam2fast.kernels.mlp import mlp


def scaled_reference(x: Tensor, factor: float) -> Tensor:
    return x * factor


scaled = Op("tests_scaled", scaled_reference, "none.none")
del OPS[scaled.name]
NODE = torch.ops.sam2fast.tests_scaled.default


@pytest.fixture
def direct(monkeypatch):
    """The arguments of direct calls of the kernel, which the operator calls, too."""
    seen = []

    def compute(*arguments):
        if inspect.currentframe().f_back.f_code is Op.run.__code__:
            seen.append(arguments)
        return scaled_reference(*arguments)

    monkeypatch.setattr(scaled, "compute", compute)
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
        out = scaled.run(x, 2.0)
    assert len(direct) == 1 and out.tolist() == [0, 2, 4] and not out.requires_grad


def test_with_gradients_it_is_the_operator(direct):
    x = torch.arange(3.0, requires_grad=True)
    scaled.run(x, 2.0).sum().backward()
    assert not direct and x.grad.tolist() == [2, 2, 2]


@torch.no_grad()
def test_a_mode_sees_the_operator(direct):
    with Watch() as watch:
        scaled.run(torch.ones(2), 2.0)
    assert NODE in watch.seen and not direct


@torch.no_grad()
def test_fake_tensors_go_through_the_operator(direct):
    with FakeTensorMode() as mode:
        x = torch.empty(4, 5, device="cuda")
        assert scaled.run(x, 2.0).shape == (4, 5)
    out = scaled.run(x, 2.0)  # outside the mode, to which the tensor still belongs
    assert out.is_cuda and out.fake_mode is mode and not direct


@torch.no_grad()
def test_a_tensor_subclass_sees_the_operator(direct):
    Logged.seen.clear()
    scaled.run(Tensor._make_subclass(Logged, torch.ones(2)), 2.0)
    assert NODE in Logged.seen and not direct


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_torchs_tracer_sees_the_operator(direct):
    traced = torch.jit.trace(lambda x: scaled.run(x, 2.0), torch.ones(2), check_trace=False)
    assert "sam2fast::tests_scaled" in str(traced.graph) and not direct


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_transforms_see_the_operator(direct):
    out = torch.vmap(lambda x: scaled.run(x, 2.0))(torch.ones(3, 2))
    assert torch.equal(out, torch.full((3, 2), 2.0)) and not direct


@torch.no_grad()
def test_a_graph_holds_the_operator(direct):
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    torch.compile(lambda x: scaled.run(x, 2.0), backend=keep, fullgraph=True)(torch.ones(2))
    assert NODE in [n.target for n in graphs[0].graph.nodes] and not direct
    program = torch.export.export(Module(), (torch.ones(2),))
    assert NODE in [n.target for n in program.graph.nodes] and not direct


class Module(torch.nn.Module):
    def forward(self, x):
        return scaled.run(x, 2.0)


def test_a_torch_without_these_names_always_gets_the_operator(direct, monkeypatch):
    monkeypatch.setattr(_op, "_dispatch_modes", lambda: 1)
    with torch.no_grad():
        scaled.run(torch.ones(2), 2.0)
    assert not direct


@op(shapes="x (N, K)", kernel="none.none")
def declared(x: Tensor, factor: float = 2.0, offset: float = 1.0) -> Tensor:
    """Scales."""
    return x * factor + offset


del OPS["declared"]


@torch.no_grad()
def test_an_op_is_called_as_its_function():
    x = torch.ones(1, 2)
    for out in (declared(x), declared(x, 2.0), declared(offset=1.0, x=x), declared(x, 2.0, 1.0)):
        assert out.tolist() == [[3.0, 3.0]]
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: declared(x, offset=3.0), backend="eager", fullgraph=True)
    assert compiled(x).tolist() == [[5.0, 5.0]]
    assert declared.__doc__ == "Scales." and declared.__name__ == "declared"
    assert list(inspect.signature(declared).parameters) == ["x", "factor", "offset"]
    for wrong in ((), (x, 1.0, 1.0, 1.0)):
        with pytest.raises(TypeError, match="argument"):
            declared(*wrong)
    with pytest.raises(TypeError, match="unexpected keyword argument 'scale'"):
        declared(x, scale=1.0)
    with pytest.raises(ValueError, match=r"expected x \(N, K\), got x \(2,\), factor 2.0, offset 1.0"):
        declared(x[0])


def test_kernels_are_found_by_names():
    assert mlp._kernel == ("sam2fast.kernels.mlp_triton", "mlp_triton")
    assert pack_masks._kernel == ("sam2fast.kernels.mask_ops.launch", "pack_masks_triton")


def test_the_schema_is_that_of_the_reference_implementation():
    def reference(
        x: Tensor, bias: Tensor | None, size: tuple[int, int], stride: tuple[int, int] | None, count: int,
        dtype: torch.dtype, means: Sequence[float] = (), fp8: bool = False, name: str = "a",
    ) -> tuple[Tensor, Tensor]: ...  # fmt: skip

    expected = (
        "(Tensor x, Tensor? bias, SymInt[] size, SymInt[]? stride, SymInt count, ScalarType dtype, float[] means=[], "
    )
    assert schema(reference) == expected + "bool fp8=False, str name='a') -> (Tensor, Tensor)"
    assert schema(scaled_reference) == "(Tensor x, float factor) -> Tensor"


def test_the_reference_is_used_at_once_where_a_gradient_is_needed(monkeypatch):
    monkeypatch.setattr(_op._dispatch, "KERNEL_DEVICES", ("cpu",))
    monkeypatch.setattr(_op._dispatch, "use_triton", lambda *_, **__: True)
    plain, learns = torch.zeros(1), torch.zeros(1, requires_grad=True)
    assert scaled.uses_kernel(plain, 2.0) and not scaled.uses_kernel(learns, 2.0)
    with torch.no_grad():
        assert scaled.uses_kernel(learns, 2.0)
    with backend("triton"):
        assert scaled.uses_kernel(learns, 2.0)
    with backend("torch"):
        assert not scaled.uses_kernel(plain, 2.0)
