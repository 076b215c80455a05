"""MLPs of one token each in one kernel, in Triton's interpreter if there is no GPU."""

import pytest
import torch
from kernel_checks import as_accurate
from kernel_records.grouped_mlp import Widths, arguments

from sam2fast.kernels._dispatch import backend
from sam2fast.kernels._op import OPS
from sam2fast.kernels.grouped_mlp import grouped_mlp
from sam2fast.modeling.layers import MLP

WIDTHS = {
    "blocks that are not full": (3, Widths(2, 24, 50, 40, 20)),
    "more objects than a tile has rows": (19, Widths(3, 16, 32, 32, 8)),
    "one of each": (1, Widths(1, 1, 1, 1, 1)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("objects", "widths"), WIDTHS.values(), ids=WIDTHS)
@torch.no_grad()
def test_kernel(triton_device, dtype, objects, widths):
    """Of the first tokens of some more."""
    x, *layers = arguments(objects, widths, dtype, triton_device)
    x = torch.cat([x, torch.full_like(x, float("nan"))], dim=1)[:, : widths.groups]
    assert as_accurate(grouped_mlp, x, *layers).dtype == torch.float32


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
        with pytest.raises(RuntimeError, match="matrices of one dtype"):
            grouped_mlp(x, layers[0].bfloat16(), *layers[1:])
        with pytest.raises(RuntimeError, match="float64"):
            grouped_mlp(x, *(each.double() for each in layers))
        with torch.autocast(triton_device.type, torch.bfloat16), pytest.raises(RuntimeError, match="autocast"):
            grouped_mlp(x, *layers)
        with pytest.raises(RuntimeError, match="at most 512 channels"):
            grouped_mlp(*arguments(1, Widths(1, 513, 8, 8, 4), torch.float32, triton_device))
