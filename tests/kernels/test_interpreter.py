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
def _dot_kernel(x, y, out, N: tl.constexpr):
    i = tl.arange(0, N)
    square = i[:, None] * N + i[None, :]
    tl.store(out + square, tl.dot(tl.load(x + square), tl.load(y + square)))


@triton.jit
def _cast_kernel(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i).to(tl.bfloat16))


@triton.jit
def _sum_kernel(x, out, steps, N: tl.constexpr):
    i = tl.arange(0, N)
    total = tl.zeros((), dtype=tl.float32)
    for step in range(0, steps):
        total += tl.sum(tl.load(x + step * N + i).to(tl.float32), 0)
    tl.store(out, total)


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


def test_bfloat16_dot(triton_device):
    x, y = inputs(triton_device)
    out = torch.empty(SIDE, SIDE, device=triton_device)
    _dot_kernel[(1,)](x, y, out, N=SIDE)
    torch.testing.assert_close(out, x.float() @ y.float(), rtol=1e-5, atol=1e-5)


def test_rounding_to_bfloat16_is_torchs(triton_device):
    halves = torch.tensor([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-8, 3e38, 1e-40, 0.0])
    x = torch.cat([halves, random_map(SIDE * SIDE - 8)]).to(triton_device)
    out = torch.empty_like(x, dtype=torch.bfloat16)
    _cast_kernel[(1,)](x, out, N=SIDE * SIDE)
    assert torch.equal(out, x.to(torch.bfloat16))


def test_loops_with_a_bound_known_at_run_time(triton_device):
    x = random_map(5, 64).to(triton_device, torch.bfloat16)
    out = torch.empty(1, device=triton_device)
    _sum_kernel[(1,)](x, out, 5, N=64)
    torch.testing.assert_close(out[0], x.float().sum(), rtol=1e-5, atol=1e-5)


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
