"""Microbenchmarks of the ops at SAM 2's shapes, each beside the way the original goes.

    pytest bench --benchmark-only

Each group of the report is one shape; its ratio column is the comparison.
"""

import oracle  # noqa: F401  (makes the official package importable)
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from parity import random_map
from sam2.modeling.backbones.hieradet import MultiScaleAttention
from sam2.modeling.backbones.utils import window_partition, window_unpartition
from sam2.utils.transforms import SAM2Transforms as OfficialTransforms

from sam2fast.kernels._cpu import linear
from sam2fast.kernels.connected_components import connected_components
from sam2fast.kernels.mask_ops import fill_holes_and_remove_sprinkles
from sam2fast.modeling.hiera import MultiScaleAttention as OurAttention
from sam2fast.modeling.layers import in_bands
from sam2fast.testing import relative_error
from sam2fast.transforms import SAM2Transforms

# (side of the map, window, heads, head dim) of tiny, base+ and large at 1024x1024.
WINDOWS = {
    "tiny stage 1": (256, 8, 1, 96),
    "tiny stage 3": (64, 14, 4, 96),
    "tiny stage 3, global": (64, 0, 4, 96),
    "base+ stage 2": (128, 4, 4, 56),
    "large stage 3": (64, 16, 8, 72),
}


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def official_attention(module: MultiScaleAttention, x: torch.Tensor, window: int) -> torch.Tensor:
    if not window:
        return module(x)
    H, W = x.shape[1:3]
    tiles, padded = window_partition(x, window)
    return window_unpartition(module(tiles), window, padded, (H, W))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("implementation", ["official", "sam2fast"])
@pytest.mark.parametrize("shape", WINDOWS.values(), ids=WINDOWS.keys())
def test_window_attention(benchmark, shape, implementation, dtype):
    """Projection, attention in windows, output projection; ours in bands of the map, as the block calls it."""
    side, window, heads, d = shape
    benchmark.group = f"window attention {side}x{side} window {window} {heads}x{d} {dtype}"
    dim = heads * d
    theirs = MultiScaleAttention(dim, dim, heads).to(dtype)
    ours = OurAttention(dim, dim, heads, window, None).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    x = random_map(1, side, side, dim).to(dtype)
    calls = {
        "official": lambda: official_attention(theirs, x, window),
        "sam2fast": lambda: in_bands(ours, x, window or side),
    }
    assert relative_error(calls["official"](), calls["sam2fast"]()) < (1e-5 if dtype == torch.float32 else 0.1)
    benchmark(calls[implementation])


@pytest.mark.parametrize("implementation", ["F.linear", "sam2fast"])
@pytest.mark.parametrize("shape", [(4096, 384, 1536), (2048, 96, 384), (4096, 576, 2304)], ids=str)
def test_linear(benchmark, shape, implementation):
    rows, inner, outer = shape
    benchmark.group = f"linear {rows}x{inner} -> {outer} fp32"
    x, weight, bias = random_map(rows, inner), random_map(outer, inner), random_map(outer)
    call = {"F.linear": F.linear, "sam2fast": linear}[implementation]
    benchmark(call, x, weight, bias)


def masks(count: int) -> torch.Tensor:
    """Masks with components of many sizes."""
    return F.avg_pool2d(random_map(count, 1, 258, 258), 3, stride=1) > 0


@pytest.mark.parametrize("implementation", ["scipy", "sam2fast"])
@pytest.mark.parametrize("count", [1, 16])
def test_connected_components(benchmark, count, implementation):
    benchmark.group = f"connected components {count}x256x256"
    mask = masks(count)

    def by_scipy():
        for image in mask[:, 0].numpy():
            scipy.ndimage.label(image, structure=[[1] * 3] * 3)

    benchmark(by_scipy if implementation == "scipy" else lambda: connected_components(mask))


@pytest.mark.parametrize("count", [1, 3])
def test_fill_holes_and_remove_sprinkles(benchmark, count):
    logits = F.avg_pool2d(random_map(1, count, 258, 258), 3, stride=1)
    benchmark(fill_holes_and_remove_sprinkles, logits, 0.0, 8.0, 8.0)


@pytest.mark.parametrize("implementation", ["official", "sam2fast"])
def test_preprocess(benchmark, implementation):
    benchmark.group = "preprocess 1200x1800"
    image = (random_map(1200, 1800, 3) * 50 + 128).clamp(0, 255).byte().numpy()
    transforms = {"official": OfficialTransforms, "sam2fast": SAM2Transforms}[implementation](1024, 0.0)
    benchmark(transforms, image)
