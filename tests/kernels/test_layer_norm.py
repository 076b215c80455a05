"""The sum and layer norm in one kernel, in Triton's interpreter if there is no GPU."""

import pytest
import torch
import torch.nn.functional as F
from interpreter import shuffled_programs
from parity import random_map

from sam2fast.kernels._dispatch import backend, launches
from sam2fast.kernels.layer_norm import (
    add_layer_norm,
    add_layer_norm_reference,
    layer_norm,
    layer_norm_reference,
    shifted_layer_norm,
    shifted_layer_norm_reference,
)
from sam2fast.utils.testing import relative_error

EPS = 1e-6
# x, delta, norm: of fp32 sessions, of bf16 ones before and after the first pooling, and the others a caller may mix
DTYPES = [
    (torch.float32, torch.float32, torch.float32),
    (torch.float32, torch.bfloat16, torch.bfloat16),
    (torch.bfloat16, torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16, torch.float32),
    (torch.bfloat16, torch.float32, torch.float16),
]
SHAPES = [(2, 3, 5, 96), (7, 112), (1, 1, 144), (33, 1), (4, 1152), (130, 16), (3, 4096)]


def inputs(shape, device, x=torch.float32, delta=torch.float32):
    C = shape[-1]
    # Mean far from zero, where a variance from squares would lose digits.
    return (
        (random_map(*shape) + 3).to(device, x),
        (random_map(*shape, seed=1) * 2).to(device, delta),
        random_map(C, seed=2).to(device),
        random_map(C, seed=3).to(device),
    )


def name_of(case):
    return "-".join(str(x).removeprefix("torch.") for x in case)


def all_shapes_and_dtypes(shapes):
    """Parametrizes with all shapes in fp32, and with the first shape in all other dtypes."""
    cases = [*((shape, DTYPES[0]) for shape in shapes), *((shapes[0], dtypes) for dtypes in DTYPES[1:])]
    return pytest.mark.parametrize(("shape", "dtypes"), cases, ids=name_of)


@all_shapes_and_dtypes(SHAPES)
@torch.no_grad()
def test_kernel(triton_device, shape, dtypes):
    x, delta, weight, bias = inputs(shape, triton_device, *dtypes[:2])
    expected_sum, reference = add_layer_norm_reference(x, delta, weight, bias, EPS, dtypes[2])
    before = launches["layer_norm"]
    with backend("triton"), shuffled_programs(2):
        total, normed = add_layer_norm(x, delta, weight, bias, EPS, dtypes[2])
    assert launches["layer_norm"] == before + 1
    assert torch.equal(total, expected_sum) and total.dtype == expected_sum.dtype
    assert normed.dtype == dtypes[2] and normed.shape == shape
    exact = F.layer_norm(expected_sum.double(), shape[-1:], weight.double(), bias.double(), EPS)
    if shape[-1] == 1:  # nothing but the bias: every channel is its own mean
        assert torch.equal(normed, bias.to(dtypes[2]).expand(shape))
        return
    allowed = 1e-5 if dtypes[2] == torch.float32 else 1.01 * relative_error(exact, reference)
    assert relative_error(exact, normed) <= allowed


@torch.no_grad()
def test_without_an_addition(triton_device):
    x, _, weight, bias = inputs((5, 96), triton_device)
    with backend("triton"):
        same, normed = add_layer_norm(x, None, weight, bias, EPS)
    assert same is x
    torch.testing.assert_close(normed, F.layer_norm(x, (96,), weight, bias, EPS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 9, 4), (33, 1), (7, 256), (0, 16)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_gelu(triton_device, shape, dtype):
    """Of the norm before it is rounded; at most as far from float64 as the reference implementation."""
    x, _, weight, bias = inputs(shape, triton_device, dtype)
    x = x.transpose(0, -1).contiguous().transpose(0, -1)
    reference = layer_norm_reference(x, weight, bias, EPS, dtype, gelu=True)
    before = launches["layer_norm"]
    with backend("triton"):
        out = layer_norm(x, weight, bias, EPS, dtype, gelu=True)
    assert launches["layer_norm"] == before + bool(x.numel())
    assert out.dtype == dtype and out.shape == shape
    if x.numel():
        exact = F.gelu(F.layer_norm(x.double(), shape[-1:], weight.double(), bias.double(), EPS))
        assert relative_error(exact, out) <= max(1e-5, 1.01 * relative_error(exact, reference))


@all_shapes_and_dtypes([(2, 9, 5, 96), (33, 1), (4, 1152), (0, 16)])
@pytest.mark.parametrize("is_vector", [True, False])
@torch.no_grad()
def test_with_a_shift(triton_device, shape, dtypes, is_vector):
    """Of the sum before it is rounded to the dtype of the input, or of the sum if the shift is no vector."""
    x, _, weight, bias = inputs(shape, triton_device, *dtypes[:2])
    shift = (random_map(*(shape[-1:] if is_vector else shape), seed=5) * 2).to(triton_device, dtypes[1])
    given = x, shift, weight, bias, EPS, dtypes[2]
    before = launches["layer_norm"]
    with backend("triton"):
        found = shifted_layer_norm(*given)
        total, normed = add_layer_norm(*given)
    assert launches["layer_norm"] == before + 2 * bool(x.numel())
    summed = x.dtype if is_vector else torch.promote_types(x.dtype, shift.dtype)
    assert total.dtype == summed and torch.equal(total, (x + shift).to(summed))
    torch.testing.assert_close(normed, layer_norm_reference(total, weight, bias, EPS, dtypes[2]), rtol=0.01, atol=0.01)
    reference = shifted_layer_norm_reference(*given)
    assert found.dtype == dtypes[2] and found.shape == shape
    if x.numel() and shape[-1] > 1:
        exact = F.layer_norm(x.double() + shift.double(), shape[-1:], weight.double(), bias.double(), EPS)
        assert relative_error(exact, found) <= max(1e-5, 1.01 * relative_error(exact, reference))


def test_gradients():
    """Of all outputs, by all inputs, against differences."""
    given = [t.double().requires_grad_() for t in inputs((3, 4, 8), torch.device("cpu"))]
    assert torch.autograd.gradcheck(lambda *a: add_layer_norm(*a, EPS, torch.float64), given)
    shift = random_map(8, seed=5).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, _, *a: shifted_layer_norm(x, shift, *a, EPS, torch.float64), given)
    assert torch.autograd.gradcheck(lambda *a: shifted_layer_norm(*a, EPS, torch.float64), given)
    assert torch.autograd.gradcheck(lambda x, _, *a: layer_norm(x, *a, EPS, torch.float64, gelu=True), given)


def test_wrong_shapes():
    x, delta, weight, bias = inputs((5, 8), torch.device("cpu"))
    for bad in ((x, delta[:4], weight, bias), (x, delta, weight[:7], bias), (x, delta, weight, bias[:7])):
        with pytest.raises(ValueError, match=r"expected x \(\.\.\., C\), weight and bias \(C\) and a delta"):
            add_layer_norm(*bad, EPS)
        with pytest.raises(ValueError, match=r"expected x \(\.\.\., C\), weight and bias \(C\) and a shift"):
            shifted_layer_norm(*bad, EPS)


def test_too_wide_for_the_kernel(triton_device):
    x, delta, weight, bias = inputs((1, 4097), triton_device)
    with backend("triton"), pytest.raises(RuntimeError, match="at most 4096 channels"):
        add_layer_norm(x, delta, weight, bias, EPS)
