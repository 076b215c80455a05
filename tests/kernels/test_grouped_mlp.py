"""MLPs of one token each in one kernel, in Triton's interpreter if there is no GPU."""

import pytest
import torch
from kernel_records.grouped_mlp import Widths, arguments

from sam2fast.kernels._dispatch import backend, launches
from sam2fast.kernels._op import OPS
from sam2fast.kernels.grouped_mlp import grouped_mlp, grouped_mlp_reference
from sam2fast.modeling.layers import MLP
from sam2fast.utils.testing import relative_error

DTYPES = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda d: str(d).removeprefix("torch.")
)
WIDTHS = {
    "blocks that are not full": (3, Widths(2, 24, 50, 40, 20)),
    "more objects than a tile has rows": (19, Widths(3, 16, 32, 32, 8)),
    "one of each": (1, Widths(1, 1, 1, 1, 1)),
}


@DTYPES
@pytest.mark.parametrize(("objects", "widths"), WIDTHS.values(), ids=WIDTHS)
@torch.no_grad()
def test_kernel(triton_device, dtype, objects, widths):
    """Of the first tokens of some more; at most twice as far from float64 as the reference implementation."""
    x, *layers = arguments(objects, widths, dtype, triton_device)
    x = torch.cat([x, torch.full_like(x, float("nan"))], dim=1)[:, : widths.groups]
    before = launches["grouped_mlp"]
    with backend("triton"):
        found = grouped_mlp(x, *layers)
    assert launches["grouped_mlp"] == before + 1
    reference = grouped_mlp_reference(x, *layers)
    exact = grouped_mlp_reference(x.double(), *(each.double() for each in layers))
    assert found.dtype == torch.float32 and found.shape == reference.shape
    if found.numel() > 1:
        assert relative_error(exact, found) <= max(1e-5, 2 * relative_error(exact, reference))


@pytest.mark.parametrize(
    ("objects", "groups", "dtype", "prefers"),
    [(1, 1, torch.float32, True), (1, 4, torch.float32, False), (2, 1, torch.float32, False),
     (1, 1, torch.bfloat16, False)],
)  # fmt: skip
def test_one_token_in_fp32_is_left_to_torch(monkeypatch, objects, groups, dtype, prefers):
    """On the GPU where it was measured."""
    given = arguments(objects, Widths(groups, 8, 8, 8, 8), dtype, "cpu")
    for hopper in (True, False):
        monkeypatch.setattr("sam2fast.kernels.grouped_mlp.is_hopper", lambda device, hopper=hopper: hopper)
        assert OPS["grouped_mlp"].prefers_torch(*given) == (prefers and hopper)


@torch.no_grad()
def test_the_reference_is_the_mlps_of_a_mask_decoder():
    torch.manual_seed(0)
    networks, x = [MLP(8, 12, 5, 3) for _ in range(3)], torch.randn(2, 3, 8)
    layers = [network.layers[i] for i in range(3) for network in networks]
    stacks = [torch.stack([getattr(each, name) for each in layers[3 * i : 3 * i + 3]]) for i in range(3)
              for name in ("weight", "bias")]  # fmt: skip
    expected = torch.stack([network(token) for network, token in zip(networks, x.unbind(1), strict=True)], dim=1)
    torch.testing.assert_close(grouped_mlp(x, *stacks), expected)


def test_unsupported_inputs(triton_device):
    x, *layers = arguments(2, Widths(3, 8, 8, 8, 4), torch.float32, triton_device)
    for wrong in ((x[:, :2], *layers), (x[..., :7], *layers), (x, layers[0][:, :5], *layers[1:])):
        with pytest.raises(ValueError, match=r"expected x \(B, G, K\)"):
            grouped_mlp(*wrong)
    with backend("triton"):
        with pytest.raises(RuntimeError, match="weights of one dtype"):
            grouped_mlp(x, layers[0].bfloat16(), *layers[1:])
        with pytest.raises(RuntimeError, match="float64"):
            grouped_mlp(x, *(each.double() for each in layers))
        with torch.autocast(triton_device.type, torch.bfloat16), pytest.raises(RuntimeError, match="autocast"):
            grouped_mlp(x, *layers)
        with pytest.raises(RuntimeError, match="at most 512 channels"):
            grouped_mlp(*arguments(1, Widths(1, 513, 8, 8, 4), torch.float32, triton_device))
