"""Programs in the order of :func:`interpreter.shuffled_programs`: each runs once, in another order than without it."""

import pytest
import torch

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402  (only where triton is installed)


@triton.jit
def _program_kernel(counter, out, x):
    place = tl.atomic_add(counter, 1)
    tl.store(out + place, tl.program_id(1) * x + tl.program_id(0))


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
