"""Memory attention of queries and keys rounded to eight bits, and its Triton kernels."""

from types import SimpleNamespace

import pytest
import torch
from memories import attention_arguments, on_cpu, written_out
from parity import random_map

from sam2fast.kernels import _custom_ops
from sam2fast.kernels._dispatch import backend, launches
from sam2fast.kernels.memory_attention import (
    AttendedMemory,
    approximations,
    memory_attention,
    memory_attention_cpu,
    memory_attention_reference,
)
from sam2fast.utils.testing import relative_error

PATHS = {"reference": memory_attention_reference, "cpu": memory_attention_cpu, "op": memory_attention}
# A relative error of fp32, some 1e-6, takes about one number in 1e5 over a tie. One that goes the other way is off by
# 1/8 at most, hence a score by 1/8 |q_i k_i| / sqrt d: with d from 32 on and both of the size of 1 by 0.02, and the
# output by 0.02 of one of 30 to 600 keys' share. All rounding together costs 20 times as much, see FLOOR.
CLOSE = 1e-3
# What rounding changes. A number is off by 1/16 at most, by 1/40 in the mean square, and a score of 32 to 256 products
# of spread 1 by 0.035: of the largest of all outputs that is several times as much.
FLOOR, CEILING = 0.01, 0.4


def rounded_by_hand(rows: torch.Tensor) -> torch.Tensor:
    """To the nearest of 0, k * 2**-9 and (8 + k) * 2**e up to 448, the largest of a row being 448; ties to even k."""
    steps = [k * 2.0**-9 for k in range(8)]
    numbers = torch.tensor(steps + [(8 + k) * 2.0**e for e in range(-9, 6) for k in range(8)][:-1], dtype=torch.float64)
    assert numbers[-1] == 448 and (numbers.diff() > 0).all()
    scale = rows.abs().amax(dim=-1, keepdim=True) / 448
    scale = torch.where(scale == 0, 1, scale)
    wanted = (rows / scale).abs()
    above = torch.searchsorted(numbers, wanted.contiguous()).clamp(max=len(numbers) - 1)
    below = (above - 1).clamp(min=0)
    up, down = numbers[above] - wanted, wanted - numbers[below]
    chosen = torch.where((up < down) | ((up == down) & (above % 2 == 0)), above, below)
    return numbers[chosen] * rows.sign() * scale


@pytest.mark.parametrize("wide", [torch.float32, torch.float64])
def test_rounding(wide):
    """Rows of every size, ties, zeros, and a largest number that must not overflow."""
    ties = torch.tensor([448.0, 17, 2**-9, 208, 216, 2**-10, 3 * 2**-10, -27])
    sizes = 10.0 ** torch.arange(-20, 20).repeat(5)[:, None]
    rows = torch.cat([random_map(200, 8) * sizes, ties[None], ties[None] * 2.0**-20, torch.zeros(1, 8)]).to(wide)
    found = approximations.rounded_to_fp8(rows)
    assert found.dtype == wide
    expected = rounded_by_hand(rows.double())
    assert (found - expected).abs().max(dim=1).values.le(1e-6 * rows.abs().amax(dim=1)).all()
    assert found[-3].tolist() == [448, 16, 2**-9, 208, 224, 0, 2**-8, -28] and not found[-1].any()
    spread = 2.0 ** torch.arange(8).to(wide)  # powers of two do not affect rounding, unless they are too small
    assert torch.equal(approximations.rounded_to_fp8(rows[:1] * spread[:, None]), found[:1] * spread[:, None])


@pytest.mark.parametrize("compute", PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize(("shared", "heads"), [(True, 1), (False, 2)])
@torch.no_grad()
def test_the_torch_implementations(compute, shared, heads):
    """Pages of tokens, whole maps, pointers, an empty bank."""
    for has_tokens in (True, False):
        given = attention_arguments(2, 0, 3, 1, m=8, heads=heads, rows=1 if shared else 4, has_tokens=has_tokens)
        exact, rough = compute(*given), compute(*given, fp8=True)
        assert relative_error(written_out(*given, rounded=rounded_by_hand), rough) < CLOSE
        assert FLOOR < relative_error(exact, rough) < CEILING
        assert relative_error(written_out(*given), exact) < 1e-5


@torch.no_grad()
def test_bfloat16_is_rounded_like_fp32():
    """From values rounded to bfloat16 before; the result is rounded, too."""
    exact = memory_attention_reference(*attention_arguments(2, 1, m=8), fp8=True)
    for compute in (memory_attention_reference, memory_attention_cpu):
        found = compute(*attention_arguments(2, 1, m=8, dtype=torch.bfloat16), fp8=True)
        assert found.dtype == torch.bfloat16 and relative_error(exact, found) < CEILING / 2


def test_there_is_no_gradient():
    query, *rest = attention_arguments(2, 1)
    with pytest.raises(RuntimeError, match=r"fp8 has no gradient; compute it under torch\.no_grad"):
        memory_attention(query.requires_grad_(), *rest, fp8=True)
    with torch.no_grad():
        memory_attention(query, *rest, fp8="emulated")


@torch.no_grad()
def test_custom_implementations_do_not_get_the_argument():
    """Their arguments are the same as without fp8."""
    arguments = attention_arguments(2, 1)

    def own(query, memory, key_weight, key_bias, value_weight, value_bias, cos, sin):
        return "own"

    _custom_ops.register_op("memory_attention", own, "rounding")
    try:
        with backend("rounding"):
            assert memory_attention(*arguments, fp8=True) == "own"
    finally:
        _custom_ops.unregister_op("memory_attention", "rounding")


# side, d, m, heads, pages of each object, pointers, splits, whether pages are tokens
CASES = {
    "one object": (4, 32, 32, 1, (2,), 6, 1, False),
    "official widths": (4, 256, 64, 1, (3, 1), 8, 2, False),
    "two heads, an odd side, an empty bank": (7, 32, 32, 2, (1, 0, 2), 4, 2, False),
    "a width of no power of two": (6, 96, 64, 1, (2, 1), 5, 4, False),
    "nano's widths": (8, 128, 64, 1, (2, 0, 1), 12, 3, False),
    "tokens, no pointers": (6, 32, 32, 2, (1, 3), 0, 8, True),
}


def arguments_of(case, device, dtype=torch.float32, shared=True):
    side, d, m, heads, filled, pointers, _, has_tokens = case
    sizes = {"side": side, "d": d, "m": m, "heads": heads, "pointers": pointers, "rows": 1 if shared else len(filled)}
    return attention_arguments(*filled, **sizes, has_tokens=has_tokens, device=device, dtype=dtype)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
@torch.no_grad()
def test_kernels(triton_device, case):
    """One head's queries are shared by all objects, two heads' are not."""
    launch = pytest.importorskip("sam2fast.kernels.memory_attention.launch")
    arguments, splits = arguments_of(case, triton_device, shared=case[3] == 1), case[6]
    expected = written_out(*on_cpu(*arguments), rounded=rounded_by_hand)
    actual = launch.memory_attention_triton(*arguments, splits=splits, fp8=True).cpu()
    assert relative_error(expected, actual) < CLOSE
    exact = memory_attention_reference(*arguments).cpu()
    assert FLOOR < relative_error(exact, actual) < CEILING
    reference = memory_attention_reference(*arguments, fp8=True).cpu()
    assert relative_error(reference, actual) < CLOSE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@torch.no_grad()
def test_kernels_in_fp16_and_bf16(triton_device, dtype):
    """At most twice as far from float64 rounding as the reference, which rounds keys before it rotates them."""
    launch = pytest.importorskip("sam2fast.kernels.memory_attention.launch")
    for name in ("official widths", "nano's widths"):
        arguments = arguments_of(CASES[name], triton_device, dtype)
        expected = written_out(*on_cpu(*arguments), rounded=rounded_by_hand)
        reference = memory_attention_reference(*arguments, fp8=True)
        actual = launch.memory_attention_triton(*arguments, splits=CASES[name][6], fp8=True)
        assert actual.dtype == dtype
        assert relative_error(expected, actual.cpu()) <= 2 * relative_error(expected, reference.cpu()) < 0.2


@torch.no_grad()
def test_the_dispatcher_uses_the_kernels(triton_device):
    """Unless the reference implementation is used."""
    from sam2fast.kernels.memory_attention.reference import memory_attention_op

    arguments = arguments_of(CASES["one object"], triton_device)
    before = launches["memory_attention"]
    with backend("triton"):
        actual = memory_attention(*arguments, fp8=True)
        assert launches["memory_attention"] == before + 1
        emulated = memory_attention(*arguments, fp8="emulated")
        assert launches["memory_attention"] == before + 1
    assert relative_error(emulated, actual) < CLOSE
    query, memory, *rest = arguments
    memory = AttendedMemory(*(x.nan_to_num() if x.is_floating_point() else x for x in memory[:8]))
    torch.library.opcheck(memory_attention_op.operator, (query, *memory[:8], *rest, None, None, None, 0.0, True, ""))


@torch.no_grad()
def test_objects_in_groups(triton_device, monkeypatch):
    """Each group's queries have their own scales."""
    launch = pytest.importorskip("sam2fast.kernels.memory_attention.launch")
    arguments = arguments_of(CASES["two heads, an odd side, an empty bank"], triton_device, shared=False)
    expected = launch.memory_attention_triton(*arguments, splits=2, fp8=True)
    monkeypatch.setattr(launch, "MAX_KEY_BYTES", 1)
    assert torch.equal(launch.memory_attention_triton(*arguments, splits=2, fp8=True), expected)


@pytest.mark.parametrize(
    ("capability", "reason"),
    [((8, 6), "8.9 or higher, but this GPU has 8.6"), ((8, 9), None), ((9, 0), None), ((10, 0), None)],
)
def test_gpus(monkeypatch, capability, reason):
    pytest.importorskip("triton")
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    found = approximations.why_no_fp8(gpu)
    assert found is None if reason is None else reason in found
    monkeypatch.setattr(torch.version, "hip", "6.2")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(gcnArchName="gfx942"))
    assert approximations.why_no_fp8(gpu) == "fp8 is supported only on NVIDIA GPUs"
    with backend("torch"):
        assert "'torch'" in approximations.why_no_fp8(gpu)
    assert approximations.why_no_fp8(torch.device("mps")) == "there are no kernels for fp8 on mps"
