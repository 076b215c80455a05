"""The Triton kernels of memory attention and of self-attention, in Triton's interpreter if there is no GPU."""

import itertools

import oracle  # noqa: F401  (makes the official package importable)
import pytest
import torch
import torch.nn.functional as F
from interpreter import shuffled_programs
from memories import attention_arguments, on_cpu, written_out
from parity import random_map

pytest.importorskip("triton")

from sam2fast.kernels import _launch  # noqa: E402
from sam2fast.kernels._dispatch import backend, launches  # noqa: E402
from sam2fast.kernels._launch import Row  # noqa: E402
from sam2fast.kernels.layer_norm import add_layer_norm_reference  # noqa: E402
from sam2fast.kernels.memory_attention import (  # noqa: E402
    AttendedMemory,
    add_memory_attention,
    add_rope_attention,
    apply_rope,
    launch,
    memory_attention_reference,
    rope_attention,
    rope_attention_reference,
)
from sam2fast.modeling.position_encoding import axial_rope  # noqa: E402
from sam2fast.utils.testing import relative_error  # noqa: E402


def rope(side, d, device="cpu"):
    return axial_rope(d, side, side, 10000.0, torch.device(device))


def check(exact, reference, actual, dtype):
    """fp32 is close; fp16 and bf16 are at most twice as far from float64 as the reference."""
    assert actual.dtype == dtype and actual.shape == exact.shape
    allowed = 1e-5 if dtype == torch.float32 else 2 * relative_error(exact, reference.cpu())
    assert relative_error(exact, actual.cpu()) <= allowed < 0.2


def check_sum(exact, reference, actual):
    """The sum of fp32 and what was computed in bf16 is as far from float64 as the reference, too."""
    assert actual.dtype == reference.dtype and actual.shape == exact.shape
    assert relative_error(exact, actual.cpu()) <= max(1e-5, 2 * relative_error(exact, reference.cpu()))


# side, d, m, heads, pages of each object, pointers, splits
CASES = {
    "official widths": (4, 256, 64, 1, (3, 1), 8, 2),
    "nano's widths": (8, 128, 64, 1, (2, 0, 1), 12, 3),
    "odd side, odd slots": (5, 64, 32, 1, (3, 1, 5), 7, 5),
    "two heads": (5, 32, 32, 2, (1, 2), 4, 2),
    "a width of no power of two": (6, 96, 64, 1, (2, 1), 5, 4),
    "no pointers": (5, 32, 64, 1, (1, 4), 0, 8),
    "more pointers than three blocks": (4, 32, 32, 1, (1, 0), 200, 2),
    "more splits than blocks": (4, 32, 32, 1, (1,), 3, 8),
    "tokens, official widths": (4, 256, 64, 1, (3, 1), 8, 2),
    "tokens, two heads, odd slots": (5, 32, 32, 2, (1, 0, 3), 4, 3),
    "counted, official widths": (4, 256, 64, 1, (3, 1), 8, 2),
    "counted, two heads, odd means": (6, 32, 32, 2, (1, 0, 3), 40, 3),
    "raised, official widths": (4, 256, 64, 1, (3, 1), 8, 2),
    "raised, a width of no power of two": (6, 96, 64, 1, (2, 0, 1), 5, 4),
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.float32) for name in CASES),
        *((name, torch.bfloat16) for name in CASES if "official" in name or name == "two heads"),
        ("official widths", torch.float16),
    ],
    ids=str,
)
@torch.no_grad()
def test_memory_attention(triton_device, name, dtype):
    """Histories of different length, slots in disorder; masked tokens hold NaN. Pages are maps, tokens or means."""
    side, d, m, heads, filled, pointers, splits = CASES[name]
    kind = name.partition(",")[0]
    pooling = kind if kind in ("counted", "raised") else None
    sizes = {"side": side, "d": d, "m": m, "heads": heads, "pointers": pointers, "has_tokens": kind == "tokens"}
    for rows in (len(filled), 1) if kind == name else (len(filled),):
        given = attention_arguments(*filled, **sizes, rows=rows, device=triton_device, dtype=dtype)
        exact = written_out(*on_cpu(*given), pooling=pooling)
        reference = memory_attention_reference(*given, pooling=pooling)
        check(exact, reference, launch.memory_attention_triton(*given, splits=splits, pooling=pooling), dtype)


@pytest.mark.parametrize("dtypes", [(torch.float32,) * 2, (torch.bfloat16,) * 2, (torch.bfloat16, torch.float32)])
@pytest.mark.parametrize("shared", [True, False])
@torch.no_grad()
def test_a_residual_and_the_norm_of_the_sum(triton_device, monkeypatch, dtypes, shared):
    """In the launch that combines splits, also if objects come in groups. Channels are no power of two."""
    dtype, stream = dtypes
    given = attention_arguments(2, 1, 0, rows=1 if shared else 3, device=triton_device, dtype=dtype)
    query, memory, *rest = given
    C = len(rest[2])
    x = random_map(1 if shared else 3, 16, C, seed=7).to(triton_device, stream)
    norm = [random_map(C, seed=seed).to(triton_device) for seed in (8, 9)]
    total = x + written_out(*on_cpu(*given)).to(x.device)
    exact = total, F.layer_norm(total.double(), (C,), *(each.double() for each in norm))
    reference = memory_attention_reference(*given)
    reference = add_layer_norm_reference(x.expand_as(reference), reference, *norm, 1e-5, dtype)
    monkeypatch.setattr(launch, "MAX_KEY_BYTES", 2 * 86 * 32 * 4)  # at most two objects' keys
    before = launches["layer_norm"]
    with backend("triton"):
        found = add_memory_attention(x, *norm, 1e-5, *given)
    assert launches["layer_norm"] == before and C == 24
    for each in zip(exact, reference, found, strict=True):
        check_sum(*each)
    factors = torch.ones(3, memory.page_table.shape[1] + memory.pointers.shape[1], device=triton_device)
    others = add_memory_attention(x, *norm, 1e-5, query, memory._replace(key_factors=factors), *rest)
    for each in zip(exact, reference, others, strict=True):
        check_sum(*each)


@pytest.mark.parametrize(
    ("shape", "weight", "bias"),
    [
        ((1, 16, 8), 24, 24),
        ((1, 15, 24), 24, 24),
        ((3, 16, 24), 24, 24),
        ((16, 24), 24, 24),
        ((1, 16, 24), 8, 8),
        ((1, 16, 24), 24, 8),
    ],
)
def test_a_residual_that_does_not_fit(triton_device, shape, weight, bias):
    def zeros(*shape):
        return torch.zeros(shape, device=triton_device)

    x, norm, query = zeros(*shape), (zeros(weight), zeros(bias), 1e-5), zeros(1, 1, 16, 32)
    _, memory, *_, cos, sin = attention_arguments(2, device=triton_device)
    weights = zeros(32, 32), None, zeros(24, 32), None
    for add, *rest in ((add_memory_attention, memory, *weights), (add_rope_attention, query, query[..., :24])):
        with backend("triton"), pytest.raises(ValueError, match="a delta of the shape of x"):
            add(x, *norm, query, *rest, cos, sin)


@pytest.mark.parametrize("splits", [1, 3])
@torch.no_grad()
def test_an_empty_bank_gives_the_bias(triton_device, splits):
    query, memory, *rest = attention_arguments(0, 2, device=triton_device)
    actual = launch.memory_attention_triton(query, memory, *rest, splits=splits)
    assert torch.equal(actual[0], rest[3].expand(16, -1))
    # Neither a slot nor a pointer at all.
    nothing = memory._replace(
        page_table=memory.page_table[:, :0], page_time=memory.page_time[:, :0], pointers=memory.pointers[:, :0],
        pointer_encoding=memory.pointer_encoding[:, :0], pointer_valid=memory.pointer_valid[:, :0],
    )  # fmt: skip
    actual = launch.memory_attention_triton(query, nothing, *rest, splits=splits)
    assert torch.equal(actual, rest[3].expand(2, 16, -1))


@torch.no_grad()
def test_many_objects_come_in_groups(triton_device, monkeypatch):
    for rows in (1, 5):
        given = attention_arguments(2, 1, 0, 3, 1, rows=rows, device=triton_device)
        expected = launch.memory_attention_triton(*given, splits=2)
        with monkeypatch.context() as patch:
            patch.setattr(launch, "MAX_KEY_BYTES", 2 * 86 * 32 * 4)  # two objects' keys
            assert torch.equal(expected, launch.memory_attention_triton(*given, splits=2))


@torch.no_grad()
def test_no_objects(triton_device):
    query, memory, *rest = attention_arguments(1, device=triton_device)
    memory = AttendedMemory(*(x[:0] if i in (1, 2, 5, 6, 7) else x for i, x in enumerate(memory[:8])))
    assert launch.memory_attention_triton(query, memory, *rest).shape == (0, 16, 24)


# batch, heads, side, d, width of values, maps of keys, unrotated keys, splits
SELF_CASES = {
    "self-attention": (2, 1, 8, 32, 32, 1, 0, 1),
    "official widths": (1, 1, 8, 256, 256, 1, 0, 2),
    "official cross-attention": (2, 1, 4, 256, 256, 3, 5, 3),
    "narrow values": (1, 2, 7, 64, 32, 2, 3, 4),
    "no power of two": (1, 1, 5, 96, 96, 1, 0, 8),
    "pointers alone": (1, 1, 4, 32, 32, 0, 7, 1),
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*itertools.product(SELF_CASES, (torch.float32, torch.bfloat16)), ("narrow values", torch.float16)],
    ids=str,
)
@torch.no_grad()
def test_rope_attention(triton_device, name, dtype):
    B, heads, side, d, width, maps, unrotated, splits = SELF_CASES[name]
    N, M = side**2, maps * side**2 + unrotated
    q, k, v = (random_map(B, heads, n, w, seed=i) for i, (n, w) in enumerate(((N, d), (M, d), (M, width))))
    q, k, v = (x.to(triton_device, dtype) for x in (q, k, v))
    tables = rope(side, d, triton_device)
    exact = rope_attention_reference(*(x.cpu().double() for x in (q, k, v)), *(t.cpu() for t in tables), unrotated)
    reference = rope_attention_reference(q, k, v, *tables, unrotated)
    for count in (1, splits):
        check(exact, reference, launch.rope_attention_triton(q, k, v, *tables, unrotated, splits=count), dtype)


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("dtypes", [(torch.float32,) * 2, (torch.bfloat16, torch.float32)])
@torch.no_grad()
def test_self_attention_with_a_residual(triton_device, dtypes, splits):
    """The norm is part of the launch that combines splits, or a launch of its own."""
    dtype, stream = dtypes
    q, k, v = (random_map(2, 1, 25, 48, seed=i).to(triton_device, dtype) for i in range(3))
    x = random_map(2, 25, 48, seed=7).to(triton_device, stream)
    norm, tables = [random_map(48, seed=seed).to(triton_device) for seed in (8, 9)], rope(5, 48, triton_device)
    each = (x, (q, k, v), dtype), (x.double(), (q.double(), k.double(), v.double()), torch.float64)
    reference, exact = (
        add_layer_norm_reference(y, rope_attention_reference(*maps, *tables)[:, 0], *norm, 1e-5, to)
        for y, maps, to in each
    )
    before, normed = launches["layer_norm"], torch.empty_like(x, dtype=dtype)
    added = launch.Added(x, *norm, 1e-5, normed)
    total = launch.rope_attention_triton(q, k, v, *tables, splits=splits, added=added)
    assert launches["layer_norm"] == before + (splits == 1)
    with backend("triton"):
        chosen = add_rope_attention(x, *norm, 1e-5, q, k, v, *tables)
    for right, other, *found in zip(exact, reference, (total, normed), chosen, strict=True):
        for one in found:
            check_sum(right, other, one)
    nothing = launch.Added(x[:0], *norm, 1e-5, normed[:0])
    empty = launch.rope_attention_triton(q[:0], k[:0], v[:0], *tables, splits=splits, added=nothing)
    assert empty.shape == (0, 25, 48) and empty.dtype == total.dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("d", "layout"), [(2, "rows"), (18, "projected"), (96, "transposed"), (256, "projected")])
@torch.no_grad()
def test_rotated_rows_bit_by_bit(triton_device, d, layout, dtype):
    """Stores even channels before odd channels, each half padded. Fusing changes nothing, since all sums are exact."""
    heads, N, M, unrotated = 2, 25, 55, 5
    x = (8 * random_map(2, 1, M, heads * d)).round().to(triton_device, dtype)
    if layout == "projected":
        x = torch.cat([-x, x], -1)[..., heads * d :]
    maps = x.unflatten(-1, (heads, d)).transpose(2, 3)
    if layout == "rows":
        maps = maps.contiguous()
    if layout == "transposed":
        maps = maps.transpose(3, 4).contiguous().transpose(3, 4)
    cos, sin = (8 * random_map(2, N, d // 2, seed=1)).round().to(triton_device) / 8
    for x, found in zip(maps, launch._rotate((maps[0], maps[1]), cos, sin, M - unrotated), strict=True):
        turned, rest = x.split([M - unrotated, unrotated], 2)
        halves = torch.cat([apply_rope(turned, cos, sin), rest], 2).unflatten(-1, (-1, 2)).transpose(-1, -2)
        assert torch.equal(found.data, F.pad(halves, (0, launch.half_of(d) - d // 2)).flatten(-2))


@pytest.mark.parametrize(
    ("keys", "unrotated", "expected"), [("alike", 0, [2]), ("alike", 25, [1, 1]), ("transposed", 0, [1, 1])]
)
@torch.no_grad()
def test_queries_and_keys_are_rotated_by_one_launch(triton_device, monkeypatch, keys, unrotated, expected):
    """Where the projection has stored them side by side, so that their strides are the same."""
    found, kernel = [], launch._rotate_kernel
    projected = random_map(2, 25, 3 * 2 * 32).to(triton_device)
    q, k, v = (x.unflatten(-1, (2, 32)).transpose(1, 2) for x in projected.chunk(3, -1))
    k = k if keys == "alike" else k.transpose(2, 3).contiguous().transpose(2, 3)
    tables = rope(5, 32, triton_device)

    class Counted:
        def __getitem__(self, grid):
            return lambda *a, **options: found.append(grid[2]) or kernel[grid](*a, **options)

    monkeypatch.setattr(launch, "_rotate_kernel", Counted())
    actual = launch.rope_attention_triton(q, k, v, *tables, unrotated, splits=1)
    assert found == expected
    check(*[rope_attention_reference(q, k, v, *tables, unrotated)] * 2, actual, torch.float32)


@pytest.mark.parametrize("chunk", [16, 64])
@torch.no_grad()
def test_blocks_of_any_size(triton_device, monkeypatch, chunk):
    """Also with programs in another order."""
    config = Row("*", "*", "*", {"BLOCK_M": 16, "BLOCK_N": 16, "CHUNK": chunk}, {"num_warps": 4})
    monkeypatch.setattr(_launch, "custom_rows", lambda: {"memory_attention": [config]})
    given = attention_arguments(3, 1, 0, side=5, d=64, device=triton_device)
    exact = written_out(*on_cpu(*given))
    for splits in (3, 8):  # there are six blocks of keys
        actual = launch.memory_attention_triton(*given, splits=splits)
        assert relative_error(exact, actual.cpu()) < 1e-5
    with shuffled_programs(1):
        assert torch.equal(actual, launch.memory_attention_triton(*given, splits=splits))


@pytest.mark.parametrize("splits", [1, 3])
@torch.no_grad()
def test_full_blocks_without_masks_give_the_same(triton_device, monkeypatch, splits):
    """With PEELED in the row; the last block is partly filled."""
    arguments = attention_arguments(2, 0, 1, side=5, d=64, pointers=3, rows=3, device=triton_device)
    found = []
    for more in ({}, {"PEELED": 1}):
        meta = {"BLOCK_M": 16, "BLOCK_N": 16, "CHUNK": 256, **more}
        config = Row("*", "*", "*", meta, {"num_warps": 4, "num_stages": 2})
        monkeypatch.setattr(_launch, "custom_rows", lambda config=config: {"memory_attention": [config]})
        found.append(launch.memory_attention_triton(*arguments, splits=splits))
    assert relative_error(*found) < 1e-6


@torch.no_grad()
def test_what_the_kernels_do_not_support(triton_device):
    x, tables = random_map(1, 1, 16, 512).to(triton_device), rope(4, 512, triton_device)
    assert rope_attention(x, x, x, *tables).shape == x.shape
    with backend("triton"), pytest.raises(RuntimeError, match="rope_attention supports heads and values of up to 256"):
        rope_attention(x, x, x, *tables)
    x, tables = x[..., :32], rope(4, 32, triton_device)
    with backend("triton"), pytest.raises(RuntimeError, match=r"rope_attention does not support torch\.float64"):
        rope_attention(*[x.double()] * 3, *tables)
    odd = random_map(1, 1, 16, 33).to(triton_device)
    with backend("triton"), pytest.raises(RuntimeError, match="supports heads with an even number of channels, got 33"):
        rope_attention(odd, odd, odd, *rope(4, 32, triton_device))
    with backend("triton"), pytest.raises(RuntimeError, match="rope_attention has no dropout"):
        rope_attention(x, x, x, *tables, dropout_p=0.1)


def test_keys_are_split_further_where_a_processor_runs_several_programs():
    """With two at once, the query tiles of one object at 1024 pixels fill 132 processors by eight splits."""
    assert [launch.splits_for(32 * objects, 132, 449) for objects in (1, 2, 4, 16)] == [4, 2, 1, 1]
    assert launch.splits_for(1, 132, 3) == 3 and launch.splits_for(1, 132, 0) == 1
    for tiles in (1, 8, 16, 32, 64, 128, 512):
        splits = [launch.splits_for(tiles, 132, 449, programs) for programs in (1, 2, 3)]
        assert splits[0] == launch.splits_for(tiles, 132, 449) and splits[0] <= splits[1] <= splits[2], tiles
    for programs in (1, 2):
        splits = [launch.splits_for(2**n, 132, 449, programs) for n in range(3, 11)]
        assert splits == sorted(splits, reverse=True), programs
    assert [launch.splits_for(32 * objects, 132, 449, 2) for objects in (1, 2, 4, 16)] == [8, 4, 2, 1]
    assert launch.splits_for(32, 132, 3, 2) == 3


@torch.no_grad()
def test_the_row_sets_how_many_programs_a_processor_runs(triton_device, monkeypatch):
    """The setting is not passed to the kernel."""
    asked = []
    monkeypatch.setattr(launch, "splits_for", lambda *arguments: asked.append(arguments[-1]) or 1)
    q, tables = random_map(1, 1, 25, 64).to(triton_device), rope(5, 64, triton_device)
    found = []
    for more in ({}, {"CTAS_PER_SM": 2}):
        meta = {"BLOCK_M": 16, "BLOCK_N": 16, "CHUNK": 64, **more}
        config = Row("*", "*", "*", meta, {"num_warps": 4})
        monkeypatch.setattr(_launch, "custom_rows", lambda config=config: {"memory_attention": [config]})
        found.append(launch.rope_attention_triton(q, q, q, *tables))
    assert asked == [1, 2] and torch.equal(*found)


def test_a_group_of_objects_begins_at_aligned_tables(monkeypatch):
    monkeypatch.setattr(launch, "MAX_KEY_BYTES", 1000)
    assert [launch._group(keys, 1) for keys in (2000, 200, 52, 20, 0)] == [1, 5, 16, 48, 992]
    monkeypatch.setattr(launch, "MAX_PROGRAMS", 100)
    assert [launch._group(20, heads) for heads in (2, 3, 10, 100)] == [48, 32, 10, 1]


@torch.no_grad()
def test_more_tokens_than_can_be_addressed(triton_device):
    query, memory, *rest = attention_arguments(1, device=triton_device)
    table = torch.full((1, 2**22), -1, dtype=torch.int32, device=triton_device)
    with pytest.raises(ValueError, match="more than the kernels can address"):
        launch.memory_attention_triton(query, memory._replace(page_table=table, page_time=table), *rest)


@torch.no_grad()
def test_a_bfloat16_query_with_fp32_weights_and_memory(triton_device):
    """As under autocast."""
    query, *rest = attention_arguments(2, 1, side=8, rows=2, device=triton_device)
    rounded = attention_arguments(2, 1, side=8, rows=2, device=triton_device, dtype=torch.bfloat16)
    exact = written_out(*on_cpu(query.bfloat16(), *rest))
    actual = launch.memory_attention_triton(query.bfloat16(), *rest)
    check(exact, memory_attention_reference(*rounded), actual, torch.bfloat16)


def test_gradients_of_gradients(triton_device):
    q, k, v = (random_map(1, 1, 16, 32, seed=i).to(triton_device) for i in range(3))
    tables = rope(4, 32, triton_device)

    def penalty(name):
        leaf = q.clone().requires_grad_()
        with backend(name), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            out = rope_attention(leaf, k, v, *tables)
            (first,) = torch.autograd.grad(out.square().sum(), leaf, create_graph=True)
            return torch.autograd.grad(first.square().sum(), leaf)[0]

    assert relative_error(penalty("torch"), penalty("triton")) < 1e-4


def test_a_compiled_training_step_with_more_and_more_pointers(triton_device):
    """From the second number on, it is a symbolic size."""
    q, tables = random_map(1, 1, 16, 32).to(triton_device), rope(4, 32, triton_device)
    torch._dynamo.reset()
    compiled = torch.compile(rope_attention, backend="aot_eager", fullgraph=True)
    for pointers in (0, 4, 6):
        k = random_map(1, 1, 16 + pointers, 32, seed=1).to(triton_device)
        leaf = q.clone().requires_grad_()
        with backend("triton"):
            compiled(leaf, k, k, *tables, pointers).sum().backward()
        expected = q.clone().requires_grad_()
        rope_attention_reference(expected, k, k, *tables, pointers).sum().backward()
        assert relative_error(expected.grad, leaf.grad) < 1e-4
