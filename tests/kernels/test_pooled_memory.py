"""Memory attention to pages of a quarter of a map: quarters and means of 2x2 tokens."""

import pytest
import torch
from memories import memory_of, memory_of_kinds, rope_of_kinds, weights_of, written_out
from parity import random_map

from sam2fast.kernels.memory_attention import (
    memory_attention,
    memory_attention_cpu,
    memory_attention_reference,
)
from sam2fast.modeling.attention import RoPEAttention
from sam2fast.modeling.position_encoding import axial_rope
from sam2fast.utils.testing import relative_error

PATHS = {"reference": memory_attention_reference, "cpu": memory_attention_cpu, "op": memory_attention}


@pytest.mark.parametrize("compute", PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize(("shared", "heads"), [(True, 1), (False, 2)])
@torch.no_grad()
def test_all_kinds_of_pages(compute, shared, heads):
    memory = memory_of_kinds(7, 1, 0, 12)
    query, weights, rope = random_map(1 if shared else 4, heads, 16, 12), weights_of(12, 8, heads), rope_of_kinds(4, 12)
    actual = compute(query, memory, *weights, *rope)
    assert relative_error(written_out(query, memory, *weights, *rope), actual) < 1e-5
    assert torch.equal(actual[2], weights[3].expand(16, -1))


@pytest.mark.parametrize("compute", PATHS.values(), ids=PATHS.keys())
@torch.no_grad()
def test_four_quarters_are_the_map(compute):
    """The attention to whole maps does not change when each lies in four pages."""
    whole, query, weights = memory_of(3, 2, side=6), random_map(1, 1, 36, 12), weights_of(12, 8)
    cos, sin = axial_rope(12, 6, 6, 10000.0, torch.device("cpu"))
    expected = compute(query, whole, *weights, cos, sin)
    quarter = torch.arange(4, dtype=torch.int32)
    table = whole.page_table[..., None]
    quarters = whole._replace(
        pages=whole.pages.unflatten(1, (4, 9)).flatten(0, 1),
        page_table=torch.where(table >= 0, 4 * table + quarter, -1).flatten(1),
        page_time=(whole.page_time[..., None] + 7 * quarter).flatten(1),
        position_encoding=torch.cat([whole.position_encoding, torch.full((9, 8), float("nan"))]),
    )
    tables = (torch.cat([t, torch.full((9, 6), float("nan"))]) for t in (cos, sin))
    assert relative_error(expected, compute(query, quarters, *weights, *tables)) < 1e-5


@torch.no_grad()
def test_the_module_rotates_means_at_their_centres():
    torch.manual_seed(0)
    module = RoPEAttention(embedding_dim=24, num_heads=1, kv_in_dim=8, feat_sizes=(4, 4), rope_k_repeat=True).eval()
    memory, x = memory_of_kinds(5, 9), random_map(2, 16, 24)
    weights = module.k_proj.weight, module.k_proj.bias, module.v_proj.weight, module.v_proj.bias
    means = written_out(module.q_proj(x)[:, None], memory, *weights, *rope_of_kinds(4, 24))
    assert relative_error(module.out_proj(means.float()), module.attend(x, memory)) < 1e-5


def test_tables_that_do_not_fit():
    memory, weights, (cos, sin) = memory_of_kinds(2), weights_of(12, 8), rope_of_kinds(4, 12)
    query = random_map(1, 1, 16, 12)
    with pytest.raises(ValueError, match=r"cos has shape \(16, 6\); expected \(20, 6\)"):
        memory_attention(query, memory, *weights, cos[:16], sin[:16])
    with pytest.raises(ValueError, match=r"position_encoding has shape \(16, 8\); expected \(4, 8\)"):
        memory_attention(query, memory._replace(position_encoding=random_map(16, 8)), *weights, cos, sin)
    with pytest.raises(ValueError, match="query has shape"):
        memory_attention(query[:, :, :4], memory, *weights, cos, sin)
