"""The Triton kernel of attention in windows, in Triton's interpreter if there is no GPU."""

import oracle  # noqa: F401  (makes the official package importable)
import pytest
import torch
from parity import random_map

pytest.importorskip("triton")

from sam2fast.kernels import _cpu, _launch  # noqa: E402
from sam2fast.kernels import window_attention as module  # noqa: E402
from sam2fast.kernels._dispatch import backend  # noqa: E402
from sam2fast.kernels._launch import Row  # noqa: E402
from sam2fast.kernels.window_attention import (  # noqa: E402
    pooled_window_attention,
    window_attention,
    window_attention_reference,
)
from sam2fast.kernels.window_attention_triton import (  # noqa: E402
    pooled_window_attention_triton,
    window_attention_triton,
)
from sam2fast.utils.testing import relative_error  # noqa: E402

POOLED = (2, 2)
# batch, height, width, heads, channels of a head, window, query stride
CASES = {
    "tiny, 8 pooled": (2, 8, 16, 2, 96, 8, POOLED),
    "tiny, 4": (1, 12, 8, 2, 96, 4, None),
    "tiny, 14 padded, pooled": (1, 16, 20, 1, 96, 14, POOLED),
    "tiny, 7 padded": (2, 8, 9, 2, 96, 7, None),
    "base+, 8 pooled": (1, 16, 8, 4, 56, 8, POOLED),
    "large, 16 padded, pooled": (1, 20, 16, 1, 72, 16, POOLED),
    "large, 8 of 4 x 4": (1, 4, 4, 2, 72, 8, None),
    "whole map, pooled": (2, 6, 4, 1, 72, 0, POOLED),
    "whole map": (1, 6, 8, 2, 16, 0, None),
    "one position": (1, 1, 1, 1, 8, 4, None),
    "odd sides, pooled": (1, 9, 7, 1, 24, 4, POOLED),
    "a narrow map": (1, 3, 17, 1, 40, 14, None),
    "112 channels": (1, 4, 8, 1, 112, 4, None),
    "144 channels, pooled": (1, 8, 8, 1, 144, 8, POOLED),
    "256 channels": (1, 4, 5, 1, 256, 4, None),
}


def inputs(case, device, dtype):
    B, H, W, heads, d, _, _ = case
    qkv, bias = random_map(B, H, W, 3 * heads * d), random_map(3 * heads * d, seed=1)
    return qkv.to(device, dtype), bias.to(device, dtype)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float32) for name in CASES),
        *((name, torch.bfloat16) for name in ("tiny, 4", "base+, 8 pooled", "whole map, pooled", "256 channels")),
        ("tiny, 14 padded, pooled", torch.float16),
    ],
    ids=str,
)
@torch.no_grad()
def test_window_attention(triton_device, name, dtype, monkeypatch):
    """fp32 is close to float64; fp16 and bf16 are at most twice as far from it as the reference."""
    monkeypatch.setattr(_cpu, "EMULATES_BFLOAT16", False)  # rounding as in torch
    case = CASES[name]
    heads, window, stride = case[3], *case[5:]
    qkv, bias = inputs(case, triton_device, dtype)
    exact = window_attention_reference(qkv.double().cpu(), bias.double().cpu(), heads, window, stride)
    reference = window_attention_reference(qkv, bias, heads, window, stride)
    actual = window_attention_triton(qkv, bias, heads, window, stride)
    assert actual.dtype == dtype and actual.shape == exact.shape
    allowed = 1e-5 if dtype == torch.float32 else 2 * relative_error(exact, reference.cpu())
    assert relative_error(exact, actual.cpu()) <= allowed < 0.2


@pytest.mark.parametrize("name", [name for name in CASES if "pooled" in name])
@torch.no_grad()
def test_a_pooled_residual(triton_device, name):
    """Its maxima are those of torch, and the attention is the same as without it."""
    case, dtype = CASES[name], torch.bfloat16
    (qkv, bias), (heads, window) = inputs(case, triton_device, dtype), (case[3], case[5])
    residual = random_map(*qkv.shape[:3], qkv.shape[3] // 3, seed=2).to(triton_device, dtype) - 10
    residual[0, 0, 1, 0] = float("nan")
    projected = torch.cat([qkv, residual], dim=3)
    attended, pooled = pooled_window_attention_triton(projected, bias, heads, window, POOLED)
    assert torch.equal(attended, window_attention_triton(qkv, bias, heads, window, POOLED))
    expected = torch.nn.functional.max_pool2d(residual.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
    assert expected.isnan().sum() == 1
    torch.testing.assert_close(pooled, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("channels", "bias", "window"), [(56, 48, 4), (60, 45, 4), (64, 48, 7)])
def test_a_residual_that_does_not_fit(triton_device, channels, bias, window):
    given = (torch.zeros(size, device=triton_device) for size in ((1, 7, 7, channels), (bias,)))
    with backend("triton"), pytest.raises(ValueError, match="4 \\* 2 \\* d|does not divide"):
        pooled_window_attention(*given, 2, window, POOLED)


@pytest.mark.parametrize("name", ["tiny, 14 padded, pooled", "tiny, 7 padded", "whole map, pooled"])
@torch.no_grad()
def test_the_first_channels_of_a_map(triton_device, name):
    """The other channels are NaN, and the map is not copied."""
    case = CASES[name]
    (qkv, bias), rest = inputs(case, triton_device, torch.float32), (case[3], *case[5:])
    others = torch.full((*qkv.shape[:3], 24), float("nan"), device=triton_device)
    found = window_attention_triton(torch.cat([qkv, others], dim=3)[..., : qkv.shape[3]], bias, *rest)
    assert torch.equal(found, window_attention_triton(qkv, bias, *rest))


@pytest.mark.parametrize(("block_m", "block_n"), [(16, 16), (16, 128), (128, 32), (256, 32)])
@torch.no_grad()
def test_blocks_of_any_size(triton_device, monkeypatch, block_m, block_n):
    """Windows that fill several blocks, blocks of many windows, and whole windows in one tile."""
    config = Row("*", "float32", "*", {"BLOCK_M": block_m, "BLOCK_N": block_n}, {"num_warps": 4})
    monkeypatch.setattr(_launch, "custom_rows", lambda: {"window_attention": [config]})
    for name in ("large, 16 padded, pooled", "tiny, 4", "odd sides, pooled", "whole map, pooled"):
        case = CASES[name]
        qkv, bias = inputs(case, triton_device, torch.float32)
        exact = window_attention_reference(qkv.double().cpu(), bias.double().cpu(), case[3], *case[5:])
        actual = window_attention_triton(qkv, bias, case[3], *case[5:])
        assert relative_error(exact, actual.cpu()) < 1e-5


@torch.no_grad()
def test_what_the_kernel_does_not_support(triton_device):
    qkv, bias = random_map(1, 8, 8, 36).to(triton_device), random_map(36).to(triton_device)
    with backend("triton"):
        with pytest.raises(RuntimeError, match="at most 96 channels, in multiples of 8, got 12"):
            window_attention(qkv, bias, 1, 4)
        with pytest.raises(RuntimeError, match=r"window_attention does not support torch\.float64"):
            window_attention(qkv.double(), bias.double(), 1, 4)
        with pytest.raises(RuntimeError, match=r"pools queries only by 2 x 2, got \(1, 2\)"):
            window_attention(qkv[..., :24], bias[:24], 1, 4, (1, 2))
        with pytest.raises(RuntimeError, match="pools only maps with even sides, got 7 x 8"):
            window_attention(qkv[:, :7, :, :24], bias[:24], 1, 0, POOLED)
    assert window_attention(qkv, bias, 1, 4).shape == (1, 8, 8, 12)


def test_the_configuration_chooses_for_whole_maps(monkeypatch):
    """Torch's attention needs no windows there, either."""
    for prefers in (0, 1):
        meta = {"BLOCK_M": 64, "BLOCK_N": 64, "SDPA": prefers}
        config = Row("*", "*", "global", meta, {"num_warps": 4})
        monkeypatch.setattr(_launch, "custom_rows", lambda config=config: {"window_attention": [config]})
        assert bool(module.sdpa_choice(torch.device("cpu"), torch.float32)) == bool(prefers)


def test_few_queries_take_few_warps(triton_device, monkeypatch):
    """With ROWS_PER_WARP in the row; the result is the same."""
    from sam2fast.kernels import window_attention_triton as kernel

    meta = {"BLOCK_M": 128, "BLOCK_N": 64}
    plain, capped = (Row("*", "float32", "*", {**meta, **more}, {"num_warps": 8, "num_stages": 1})
                     for more in ({}, {"ROWS_PER_WARP": 16}))  # fmt: skip
    assert [kernel.options_of(capped, block)["num_warps"] for block in (128, 64, 16)] == [8, 4, 1]
    assert kernel.options_of(plain, 16) == plain.options
    qkv, bias = inputs(CASES["tiny, 4"], triton_device, torch.float32)
    found = []
    for config in (plain, capped):
        monkeypatch.setattr(_launch, "custom_rows", lambda config=config: {"window_attention": [config]})
        found.append(window_attention_triton(qkv, bias, CASES["tiny, 4"][3], 4))
    assert torch.equal(*found)
