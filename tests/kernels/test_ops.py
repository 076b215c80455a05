"""What every op with a kernel has to do, on the samples of its record."""

import contextlib
import functools

import pytest
import torch
from interpreter import shuffled_programs
from kernel_records import RECORDS
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from sam2fast.kernels import _launch
from sam2fast.kernels._dispatch import backend, launches
from sam2fast.kernels._op import OPS
from sam2fast.utils.testing import relative_error

# Numpy's, from inside the interpreter.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|overflow|divide by zero):RuntimeWarning")
SAMPLES = {name: sample for record in RECORDS.values() for name, sample in record.samples.items()}
EACH = pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
FIRST = {sample.operator or sample.launches: sample for sample in reversed(SAMPLES.values())}
# An operator's other samples are traced alone.
OTHERS = [name for name, sample in SAMPLES.items() if sample not in FIRST.values()]
DIFFERENTIABLE = {name for name, sample in SAMPLES.items() if sample.has_gradient}
# They read values.
UNTRACED = ("decode_masks",)
# How many results there are depends on values, or results are cut, which fake tensors on a GPU cannot be everywhere.
UNKNOWN_SIZES = ("box_nms", "mask_nms", "encode_masks", "encode_upsampled", "mask_statistics")


def samples_but(*names):
    chosen = [pytest.param(sample, id=name) for name, sample in SAMPLES.items() if name not in names]
    return pytest.mark.parametrize("sample", chosen)


class Found(Exception):
    """An operator of the package is called."""


class Watch(TorchDispatchMode):
    """Stops at the first operator of the package, and keeps it with its arguments."""

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
    """The kernel's result, which no test changes."""
    with torch.no_grad():
        return run(sample, "triton", given(sample, device))


def assert_same(expected, actual, allowed=1e-5):
    """Integers are equal; fp32 is close."""
    for e, a in zip(tensors(expected), tensors(actual), strict=True):
        assert (e.shape, e.dtype) == (a.shape, a.dtype)
        if e.is_floating_point() and e.numel():
            assert relative_error(e.cpu(), a.cpu()) <= allowed
        else:
            assert torch.equal(e.cpu(), a.cpu())


def test_every_kernel_has_a_sample():
    other = {sample.launches for sample in SAMPLES.values()} ^ {op.launches for op in OPS.values()}
    assert not other, f"the samples in bench/kernels are not those of the kernels: {other}"


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


@EACH
def test_a_forced_kernel_that_cannot_run_is_an_error(sample, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
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


@samples_but(*SAMPLES.keys() - DIFFERENTIABLE)
def test_gradients(sample, triton_device):
    """By every input; a kernel runs forward only where it is forced."""
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


@samples_but(*DIFFERENTIABLE)
def test_no_gradient(sample, triton_device):
    arguments = given(sample, triton_device)
    for x in tensors(arguments):
        x.requires_grad_(x.is_floating_point() and sample.launches != "preprocess")
    assert not any(x.requires_grad for x in tensors(run(sample, "auto", arguments)))


@EACH
@pytest.mark.parametrize("is_traced", [False, True])
@torch.no_grad()
def test_the_operator_is_well_formed(sample, is_traced, triton_device, monkeypatch):
    """Schema, fake result, autograd registration, tracing. Of an operator's other samples the fake result alone."""
    with monkeypatch.context() as patch, Watch() as watch, pytest.raises(Found):
        patch.setattr(torch.compiler, "is_compiling", lambda: True)
        run(sample, "triton", given(sample, triton_device))
    operator, arguments = watch.found
    assert operator.name() == f"sam2fast::{sample.operator or sample.launches}"
    tracing = (f"test_aot_dispatch_{'static' if sample.is_bounded else 'dynamic'}",) if is_traced else ()
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    leaves = tree_map_only(torch.Tensor, lambda x: x.clone().requires_grad_(x.is_floating_point()), arguments)
    if sample is not FIRST[sample.operator or sample.launches]:
        torch.library.opcheck(operator, arguments, test_utils=checks[2:])
        return
    with torch.enable_grad():
        if sample.has_gradient:
            torch.library.opcheck(operator, leaves, test_utils=(*checks, *tracing))
        else:
            torch.library.opcheck(operator, arguments, test_utils=(*checks, *tracing))
            if sample.launches != "preprocess":
                torch.library.opcheck(operator, leaves, test_utils=checks[1:2])


@samples_but(*UNTRACED, *OTHERS)
@torch.no_grad()
def test_a_compiled_op(sample):
    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = torch.compile(sample.function, backend="aot_eager", fullgraph=True)
        assert_same(sample.function(*given(sample)), compiled(*given(sample)))


@samples_but(*UNTRACED, *UNKNOWN_SIZES)
@torch.no_grad()
def test_on_a_gpu_a_kernel_is_one_node(sample, monkeypatch):
    """Traced with fake tensors on a GPU."""
    pytest.importorskip("triton")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    for op in OPS.values():
        monkeypatch.setattr(op, "prefers_torch", lambda *_: False)  # as samples are fp32
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


@samples_but(*UNTRACED, *OTHERS)
@torch.no_grad()
def test_an_exported_op(sample):
    """Also on other values, whose results may be of other sizes."""
    program = torch.export.export(Program(sample.function), given(sample)).module()
    other = tree_map_only(torch.Tensor, lambda x: ~x if x.dtype == torch.bool else x.flip(0), given(sample))
    for arguments in (given(sample), other):
        assert_same(sample.function(*arguments), program(*arguments))


@EACH
@torch.no_grad()
def test_launches(sample, triton_device, monkeypatch):
    """Each is on the tensor's device, says whether products are fused, calls no operator, and gives the same bits."""
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
