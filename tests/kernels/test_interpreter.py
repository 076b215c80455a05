"""The fixed interpreter computes what a GPU would, also in bfloat16, where the original is silently wrong."""

import pytest
import torch
from parity import random_map

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402  (only where triton is installed)

SIDE = 16


@triton.jit
def _pointwise_kernel(x, y, out, factor, N: tl.constexpr):
    i = tl.arange(0, N)
    a, b = tl.load(x + i), tl.load(y + i)
    tl.store(out + i, tl.maximum(a * b + a, b - a) * factor)


@triton.jit
def _program_kernel(counter, out, x):
    place = tl.atomic_add(counter, 1)
    tl.store(out + place, tl.program_id(1) * x + tl.program_id(0))


def inputs(device, dtype=torch.bfloat16):
    return (random_map(SIDE, SIDE, seed=i).to(device, dtype) for i in range(2))


def test_bfloat16_pointwise(triton_device):
    x, y = (t.flatten() for t in inputs(triton_device))
    out = torch.empty_like(x)
    _pointwise_kernel[(1,)](x, y, out, 2.0, N=SIDE * SIDE)
    exact = torch.maximum(x.double() * y + x, y.double() - x) * 2
    assert (out - exact).abs().max() <= 3 * 2**-8 * exact.abs().max()  # three roundings to 8 bits


@pytest.mark.parametrize("seed", [1, 2])
def test_shuffled_programs_run_each_once_in_another_order(seed, triton_device):
    if triton_device.type == "cuda":
        pytest.skip("a GPU orders programs itself")
    import interpreter

    orders = []
    for shuffled in (False, True):
        counter, out = torch.zeros(1, dtype=torch.int32), torch.full((12,), -1, dtype=torch.int32)
        if shuffled:
            with interpreter.shuffled_programs(seed):
                _program_kernel[(4, 3)](counter, out, 4)
        else:
            _program_kernel[(4, 3)](counter, out, 4)
        orders.append(out.tolist())
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(12))
    assert orders[0] != orders[1]
