import itertools
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from parity import random_map
from torch import nn

from sam2fast.engine.by_modules import FastProducts
from sam2fast.kernels import _cpu
from sam2fast.kernels._cpu import linear
from sam2fast.kernels.memory_attention import cpu
from sam2fast.modeling.attention import Attention
from sam2fast.modeling.layers import MLP
from sam2fast.utils.testing import assert_as_accurate_as, relative_error

SHAPES = [(1, 64, 32, 96), (4096, 33), (16, 8, 256), (2, 3, 96), (0, 96), (1000, 96)]
# All pairs of a convolution, a bias and a number of threads occur, since these cases alternate with SHAPES.
BIASES_AND_THREADS = itertools.cycle([(True, 1), (True, 2), (False, 2), (False, 1)])


@pytest.mark.parametrize(
    ("shape", "convolution", "bias", "threads"),
    [(*case, *next(BIASES_AND_THREADS)) for case in itertools.product(SHAPES, [True, False])],
    ids=str,
)
def test_same_as_a_linear_layer(shape, convolution, bias, threads, monkeypatch):
    monkeypatch.setattr(_cpu, "_ONEDNN_IS_FASTER", convolution)
    monkeypatch.setattr(_cpu, "_LARGE_PRODUCT", 2**20)
    x, weight = random_map(*shape), random_map(40, shape[-1], seed=1)
    b = random_map(40, seed=2) if bias else None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            out = linear(x, weight, b)
    finally:
        torch.set_num_threads(before)
    assert out.shape == (*shape[:-1], 40) and out.is_contiguous()
    if x.numel():
        inputs = (x, weight) if b is None else (x, weight, b)
        assert_as_accurate_as(F.linear, out, *inputs)


def test_autograd_autocast_and_other_dtypes_use_torch(monkeypatch):
    by_convolution = []
    monkeypatch.setattr(_cpu, "_ONEDNN_IS_FASTER", True)
    conv2d = lambda *args: by_convolution.append(args) or F.conv2d(*args)  # noqa: E731
    monkeypatch.setattr(_cpu, "F", SimpleNamespace(linear=F.linear, conv2d=conv2d))
    x, weight = random_map(4096, 96), random_map(96, 96)
    with torch.no_grad():
        linear(x, weight)
        assert len(by_convolution) == 1
        linear(x[:2048], weight)  # too small
        linear(x.bfloat16(), weight.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(x, weight).dtype == torch.bfloat16
    linear(x, weight)  # gradients are on
    assert len(by_convolution) == 1
    with torch.no_grad(), pytest.raises(RuntimeError, match="dtype"):
        linear(x.long(), weight)


class TestWithoutInstructionsForBfloat16:
    """Matrix multiplications of bfloat16 values in fp32."""

    @pytest.fixture(autouse=True)
    def imitated(self, monkeypatch):
        monkeypatch.setattr(_cpu, "EMULATES_BFLOAT16", True)

    @pytest.mark.parametrize("way", ["cast", "autocast"])
    def test_the_same_but_for_the_order_of_sums(self, way, monkeypatch):
        x, weight, bias = random_map(7, 33), random_map(40, 33, seed=1), random_map(40, seed=2)
        rounded = [t.bfloat16().double() for t in (x, weight, bias)]
        if way == "cast":
            x, weight, bias = (t.bfloat16() for t in (x, weight, bias))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
            out = linear(x, weight, bias)
            monkeypatch.setattr(_cpu, "EMULATES_BFLOAT16", False)
            native = linear(x, weight, bias)
        assert out.dtype == native.dtype == torch.bfloat16
        exact = F.linear(*rounded)
        # One rounding, of sums that in fp32 are as good as exact.
        assert ((out.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-5).all()
        assert relative_error(exact, out) <= relative_error(exact, native) * 1.01

    def test_no_bfloat16_multiplications_remain(self, monkeypatch):
        """In the encoder and in both attentions of a decoder's block, cast once or under autocast."""
        made = []

        class Watch(torch.utils._python_dispatch.TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                if any(name in str(func) for name in ("mm.", "linear.", "convolution.", "_attention", "conv2d")):
                    made.extend((str(func), t.dtype) for t in args if isinstance(t, torch.Tensor))
                return func(*args, **(kwargs or {}))

        convolution = nn.Conv2d(8, 8, 3, groups=8)
        layers = [convolution, MLP(16, 8, 16, 1), MLP(16, 32, 8, 2, nn.GELU), Attention(16, 2)]
        inputs = [(random_map(1, 8, 5, 5),), (random_map(3, 16),), (random_map(3, 16),), (random_map(2, 5, 16),) * 3]
        with torch.no_grad(), Watch(), FastProducts():
            for layer, x in zip(layers, inputs, strict=True):
                with torch.autocast("cpu", torch.bfloat16):
                    assert layer(*x).dtype == torch.bfloat16
                assert layer.bfloat16()(*x).dtype == torch.bfloat16
        assert made and {dtype for _, dtype in made} == {torch.float32}

    def test_gradients_other_dtypes_and_export_use_torch(self, monkeypatch):
        x, weight = random_map(4, 8).bfloat16(), random_map(8, 8).bfloat16()
        assert not _cpu.emulates_bfloat16(x, weight)
        with torch.no_grad():
            assert _cpu.emulates_bfloat16(x, weight) and not _cpu.emulates_bfloat16(x, weight.float())
            assert not _cpu.emulates_bfloat16(x.to("meta"), weight.to("meta"))
            monkeypatch.setattr(_cpu, "_is_exporting", lambda: True)
            assert not _cpu.emulates_bfloat16(x, weight)


class TestAttend:
    """Softmax by unshifted exponentials, and shifted by the highest score where those overflow."""

    # By how much the scores of each 60 keys are moved.
    @pytest.mark.parametrize(
        "moved", [(0, 0, 0), (90, 0, 0), (0, 120, 0), (-120, -120, -120), (-120, 0, 3), (40, 60, 95), (62, 69, 0)]
    )
    @pytest.mark.parametrize("counts", [(1, 1, 1), (4, 1, 0.5)])
    def test_same_as_softmax(self, moved, counts, monkeypatch):
        monkeypatch.setattr(cpu, "BLOCK", 24)
        query, value = random_map(50, 9), random_map(3, 60, 5, seed=2)
        query[:, 0] = 1
        key = random_map(3, 60, 9, seed=1)
        key[:, :, 0] = 2 * torch.tensor(moved, dtype=torch.float32)[:, None]
        with torch.no_grad():
            out = cpu.attend(query, zip(key, value, counts, strict=True), 0.5, 5)
        scores = 0.5 * query.double() @ key.flatten(0, 1).double().mT
        scores += torch.tensor(counts, dtype=torch.float64).log().repeat_interleave(60)
        expected = scores.softmax(dim=1) @ value.flatten(0, 1).double()
        rounding = max(map(abs, moved)) * torch.finfo(torch.float32).eps  # of the scores
        assert relative_error(expected, out) < 2e-6 + 3 * rounding

    def test_rows_of_very_different_scores(self, monkeypatch):
        """One row needs the highest score, and so does its block."""
        monkeypatch.setattr(cpu, "BLOCK", 16)
        query, key, value = random_map(32, 8), random_map(40, 8, seed=1), random_map(40, 4, seed=2)
        query[3] *= 1000
        query[20] *= 1e-6
        expected = (query.double() @ key.double().mT).softmax(dim=1) @ value.double()
        with torch.no_grad():
            assert relative_error(expected, cpu.attend(query, [(key, value, 1)], 1.0, 4)) < 2e-6

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_values_of_large_scores(self, dtype):
        """Unshifted exponentials exceed the range of float16 long before SAFE_SUMS."""
        query, key, value = random_map(32, 8), random_map(40, 8, seed=1), random_map(40, 4, seed=2).to(dtype)
        query[:, 0], key[:, 0] = 5, 6  # exp(30) = 1e13
        expected = (query.double() @ key.double().mT).softmax(dim=1) @ value.double()
        with torch.no_grad():
            out = cpu.attend(query, [(key, value, 1)], 1.0, 4)
        assert relative_error(expected, out) < (2e-5 if dtype == torch.float16 else 2e-2)
