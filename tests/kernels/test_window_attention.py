"""The reference implementation against the official block's steps: pad, project, partition, pool, attend, merge."""

import oracle  # noqa: F401  (makes the official package importable)
import pytest
import torch
import torch.nn.functional as F
from parity import random_map
from sam2.modeling.backbones.hieradet import MultiScaleAttention
from sam2.modeling.backbones.utils import window_partition, window_unpartition

from sam2fast.kernels._dispatch import launches
from sam2fast.kernels.window_attention import window_attention
from sam2fast.modeling.position_encoding import WindowRotations
from sam2fast.research import backend, register_op, unregister_op
from sam2fast.utils.testing import relative_error

# (height, width, window, heads, head dim, pooled): SAM 2's own first, then hostile ones.
CASES = [
    (32, 32, 8, 1, 96, False),
    (32, 32, 8, 2, 96, True),
    (16, 16, 4, 2, 56, True),
    (64, 64, 14, 2, 96, False),
    (64, 64, 14, 4, 72, True),
    (32, 32, 7, 8, 96, False),
    (32, 48, 16, 2, 72, False),
    (16, 16, 0, 4, 96, False),
    (48, 48, 0, 2, 56, False),
    (16, 16, 0, 2, 56, True),
    (5, 9, 4, 1, 8, True),
    (1, 1, 8, 2, 16, False),
    (13, 3, 7, 3, 24, False),
]


def official(x, qkv, heads, window, pooled):
    """``MultiScaleBlock.forward`` between the norm and the output projection."""
    dim_out = qkv.out_features // 3
    pool = torch.nn.MaxPool2d(2, 2, ceil_mode=False) if pooled else None
    attention = MultiScaleAttention(x.shape[-1], dim_out, heads, q_pool=pool).to(x.dtype)
    attention.qkv, attention.proj = qkv, torch.nn.Identity()
    H, W = x.shape[1:3]
    pad = (H, W)
    if window:
        x, pad = window_partition(x, window)
    x = attention(x)
    if pooled:
        H, W, window, pad = H // 2, W // 2, window // 2, (pad[0] // 2, pad[1] // 2)
    return window_unpartition(x, window, pad, (H, W)) if window else x


@pytest.mark.parametrize(
    "case", CASES, ids=lambda c: f"{c[0]}x{c[1]} window {c[2]} {c[3]}x{c[4]}{' pooled' if c[5] else ''}"
)
@pytest.mark.parametrize("with_gradients", [False, True], ids=["inference", "autograd"])
def test_matches_the_official_block(case, with_gradients):
    H, W, window, heads, d, pooled = case
    torch.manual_seed(0)
    qkv = torch.nn.Linear(24, 3 * heads * d)
    x = random_map(2, H, W, 24)
    with torch.set_grad_enabled(with_gradients):
        expected = official(x, qkv, heads, window, pooled)
        actual = window_attention(qkv(x), qkv.bias, heads, window, (2, 2) if pooled else None)
    assert relative_error(expected, actual) < 1e-5


def test_padding_is_a_key():
    """Positions outside the map are keys that hold the bias; they are not masked."""
    qkv, bias = random_map(1, 5, 5, 3 * 16), random_map(3 * 16, seed=1)
    padded = bias.expand(1, 8, 8, -1).clone()
    padded[:, :5, :5] = qkv
    expected = window_attention(padded, bias, 1, 8)[:, :5, :5]
    assert torch.allclose(window_attention(qkv, bias, 1, 8), expected, atol=1e-6)
    alone = window_attention(qkv, bias, 1, 0)
    assert relative_error(expected, alone) > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("side", [8, 48], ids=["short", "long"])
def test_as_accurate_as_sdpa(dtype, side):
    """At most twice as far from float64 as SDPA in the same dtype."""
    qkv = random_map(1, side, side, 3 * 2 * 32).to(dtype)

    def sdpa(x):
        q, k, v = x.flatten(1, 2).unflatten(-1, (3, 2, 32)).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, side, side, 64)

    exact = sdpa(qkv.double())
    with torch.no_grad():
        out = window_attention(qkv, torch.zeros(3 * 64, dtype=dtype), 2, 0)
    assert out.dtype == dtype
    allowed = 2 * (sdpa(qkv) - exact).abs().max() + 1e-6
    assert (out - exact).abs().max() <= allowed


@pytest.mark.parametrize(
    ("qkv", "bias", "heads", "window", "stride"),
    [
        (torch.zeros(4, 4, 12), torch.zeros(12), 1, 2, None),
        (torch.zeros(1, 4, 4, 12), torch.zeros(8), 1, 2, None),
        (torch.zeros(1, 4, 4, 12), torch.zeros(12), 5, 2, None),
        (torch.zeros(1, 4, 4, 12), torch.zeros(12), 1, 7, (2, 2)),
    ],
    ids=["3-d", "bias", "heads", "odd window"],
)
def test_shapes_that_do_not_fit(qkv, bias, heads, window, stride):
    with pytest.raises(ValueError, match="expected qkv|does not divide"):
        window_attention(qkv, bias, heads, window, stride)


@pytest.mark.parametrize(("side", "window"), [(12, 0), (8, 4), (8, 5)])
def test_rotated_positions_in_one_launch(triton_device, side, window):
    """Of queries and keys, as the reference implementation rotates them. Windows of 5 are padded."""
    given = (
        random_map(2, side, side, 3 * 2 * 16).to(triton_device),
        random_map(3 * 2 * 16, seed=1).to(triton_device),
        2,
        window,
    )
    rope = WindowRotations(16, 4, 100.0)(window or side, triton_device)
    with backend("torch"):
        expected, without = window_attention(*given, rope=rope), window_attention(*given)
    before = launches["rope_attention"]
    with backend("triton"):
        actual = window_attention(*given, rope=rope)
    assert launches["rope_attention"] == before + 1
    assert relative_error(expected, actual) < 1e-5 < relative_error(expected, without)
    with backend("triton"), torch.inference_mode():
        assert relative_error(expected, window_attention(*given, rope=rope)) < 1e-5


def test_an_implementation_of_a_users_gets_the_rotations():
    register_op("window_attention", lambda qkv, bias, heads, window, stride, rope: rope[0], "mine")
    given, rope = (random_map(1, 8, 8, 96), random_map(96, seed=1), 2, 4), WindowRotations(16, 4, 100.0)(4, "cpu")
    try:
        with backend("mine"):
            found = window_attention(*given, rope=rope)
    finally:
        unregister_op("window_attention", "mine")
    assert found is rope[0]
