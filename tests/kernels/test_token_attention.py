"""Attention between a few tokens and an image, in Triton's interpreter if there is no GPU."""

import math

import oracle  # noqa: F401  (makes the official package importable)
import pytest
import torch
from kernel_checks import as_accurate, by_kernel, in_float64
from kernel_records.token_attention import Use, arguments
from sam2.modeling.sam.transformer import Attention

from sam2fast.kernels._dispatch import backend
from sam2fast.kernels._op import OPS
from sam2fast.kernels.token_attention import token_attention, token_attention_reference

# Items, queries, keys and channels of a head. Up to 128 keys are one block. With more, each of eight warps has 32 keys
# at a time in fp32, 64 in bf16 and fp16: 129 keys leave warps without any, and 1,024 fill all blocks.
SIZES = {
    "one token": (1, 1, 1, 16),
    "tokens to each other": (2, 9, 9, 32),
    "a full block": (1, 70, 16, 16),
    "narrow heads": (2, 20, 17, 3),
    "most keys of one block": (1, 17, 128, 8),
    "warps without keys": (2, 5, 129, 16),
    "full blocks": (1, 8, 1024, 16),
    "many keys": (2, 19, 1500, 12),
}


ONE_OF_EACH = "tokens to each other", "warps without keys"  # one block of keys, and several

NONE = None, None  # no positions


def random_arguments(items, queries, keys, d, dtype=torch.float32, device="cpu", placed=False):
    return arguments(items, Use(queries, keys, d, False, placed), dtype, device)


@pytest.mark.parametrize(
    ("name", "dtype", "placed"),
    [
        *((name, torch.float32, True) for name in SIZES),
        *((name, torch.bfloat16, True) for name in ("a full block", "warps without keys", "many keys")),
        *((name, dtype, False) for name in ONE_OF_EACH for dtype in (torch.float32, torch.float16)),
    ],
    ids=str,
)
@torch.no_grad()
def test_as_accurate_as_the_reference(triton_device, dtype, name, placed):
    """On parts of joined projections, with or without positions."""
    as_accurate(token_attention, *random_arguments(*SIZES[name], dtype, triton_device, placed))


@pytest.mark.parametrize(("queries", "keys"), [(7, 300), (70, 7)], ids=["to the image", "to tokens"])
@pytest.mark.parametrize("shared", ["queries", "keys"])
@torch.no_grad()
def test_one_item_for_all(triton_device, queries, keys, shared):
    """Three prompts on one image are those on three equal images."""
    q, k, v, *rest = random_arguments(3, queries, keys, 16, device=triton_device, placed=True)
    q, k, v = (q[:1], k, v) if shared == "queries" else (q, k[:1], v[:1])
    expanded = [x.expand(3, -1, -1).contiguous() for x in (q, k, v)]
    expected = token_attention_reference(*expanded, *rest)
    torch.testing.assert_close(token_attention(q, k, v, *rest), token_attention(*expanded, *rest))
    torch.testing.assert_close(by_kernel(token_attention, q, k, v, *rest), expected)


@pytest.mark.parametrize(("queries", "keys"), [(40, 9), (9, 300)])
@torch.no_grad()
def test_positions_are_added_before_the_scores(triton_device, queries, keys):
    given = random_arguments(2, queries, keys, 16, device=triton_device, placed=True)
    q, k, v, *positions, heads = given
    expected = token_attention_reference(q + positions[0], k + positions[1], v, *NONE, heads)
    for found in (by_kernel(token_attention, *given), token_attention(*given)):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("downsample", [1, 2])
@torch.no_grad()
def test_the_reference_is_the_official_attention(downsample):
    """Between its projections."""
    torch.manual_seed(0)
    official = Attention(64, 4, downsample_rate=downsample)
    query, image = torch.randn(2, 7, 64), torch.randn(2, 40, 64)
    for given in ((query, image, image), (image, query, query)):
        layers = official.q_proj, official.k_proj, official.v_proj
        read = token_attention(*(layer(x) for layer, x in zip(layers, given, strict=True)), *NONE, 4)
        torch.testing.assert_close(official.out_proj(read), official(*given))


@pytest.mark.parametrize("keys", [40, 1500])
@torch.no_grad()
def test_scores_far_apart(triton_device, keys):
    """One key outweighs all others: the first, one in the midst, or the last, which changes the scale of all sums."""
    q, k, v, *_, heads = random_arguments(1, 4, keys, 16, device=triton_device)
    for key in (0, keys // 2, keys - 1):
        k = torch.zeros_like(k)
        k[:, key] = 60 * q[:, 0].sign()
        found = by_kernel(token_attention, q, k, v, *NONE, heads)
        torch.testing.assert_close(found, token_attention_reference(q, k, v, *NONE, heads), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found[:, 0], v[:, key])


@pytest.mark.parametrize("keys", [9, 300])
@torch.no_grad()
def test_nan_stays(triton_device, keys):
    """In the item, and with the query in the head, that has it."""
    q, k, v, *_, heads = random_arguments(2, 20, keys, 16, device=triton_device)
    q = q.clone()
    q[1, 3, 16] = float("nan")
    found = by_kernel(token_attention, q, k, v, *NONE, heads).isnan().unflatten(-1, (heads, -1)).all(-1).nonzero()
    assert found.tolist() == [[1, 3, 1]]


@torch.no_grad()
def test_the_score_of_no_key_is_exact_in_a_multiply_add():
    """A GPU rounds a fused multiply-add once. A warp without keys has weights 2^(x - x), which must not overflow."""
    from sam2fast.kernels.token_attention_triton import LOWEST

    for d in (3, 16, 32):
        scale = torch.tensor(d**-0.5 * math.log2(math.e))
        product = torch.tensor(LOWEST.value) * scale
        assert product.double() == LOWEST.value * scale.double() and product.isfinite()


def test_triton_3_2_does_not_load_ahead(monkeypatch):
    """Its compiler would end the process."""
    from sam2fast.kernels import token_attention_triton as launch

    for loads_ahead, stages in ((True, {2, 3}), (False, {1})):
        monkeypatch.setattr(launch, "LOADS_AHEAD", loads_ahead)
        configs = [launch.config("sm_90", dtype, "many") for dtype in ("float32", "bfloat16")]
        assert {each.options["num_stages"] for each in configs} == stages


def test_fp32_is_left_to_torch():
    for dtype, prefers in ((torch.float32, True), (torch.bfloat16, False), (torch.float16, False)):
        assert OPS["token_attention"].prefers_torch(*random_arguments(1, 4, 4, 16, dtype)) == prefers


def test_unsupported_inputs(triton_device):
    q, k, v, *_, heads = random_arguments(2, 4, 5, 16, device=triton_device)
    wrong = ((q[0], k, v), (q, k, v[:, :4]), (q[..., :64], k, v), (q.repeat(2, 1, 1), k, v), (q, k[:, :0], v[:, :0]))
    for given in wrong:
        with pytest.raises(ValueError, match=r"expected query \(B or 1, N, C\)"):
            token_attention(*given, *NONE, heads)
    for positions in ((k[0], None), (None, q[0])):
        with pytest.raises(ValueError, match=r"query_position \(N, C\) and key_position \(M, C\)"):
            token_attention(q, k, v, *positions, heads)
    with pytest.raises(ValueError, match="multiple of num_heads, got .*, num_heads 7"):
        token_attention(q, k, v, *NONE, 7)
    with backend("triton"):
        with pytest.raises(RuntimeError, match="one dtype"):
            token_attention(q.bfloat16(), k, v, *NONE, heads)
        with pytest.raises(RuntimeError, match="float64"):
            token_attention(*in_float64([q, k, v, *NONE, heads]))
        with torch.autocast(triton_device.type, torch.bfloat16), pytest.raises(RuntimeError, match="autocast"):
            token_attention(q, k, v, *NONE, heads)
        with pytest.raises(RuntimeError, match="at most 32 channels with 5 keys"):
            token_attention(*random_arguments(1, 4, 5, 33, device=triton_device))
        with pytest.raises(RuntimeError, match="at most 16 channels with 129 keys"):
            token_attention(*random_arguments(1, 4, 129, 17, device=triton_device))
