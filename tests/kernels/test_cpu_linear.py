import pytest
import torch
import torch.nn.functional as F
from parity import random_map

from sam2fast.kernels._cpu import _convolution_pays, linear
from sam2fast.testing import assert_as_accurate_as


@pytest.mark.parametrize("shape", [(1, 64, 32, 96), (4096, 33), (16, 8, 256), (2, 3, 96), (0, 96), (1000, 96)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_same_as_a_linear_layer(shape, bias, threads):
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


def test_autograd_autocast_and_other_dtypes_take_the_ordinary_way():
    x, weight = random_map(4096, 96), random_map(40, 96)
    assert not _convolution_pays(x, weight)  # gradients are on
    with torch.no_grad():
        assert not _convolution_pays(x.bfloat16(), weight.bfloat16())
        with torch.autocast("cpu", torch.bfloat16):
            assert not _convolution_pays(x, weight)
            assert linear(x, weight).dtype == torch.bfloat16
