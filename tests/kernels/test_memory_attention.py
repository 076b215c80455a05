import oracle  # noqa: F401  (makes the official package importable)
import pytest
import torch
from memories import attention_arguments, memory_of, memory_of_tokens, rope_of_tokens, weights_of, written_out
from parity import random_map
from sam2.modeling.position_encoding import apply_rotary_enc, compute_axial_cis

from sam2fast.kernels.memory_attention import (
    apply_rope,
    memory_attention,
    memory_attention_cpu,
    memory_attention_reference,
    reference,
    rope_attention,
    rope_attention_cpu,
    rope_attention_reference,
)
from sam2fast.modeling.attention import RoPEAttentionv2
from sam2fast.modeling.position_encoding import axial_rope
from sam2fast.utils.testing import relative_error


def test_fp32_on_hopper_is_left_to_the_reference(monkeypatch):
    """Unless one product in TF32 is enough, or an approximation is asked for."""
    pytest.importorskip("triton")
    query, pages = torch.zeros(1, 1, 4, 256), torch.zeros(1, 4, 64)

    def is_left(arch="sm_90", query=query, pages=pages, fp8=False, pooling=""):
        monkeypatch.setattr(reference, "is_hopper", lambda device: arch == "sm_90")
        return reference.memory_attention_op.prefers_torch(query, pages, fp8, pooling)

    assert is_left() and not is_left("sm_100") and not is_left("sm_80")
    assert not is_left(query=query.bfloat16()) and not is_left(query=query[..., :128])
    assert not is_left(fp8=True) and not is_left(pooling="pool")
    monkeypatch.setattr(reference, "tf32_is_allowed", lambda: True)
    assert not is_left()


def test_what_is_left_to_the_reference_is_known_in_a_graph(monkeypatch):
    pytest.importorskip("triton")
    is_hopper = torch.compiler.assume_constant_result(lambda device: True)
    monkeypatch.setattr(reference, "is_hopper", is_hopper)
    prefers_torch = torch.compile(reference.memory_attention_op.prefers_torch, backend="eager", fullgraph=True)
    assert prefers_torch(torch.zeros(1, 1, 4, 256), torch.zeros(1, 4, 64), False, "")


@pytest.mark.parametrize(("width", "height", "dim"), [(8, 8, 256), (64, 64, 256), (6, 3, 32)], ids=str)
def test_rotation_is_the_official_one(width, height, dim):
    x = random_map(2, 1, 3 * width * height, dim)
    q = random_map(2, 1, width * height, dim, seed=1)
    _, expected = apply_rotary_enc(q, x, compute_axial_cis(dim, width, height), repeat_freqs_k=True)
    actual = apply_rope(x, *axial_rope(dim, width, height, 10000.0, torch.device("cpu")))
    assert relative_error(expected, actual) < 1e-6


@pytest.mark.parametrize("maps", [0, 1, 3])
@pytest.mark.parametrize("value_dim", [32, 8])
def test_pointers_have_no_position(maps, value_dim):
    q, k = random_map(2, 1, 16, 32), random_map(2, 1, 16 * maps + 5, 32, seed=1)
    v = random_map(2, 1, 16 * maps + 5, value_dim, seed=2)
    cos, sin = axial_rope(32, 4, 4, 10000.0, torch.device("cpu"))
    rotated = [apply_rope(k[:, :, 16 * i : 16 * (i + 1)], cos, sin) for i in range(maps)]
    keys = torch.cat([*rotated, k[:, :, 16 * maps :]], dim=2).double()
    scores = apply_rope(q, cos, sin).double() @ keys.mT / 32**0.5
    expected = scores.softmax(-1) @ v.double()
    assert relative_error(expected, rope_attention(q, k, v, cos, sin, num_unrotated_keys=5)) < 1e-5


def test_shapes_that_do_not_fit():
    q, k = random_map(1, 1, 16, 32), random_map(1, 1, 40, 32)
    cos, sin = axial_rope(32, 4, 4, 10000.0, torch.device("cpu"))
    with pytest.raises(ValueError, match="whole number of maps"):
        rope_attention(q, k, k, cos, sin, num_unrotated_keys=5)
    with pytest.raises(ValueError, match="expected cos and sin"):
        rope_attention(q, k, k, cos[:8], sin[:8])


PATHS = {"reference": memory_attention_reference, "cpu": memory_attention_cpu, "op": memory_attention}


@pytest.mark.parametrize("compute", PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize("shared", [True, False], ids=["one query", "own queries"])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("pages", ["maps", "tokens"])
@torch.no_grad()
def test_memory_attention(compute, shared, heads, pages):
    """Objects with histories of different length, one with none; masked tokens hold NaN."""
    sizes = {"d": 12, "m": 8, "heads": heads, "rows": 1 if shared else 4}
    given = attention_arguments(3, 1, 0, 5, **sizes, has_tokens=pages == "tokens")
    actual = compute(*given)
    assert relative_error(written_out(*given), actual) < 1e-5
    assert torch.equal(actual[2], given[5].expand(16, -1))


@pytest.mark.parametrize("compute", PATHS.values(), ids=PATHS.keys())
@torch.no_grad()
def test_factors_of_keys(compute):
    """A factor of 1 changes no bit."""
    query, memory, *rest = attention_arguments(3, 1, 0, 5, d=12, m=8, heads=2, rows=4)
    shape = 4, memory.page_table.shape[1] + memory.pointers.shape[1]
    plain = compute(query, memory, *rest)
    assert torch.equal(plain, compute(query, memory._replace(key_factors=torch.ones(shape)), *rest))
    weighted = memory._replace(key_factors=1 + random_map(*shape).tanh() / 2)
    actual = compute(query, weighted, *rest)
    assert relative_error(written_out(query, weighted, *rest), actual) < 1e-5 < relative_error(plain, actual)


@pytest.mark.parametrize("compute", PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize("pooling", ["counted", "raised"])
@torch.no_grad()
def test_pooling(compute, pooling):
    """Of several memories; one alone is attended to as it is, also where another object has several."""
    given = attention_arguments(3, 1, 0, 5, d=12, m=8, heads=2, rows=4)
    plain, actual = compute(*given), compute(*given, pooling=pooling)
    assert relative_error(written_out(*given, pooling=pooling), actual) < 1e-5
    for b, is_pooled in enumerate([True, False, False, True]):
        assert (relative_error(plain[b], actual[b]) > 1e-3) == is_pooled


def test_pages_that_cannot_be_pooled():
    with pytest.raises(ValueError, match="pages have 28 tokens; pooling needs maps of 16 positions"):
        memory_attention(*attention_arguments(2, has_tokens=True), pooling="counted")
    with pytest.raises(ValueError, match="pages have 25 tokens; pooling needs maps of 25 positions with an even side"):
        memory_attention(*attention_arguments(2, side=5), pooling="counted")


@torch.no_grad()
def test_memory_attention_of_many_blocks():
    """More keys and queries than one block of scores, and scores that overflow without an online softmax."""
    memory = memory_of(3, 2, side=36, m=16)
    query = 30 * random_map(1, 1, 36 * 36, 32)
    weights = weights_of(32, 16)
    rope = axial_rope(32, 36, 36, 10000.0, torch.device("cpu"))
    expected = written_out(query, memory, *weights, *rope)
    # Scores of some hundreds: rounding them moves the weights by their size times 1e-7.
    assert relative_error(expected, memory_attention_cpu(query, memory, *weights, *rope)) < 1e-3
    assert relative_error(expected, memory_attention_reference(query, memory, *weights, *rope)) < 1e-3


@torch.no_grad()
def test_memory_attention_in_bfloat16():
    """The CPU path is at most twice as far from float64 as the reference, both in bf16."""
    memory = memory_of(3, 2, side=16, m=16, dtype=torch.bfloat16)
    query = random_map(1, 1, 256, 32).bfloat16()
    weights = weights_of(32, 16, dtype=torch.bfloat16)
    weights[0] /= 4
    rope = axial_rope(32, 16, 16, 10000.0, torch.device("cpu"))
    exact = written_out(query, memory, *weights, *rope)
    allowed = 2 * relative_error(exact, memory_attention_reference(query, memory, *weights, *rope))
    actual = memory_attention_cpu(query, memory, *weights, *rope)
    assert actual.dtype == torch.bfloat16
    assert relative_error(exact, actual) <= allowed < 0.1


def test_memory_attention_with_shapes_that_do_not_fit():
    memory = memory_of(2, 1)
    rope = axial_rope(12, 4, 4, 10000.0, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"key_weight has shape \(12, 7\); expected \(12, 8\)"):
        memory_attention(random_map(1, 1, 16, 12), memory, random_map(12, 7), None, random_map(24, 8), None, *rope)
    weights = weights_of(12, 8)
    with pytest.raises(ValueError, match="query has shape"):
        memory_attention(random_map(3, 1, 16, 12), memory, *weights, *rope)
    weights[2] = weights[2][:, :5]
    with pytest.raises(ValueError, match=r"value_weight has shape \(24, 5\); expected \(1 \* d_v, 8\)"):
        memory_attention(random_map(1, 1, 16, 12), memory, *weights, *rope)


def test_tables_that_do_not_fit():
    memory, weights, (cos, sin) = memory_of_tokens(2), weights_of(12, 8), rope_of_tokens(4, 12)
    query = random_map(1, 1, 16, 12)
    with pytest.raises(ValueError, match=r"cos has shape \(16, 6\); expected \(44, 6\)"):
        memory_attention(query, memory, *weights, cos[:16], sin[:16])
    with pytest.raises(ValueError, match=r"position_encoding has shape \(16, 8\); expected \(28, 8\)"):
        memory_attention(query, memory._replace(position_encoding=random_map(16, 8)), *weights, cos, sin)
    with pytest.raises(ValueError, match=r"cos has shape \(44, 6\); expected \(32, 6\)"):
        memory_attention(query[:, :, :4], memory, *weights, cos, sin)


@torch.no_grad()
def test_the_module_rotates_tokens_by_their_own_grid():
    """Also with every key given, as in training, where pointers come last."""
    torch.manual_seed(0)
    sizes = {"q_sizes": (4, 4), "k_sizes": (5, 5), "num_unrotated": 3}
    module = RoPEAttentionv2(embedding_dim=24, num_heads=1, kv_in_dim=8, **sizes).eval()
    memory, x = memory_of_tokens(2), random_map(1, 16, 24)
    weights = module.k_proj.weight, module.k_proj.bias, module.v_proj.weight, module.v_proj.bias
    means = written_out(module.q_proj(x)[:, None], memory, *weights, *rope_of_tokens(4, 24))
    expected = module.out_proj(means.float())
    tables = module._rope_of(16, 28, x.device)  # of plans
    found = memory_attention(module.q_proj(x)[:, None], memory, *weights, *tables)
    assert relative_error(expected, module.out_proj(found)) < 1e-5
    filled, chosen = memory.page_table[0] >= 0, memory.pointer_valid[0]
    pages, pointers = memory.pages[memory.page_table[0, filled].long()], memory.pointers[0, chosen]
    encoding = memory.position_encoding + memory.time_encoding[memory.page_time[0, filled].long(), None]
    keys = torch.cat([(pages + encoding).flatten(0, 1), pointers + memory.pointer_encoding[0, chosen]])
    values = torch.cat([pages.flatten(0, 1), pointers])
    assert relative_error(expected, module(x, keys[None], values[None], len(pointers))) < 1e-5
    with pytest.raises(ValueError, match="57 keys of frames are not a whole number of memories of 28"):
        module(x, keys[None, :57], values[None, :57])


@pytest.mark.parametrize("value_dim", [32, 8])
@torch.no_grad()
def test_long_self_attention(value_dim):
    """Long inputs have a separate implementation on the CPU."""
    q, k = random_map(2, 2, 1156, 32), random_map(2, 2, 1156, 32, seed=1)
    v = random_map(2, 2, 1156, value_dim, seed=2)
    rope = axial_rope(32, 34, 34, 10000.0, torch.device("cpu"))
    expected = rope_attention_reference(q, k, v, *rope)
    assert relative_error(expected, rope_attention_cpu(q, k, v, *rope)) < 1e-5
    assert torch.equal(rope_attention(q, k, v, *rope), rope_attention_cpu(q, k, v, *rope))
    k, v = torch.cat([k, k[:, :, :5]], 2), torch.cat([v, v[:, :, :5]], 2)
    expected = rope_attention_reference(q, k, v, *rope, num_unrotated_keys=5)
    assert relative_error(expected, rope_attention_cpu(q, k, v, *rope, num_unrotated_keys=5)) < 1e-5
