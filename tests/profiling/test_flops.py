"""FLOP formulas of operators equal the counts of their reference implementations."""

from itertools import pairwise

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from sam2fast.kernels.depthwise_norm import depthwise_norm_reference
from sam2fast.kernels.embed_patches import embed_patches_reference
from sam2fast.kernels.grouped_mlp import grouped_mlp_reference
from sam2fast.kernels.linear_gelu import linear_gelu_reference
from sam2fast.kernels.mask_downsampler import downsample_logits_reference, downsample_map_reference
from sam2fast.kernels.mask_logits import mask_logits_reference
from sam2fast.kernels.mlp import mlp_reference
from sam2fast.kernels.norm_linear import norm_linear_reference
from sam2fast.kernels.token_attention import token_attention_reference
from sam2fast.kernels.window_attention import pooled_window_attention_reference, window_attention_reference
from sam2fast.profiling import flops as formulas  # registers them


def counted(function, *arguments, **options):
    with FlopCounterMode(display=False) as counter:
        out = function(*arguments, **options)
    return counter.get_total_flops(), out


@pytest.mark.parametrize(("size", "window", "pooled"), [(8, 4, False), (8, 0, False), (7, 3, False), (8, 4, True)])
def test_window_attention(size, window, pooled):
    """Windows that do not fit are padded; pooled queries are a quarter."""
    qkv, bias, stride = torch.randn(2, size, size, 3 * 16), torch.randn(3 * 16), [2, 2] if pooled else None
    flops, out = counted(window_attention_reference, qkv, bias, 2, window, stride)
    found = formulas.window_attention_flops(qkv, bias, 2, window, stride, out_val=out)
    assert found == flops > 0
    if pooled:
        given = torch.cat([qkv, qkv[..., :16]], dim=3), bias, 2, window, stride
        flops, out = counted(pooled_window_attention_reference, *given)
        assert formulas.pooled_window_attention_flops(*given, out_val=out) == flops == found


def test_linear_gelu():
    x, weight, bias = torch.randn(2, 5, 8), torch.randn(12, 8), torch.randn(12)
    flops, out = counted(linear_gelu_reference, x, weight, bias)
    assert formulas.linear_gelu_flops(x, weight, bias, out_val=out) == flops == 2 * 10 * 8 * 12


def test_embed_patches():
    given = torch.randn(2, 8, 12, 3), torch.randn(7, 7, 3, 5), torch.randn(5), torch.randn(2, 3, 5)
    flops, out = counted(embed_patches_reference, *given, [], [])
    assert formulas.embed_patches_flops(*given, out_val=out) == flops == 2 * 147 * 2 * 6 * 5


def test_mlp():
    vectors = [torch.randn(8) for _ in range(3)]
    given = torch.randn(2, 5, 8), *vectors, torch.randn(12, 8), torch.randn(12), torch.randn(8, 12), torch.randn(8)
    flops, out = counted(mlp_reference, *given, 1e-6)
    assert formulas.mlp_flops(*given, 1e-6, out_val=out) == flops == 4 * 10 * 8 * 12


@pytest.mark.parametrize("inner", [True, False])
def test_norm_linear(inner):
    delta = torch.randn(2, 5, 12 if inner else 8)
    layer = (torch.randn(8, 12), torch.randn(8)) if inner else (None, None)
    norm, layers = (torch.randn(8), torch.randn(8)), (torch.randn(20, 8), torch.randn(20))
    given = delta, torch.randn(2, 5, 8), torch.randn(2, 5, 8), *layer, *norm, *layers, 1e-5, 7, True, torch.float32
    flops, out = counted(norm_linear_reference, *given)
    expected = 2 * 10 * 8 * (20 + 12 * inner)
    assert formulas.norm_linear_flops(*given, out_val=out) == flops == expected


def test_grouped_mlp():
    widths = (8, 20, 12, 5)
    layers = [y for k, n in pairwise(widths) for y in (torch.randn(3, n, k), torch.randn(3, n))]
    flops, out = counted(grouped_mlp_reference, torch.randn(2, 3, 8), *layers)
    found = formulas.grouped_mlp_flops(torch.randn(2, 3, 8), *layers, out_val=out)
    assert found == flops == 2 * 6 * (8 * 20 + 20 * 12 + 12 * 5)


@pytest.mark.parametrize(("items", "images"), [(3, 3), (3, 1), (1, 3)])
def test_token_attention(items, images):
    query, key, value = torch.randn(items, 7, 8), torch.randn(images, 5, 8), torch.randn(images, 5, 8)
    flops, out = counted(token_attention_reference, query, key, value, None, None, 2)
    assert formulas.token_attention_flops(query, key, value, None, None, 2, out_val=out) == flops == 4 * 3 * 7 * 5 * 8


def test_convolutions():
    weight, vector = torch.randn(4, 3, 3, 1), torch.randn(4)
    given = torch.randn(2, 1, 5, 6), weight, vector, vector, vector, (9, 12), 20.0, -10.0, False, 2, 1, 1e-6
    flops, x = counted(downsample_logits_reference, *given)
    assert formulas.downsample_flops(*given, out_val=x) == flops == 2 * 2 * 5 * 6 * 4 * 9
    given = x, torch.randn(8, 3, 3, 4), *[torch.randn(8)] * 3, 2, 1, 1e-6
    flops, out = counted(downsample_map_reference, *given)
    assert formulas.downsample_flops(*given, out_val=out) == flops == 2 * 2 * 3 * 3 * 8 * 9 * 4
    given = x, None, torch.randn(5, 5, 4), vector, vector, vector, 1e-6
    flops, out = counted(depthwise_norm_reference, *given)
    assert formulas.depthwise_norm_flops(*given, out_val=out) == flops == 2 * 2 * 5 * 6 * 4 * 25


def test_mask_logits():
    given = torch.randn(2, 3, 4, 2, 2, 2, 2, 5), torch.randn(2, 12, 16, 5), torch.randn(2, 3, 5)
    flops, out = counted(mask_logits_reference, *given)
    assert formulas.mask_logits_flops(*given, out_val=out) == flops == 2 * 2 * 12 * 16 * 5 * 3


def test_attention():
    """Also on the CPU, for which torch has no formula."""
    query, key, value = torch.randn(2, 3, 7, 8), torch.randn(2, 3, 5, 8), torch.randn(2, 3, 5, 8)
    flops, _ = counted(torch.nn.functional.scaled_dot_product_attention, query, key, value)
    assert flops == 4 * 2 * 3 * 7 * 5 * 8
    assert formulas.attention_flops(query, key, value, None, None, 0, out_val=query) == flops
    assert torch.ops.sam2fast.rope_attention in flop_registry


def test_memory_attention_counts_what_is_valid():
    """Two objects: three pages of four tokens and a pointer, and one page. Of the three, means may be attended to."""
    N, width, m, values = 4, 16, 4, 8
    query, pages = torch.randn(2, 1, N, width), torch.randn(9, 4, m)
    table, valid = torch.tensor([[0, 3, 4], [2, -1, -1]]), torch.tensor([[True, False], [False, False]])
    empty = torch.empty(0)
    tensors = [query, pages, table, empty, empty, empty, empty, empty, valid]
    weights = [torch.randn(width, m), None, torch.randn(values, m), None, empty, empty, None, None, None, 0.0]
    tokens = 13 + 4
    for pooling, attended in (("", tokens), ("raised", 4 + 4)):
        expected = 2 * tokens * m * width + 2 * attended * N * (width + m) + 2 * 2 * N * m * values
        assert formulas.memory_attention_flops(*tensors, *weights, False, pooling, out_val=empty) == expected
