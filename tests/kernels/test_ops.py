"""Tests every op with a kernel on the samples of its record."""

import contextlib
import functools

import pytest
import torch
from interpreter import shuffled_programs
from kernel_checks import FIRST, SAMPLES
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from sam2fast.kernels import _launch
from sam2fast.kernels._dispatch import backend, launches
from sam2fast.kernels._op import OPS
from sam2fast.utils.testing import relative_error

# Numpy's, from inside the interpreter.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow|divide by zero):RuntimeWarning")
EACH = pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
# This op reads values, so it is not traced.
UNTRACED = ("decode_masks",)
# The sizes of these ops' results depend on values, or results are sliced. Not all fake CUDA tensors support this.
UNKNOWN_SIZES = ("box_nms", "mask_nms", "encode_masks", "encode_upsampled", "mask_statistics")


def samples_but(*names, of=SAMPLES):
    chosen = [pytest.param(sample, id=name) for name, sample in of.items() if name not in names]
    return pytest.mark.parametrize("sample", chosen)


def first_samples(has_gradient):
    """Parametrizes with the first samples of the operators that have a gradient, or of all others."""
    others = (name for name, sample in FIRST.items() if sample.has_gradient != has_gradient)
    return samples_but(*others, of=FIRST)


class Found(Exception):
    """Ends a call at the first operator of the package."""


class Watch(TorchDispatchMode):
    """Stops at the first operator of the package, and stores the operator with its arguments."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "sam2fast":
            self.found = func, args
            raise Found
        return func(*args, **(kwargs or {}))


class Program(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *arguments):
        return self.function(*arguments)


def tensors(value):
    return [x for x in tree_leaves(value) if isinstance(x, torch.Tensor)]


def given(sample, device="cpu"):
    return tree_map_only(torch.Tensor, lambda x: x.to(device), sample.arguments())


def run(sample, name, arguments):
    with backend(name):
        return sample.function(*arguments)


@functools.cache
def by_kernel(sample, device):
    """Returns the kernel's result. Tests do not change it."""
    with torch.no_grad():
        return run(sample, "triton", given(sample, device))


def assert_same(expected, actual, allowed=1e-5):
    """Asserts that integers are equal, and floating-point numbers close."""
    for e, a in zip(tensors(expected), tensors(actual), strict=True):
        assert (e.shape, e.dtype) == (a.shape, a.dtype)
        if e.is_floating_point() and e.numel():
            assert relative_error(e.cpu(), a.cpu()) <= allowed
        else:
            assert torch.equal(e.cpu(), a.cpu())


def test_every_kernel_has_a_sample():
    other = {sample.launches for sample in SAMPLES.values()} ^ {op.launches for op in OPS.values()}
    assert not other, f"only the kernels or only the samples in bench/kernels have these names: {other}"


@EACH
@torch.no_grad()
def test_the_kernel_computes_what_the_reference_does(sample, triton_device):
    actual, arguments = by_kernel(sample, triton_device), given(sample, triton_device)
    before = launches[sample.launches]
    assert_same(run(sample, "torch", arguments), actual)
    assert launches[sample.launches] == before
    assert all(x.device.type == triton_device.type for x in tensors(actual))
    with shuffled_programs(1):
        assert_same(actual, run(sample, "triton", arguments), allowed=0)
    assert launches[sample.launches] == before + 1


# The implementation of box_nms is chosen when the operator runs.
@pytest.mark.parametrize("name", ["layer_norm", "box_nms"])
def test_a_forced_kernel_that_cannot_run_is_an_error(name, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    sample = FIRST[name]
    with pytest.raises(RuntimeError, match=f"forced to 'triton', but {sample.launches} needs"):
        run(sample, "triton", given(sample))


@EACH
@torch.no_grad()
def test_strided_input(sample, triton_device):
    def strided(x):
        return x.mT.contiguous().mT if x.ndim > 1 else x.repeat_interleave(2)[::2]

    arguments = given(sample, triton_device)
    actual = run(sample, "triton", tree_map_only(torch.Tensor, strided, arguments))
    assert_same(by_kernel(sample, triton_device), actual, allowed=0)


@samples_but(*(name for name, sample in SAMPLES.items() if not sample.batched))
@torch.no_grad()
def test_nothing_at_all(sample, triton_device):
    arguments = given(sample, triton_device)
    nothing = [x[:0] if n < sample.batched else x for n, x in enumerate(arguments)]
    assert_same(run(sample, "torch", nothing), run(sample, "triton", nothing))


@first_samples(has_gradient=True)
def test_gradients(sample, triton_device):
    """Tests the gradients of all inputs. The kernel computes the forward pass only if it is forced."""
    before, found = launches[sample.launches], []
    for name in ("torch", "auto", "triton"):
        arguments = tree_map_only(torch.Tensor, torch.clone, given(sample, triton_device))
        leaves = [x.requires_grad_() for x in tensors(arguments) if x.is_floating_point()]
        outs = tensors(run(sample, name, arguments))
        loss = sum((out.sin() * torch.arange(out.numel(), device=out.device).view_as(out)).sum() for out in outs)
        found.append(torch.autograd.grad(loss, leaves, allow_unused=True))
        assert launches[sample.launches] == before + (name == "triton")
    for name, expected, *actual in zip(range(len(leaves)), *found, strict=True):
        for each in actual:
            if expected is None or each is None:
                assert not any(x is not None and x.any() for x in (expected, each)), name
            else:
                assert relative_error(expected, each) < 1e-4, name


@first_samples(has_gradient=False)
def test_no_gradient(sample, triton_device):
    arguments = given(sample, triton_device)
    for x in tensors(arguments):
        x.requires_grad_(x.is_floating_point() and sample.launches != "preprocess")
    assert not any(x.requires_grad for x in tensors(run(sample, "auto", arguments)))


@EACH
@torch.no_grad()
def test_the_operator_is_well_formed(sample, triton_device, monkeypatch):
    """Tests the fake result and, for an operator's first sample, the schema, autograd registration and tracing."""
    with monkeypatch.context() as patch, Watch() as watch, pytest.raises(Found):
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        run(sample, "triton", given(sample, triton_device))
    operator, arguments = watch.found
    assert operator.name() == f"sam2fast::{sample.operator or sample.launches}"
    if sample is not FIRST[sample.operator or sample.launches]:
        torch.library.opcheck(operator, arguments, test_utils="test_faketensor")
        return
    tracing = f"test_aot_dispatch_{'static' if sample.is_bounded else 'dynamic'}"
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", tracing)
    leaves = tree_map_only(torch.Tensor, lambda x: x.clone().requires_grad_(x.is_floating_point()), arguments)
    with torch.enable_grad():
        if sample.has_gradient:
            torch.library.opcheck(operator, leaves, test_utils=checks)
        else:
            torch.library.opcheck(operator, arguments, test_utils=checks)
            if sample.launches != "preprocess":
                torch.library.opcheck(operator, leaves, test_utils="test_autograd_registration")


@samples_but(*UNTRACED, of=FIRST)
@torch.no_grad()
def test_a_compiled_op(sample):
    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(sample.function, backend="aot_eager", fullgraph=True)
        assert_same(sample.function(*given(sample)), compiled(*given(sample)))


@samples_but(*UNTRACED, *UNKNOWN_SIZES, of=FIRST)
@torch.no_grad()
def test_on_a_gpu_a_kernel_is_one_node(sample, monkeypatch):
    """Tests the graph of a call with fake CUDA tensors."""
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    for op in OPS.values():
        monkeypatch.setattr(op, "prefers_torch", lambda *_: False)  # samples are fp32
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    arguments = given(sample)
    with FakeTensorMode():
        on_gpu = tree_map_only(torch.Tensor, lambda x: torch.empty(x.shape, dtype=x.dtype, device="cuda"), arguments)
        outs = tensors(torch.compile(sample.function, backend=keep, fullgraph=True)(*on_gpu))
    for out, expected in zip(outs, tensors(sample.function(*arguments)), strict=True):
        assert out.is_cuda and out.ndim == expected.ndim and out.dtype == expected.dtype
    calls = [str(n.target) for graph in graphs for n in graph.graph.nodes if n.op == "call_function"]
    ours = [call for call in calls if call.startswith("sam2fast")]
    assert ours == [f"sam2fast.{sample.operator or sample.launches}.default"]


@samples_but(*UNTRACED, of=FIRST)
@torch.no_grad()
def test_an_exported_op(sample):
    """Tests the exported program on its own inputs, and on other values. Results may have other sizes there."""
    program = torch.export.export(Program(sample.function), given(sample)).module()
    other = tree_map_only(torch.Tensor, lambda x: ~x if x.dtype == torch.bool else x.flip(0), given(sample))
    for arguments in (given(sample), other):
        assert_same(sample.function(*arguments), program(*arguments))


@EACH
@torch.no_grad()
def test_launches(sample, triton_device, monkeypatch):
    """Tests that launches run on the tensor's device, set ``enable_fp_fusion``, and give the same bits.

    The kernel calls no operator.
    """
    if triton_device.type != "cpu":
        pytest.skip("launches are watched in Triton's interpreter")
    from triton.runtime import interpreter

    inside, launched, expected = [], [], by_kernel(sample, triton_device)

    def refused(*_):
        raise AssertionError("an operator was called")

    @contextlib.contextmanager
    def on_device(self, tensor):
        inside.append(tensor.device)
        yield
        inside.pop()

    launch = interpreter.GridExecutor.__call__

    def watched(self, *args, **kwargs):
        launched.append(inside and "enable_fp_fusion" in kwargs)
        return launch(self, *args, **kwargs)

    monkeypatch.setattr(_launch.LaunchConfig, "on_device", on_device)
    monkeypatch.setattr(interpreter.GridExecutor, "__call__", watched)
    monkeypatch.setattr(torch._library.custom_ops.CustomOpDef, "__call__", refused)
    assert_same(expected, run(sample, "triton", given(sample)), allowed=0)
    assert launched and all(launched) and not inside
