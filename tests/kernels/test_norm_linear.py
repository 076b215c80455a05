"""A layer norm with the layers before and after it in one kernel, in Triton's interpreter if there is no GPU."""

import pytest
import torch
import torch.nn.functional as F
from kernel_checks import as_accurate, in_float64
from kernel_records.norm_linear import Use, arguments
from torch import nn

from sam2fast.kernels._dispatch import backend
from sam2fast.kernels._op import OPS
from sam2fast.kernels.norm_linear import norm_linear

# Rows, channels of the norm, and what reads it. Columns fill no whole block, or those with positions none.
USES = {
    "projected, ReLU": (5, 32, Use(24, 70, 0, True)),
    "added": (40, 32, Use(0, 70, 37)),
    "all with positions": (70, 48, Use(80, 64, 64)),
    "the norm alone": (9, 24, Use(8, 0, 0)),
    "one row, one channel": (1, 1, Use(1, 1, 1)),
    "a rounded norm": (70, 24, Use(40, 0, 0, rounded=True)),
}


@pytest.mark.parametrize(
    ("dtype", "has_residual"),
    [(torch.float32, True), (torch.float32, False), (torch.bfloat16, True), (torch.float16, False)],
    ids=str,
)
@pytest.mark.parametrize(("rows", "channels", "use"), USES.values(), ids=USES)
@torch.no_grad()
def test_both_results(triton_device, dtype, rows, channels, use, has_residual):
    """The norm and the layers."""
    delta, x, *rest = arguments(rows, use, dtype, triton_device, channels)
    normed, _ = as_accurate(norm_linear, delta, x if has_residual else None, *rest)
    assert normed.dtype == (dtype if use.rounded else torch.float32)


@pytest.mark.parametrize(
    ("rows", "columns", "dtype", "prefers"),
    [(256, 2048, torch.float32, True), (64, 2048, torch.float32, False), (256, 1024, torch.float32, False),
     (256, 2048, torch.bfloat16, False)],
)  # fmt: skip
def test_many_columns_in_fp32_are_left_to_torch(monkeypatch, rows, columns, dtype, prefers):
    """On the GPU where they were measured."""
    given = arguments(rows, Use(8, columns, 0), dtype, "cpu", 16)
    for hopper in (True, False):
        monkeypatch.setattr("sam2fast.kernels.norm_linear.is_hopper", lambda device, hopper=hopper: hopper)
        assert OPS["norm_linear"].prefers_torch(*given) == (prefers and hopper)


@torch.no_grad()
def test_the_reference_is_a_transformers_layer():
    """A projected attention, the residual, the norm, and the queries with positions beside the values without."""
    torch.manual_seed(0)
    out, norm, query, value = nn.Linear(12, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.Linear(8, 4)
    nn.init.normal_(norm.weight)
    delta, x, position = torch.randn(2, 3, 12), torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    layers = torch.cat([query.weight, value.weight]), torch.cat([query.bias, value.bias])
    parameters = out.weight, out.bias, norm.weight, norm.bias, *layers, norm.eps
    expected = norm(x + out(delta))
    normed, found = norm_linear(delta, x, position, *parameters, num_positioned=6)
    torch.testing.assert_close(normed, expected)
    torch.testing.assert_close(found, torch.cat([query(expected + position), value(expected)], dim=-1))
    _, found = norm_linear(delta, None, None, *parameters, relu=True)
    torch.testing.assert_close(found, F.linear(norm(out(delta)), *layers).relu())


@torch.no_grad()
def test_nan_stays(triton_device):
    delta, x, *rest = arguments(4, Use(0, 16, 0, True), torch.float32, triton_device, 16)
    x[1, 3] = float("nan")
    with backend("triton"):
        normed, found = norm_linear(delta, x, *rest)
    for result in (normed, found):
        assert result.isnan().all(dim=1).tolist() == [False, True, False, False]
        assert not result[[0, 2, 3]].isnan().any()


def test_unsupported_inputs(triton_device):
    delta, x, position, weight, *rest = arguments(4, Use(8, 16, 8), torch.float32, triton_device, 8)
    for wrong in ((delta[:, :7], x, position), (delta, x[:3], position), (delta, x, position[:, :7])):
        with pytest.raises(ValueError, match=r"expected delta \(\.\.\., K\)"):
            norm_linear(*wrong, weight, *rest)
    with pytest.raises(ValueError, match="inner layer"):
        norm_linear(delta, x, position, None, *rest)
    with pytest.raises(ValueError, match="num_positioned up to N, got .*, num_positioned 17"):
        norm_linear(delta, x, position, weight, *rest[:-3], 17)
    with backend("triton"):
        with pytest.raises(RuntimeError, match="one dtype"):
            norm_linear(delta, x, position, weight.bfloat16(), *rest)
        with pytest.raises(RuntimeError, match="float64"):
            norm_linear(*in_float64((delta, x, position, weight, *rest)))
        with torch.autocast(triton_device.type, torch.bfloat16), pytest.raises(RuntimeError, match="autocast"):
            norm_linear(delta, x, position, weight, *rest)
        with pytest.raises(RuntimeError, match="at most 512 channels"):
            norm_linear(*arguments(2, Use(0, 4, 0), torch.float32, triton_device, 513))
