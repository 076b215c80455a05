import pytest
import torch
import torch.nn.functional as F
from parity import random_map

from sam2fast.kernels import _cpu
from sam2fast.kernels._cpu import _convolution_pays, linear
from sam2fast.testing import assert_as_accurate_as, relative_error


@pytest.mark.parametrize("shape", [(1, 64, 32, 96), (4096, 33), (16, 8, 256), (2, 3, 96), (0, 96), (1000, 96)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("convolution", [True, False])
def test_same_as_a_linear_layer(shape, bias, threads, convolution, monkeypatch):
    monkeypatch.setattr(_cpu, "_ONEDNN_IS_FASTER", convolution)
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


def test_autograd_autocast_and_other_dtypes_take_the_ordinary_way(monkeypatch):
    monkeypatch.setattr(_cpu, "_ONEDNN_IS_FASTER", True)
    x, weight = random_map(4096, 96), random_map(40, 96)
    with torch.no_grad():
        assert _convolution_pays(x, weight)
    assert not _convolution_pays(x, weight)  # gradients are on
    with torch.no_grad():
        assert not _convolution_pays(x.bfloat16(), weight.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            assert not _convolution_pays(x, weight)
            assert linear(x, weight).dtype == torch.bfloat16


class TestAttend:
    """By exponentials of the scores, and below the highest of them where those do not fit."""

    # By how much the scores of each 60 keys are moved.
    @pytest.mark.parametrize(
        "moved", [(0, 0, 0), (90, 0, 0), (0, 120, 0), (-120, -120, -120), (-120, 0, 3), (40, 60, 95), (62, 69, 0)]
    )
    def test_same_as_softmax(self, moved, monkeypatch):
        monkeypatch.setattr(_cpu, "BLOCK", 24)
        query, value = random_map(50, 9), random_map(3, 60, 5, seed=2)
        query[:, 0] = 1
        key = random_map(3, 60, 9, seed=1)
        key[:, :, 0] = 2 * torch.tensor(moved, dtype=torch.float32)[:, None]
        with torch.no_grad():
            out = _cpu.attend(query, zip(key, value, strict=True), 0.5, 5)
        scores = 0.5 * query.double() @ key.flatten(0, 1).double().mT
        expected = scores.softmax(dim=1) @ value.flatten(0, 1).double()
        rounding = max(map(abs, moved)) * torch.finfo(torch.float32).eps  # of the scores
        assert relative_error(expected, out) < 2e-6 + 3 * rounding

    def test_rows_of_very_different_scores(self, monkeypatch):
        """One row has to go by its highest score, and its block with it."""
        monkeypatch.setattr(_cpu, "BLOCK", 16)
        query, key, value = random_map(32, 8), random_map(40, 8, seed=1), random_map(40, 4, seed=2)
        query[3] *= 1000
        query[20] *= 1e-6
        expected = (query.double() @ key.double().mT).softmax(dim=1) @ value.double()
        with torch.no_grad():
            assert relative_error(expected, _cpu.attend(query, [(key, value)], 1.0, 4)) < 2e-6
