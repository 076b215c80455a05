"""Attention by specialised groups of warps; in Triton's interpreter one program does all of it in turn."""

import re

import pytest
import torch
import torch.nn.functional as F
from kernel_records import RECORDS
from memories import attention_arguments, on_cpu, written_out
from parity import random_map

pytest.importorskip("triton", "3.7", reason="with older versions no row takes this kernel")
from sam2fast.kernels import _launch  # noqa: E402
from sam2fast.kernels._launch import LaunchConfig, Row  # noqa: E402
from sam2fast.kernels.memory_attention import (  # noqa: E402
    launch,
    memory_attention_reference,
    rope_attention_reference,
    specialised_kernel,
)
from sam2fast.kernels.memory_attention.launch import Rotated  # noqa: E402
from sam2fast.modeling.position_encoding import axial_rope  # noqa: E402
from sam2fast.utils.testing import relative_error  # noqa: E402

META = {"BLOCK_M": 16, "BLOCK_N": 16, "CHUNK": 256}
OPTIONS = {"num_warps": 4, "num_stages": 2}


def row(**more):
    return Row("*", "*", "*", {**META, **more}, OPTIONS)


@pytest.fixture
def launched(monkeypatch):
    """Stages of the launches of the specialised kernel."""
    found, kernel = [], launch._attend_specialised_kernel

    class Counted:
        def __getitem__(self, grid):
            return lambda *a, **k: found.append(k["STAGES"]) or kernel[grid](*a, **k)

    monkeypatch.setattr(launch, "_attend_specialised_kernel", Counted())
    return found


def inputs(*filled, device, dtype):
    return attention_arguments(*filled, side=5, d=64, pointers=3, rows=len(filled), device=device, dtype=dtype)


@pytest.mark.parametrize(("splits", "dtype"), [(1, torch.bfloat16), (3, torch.float16), (8, torch.bfloat16)], ids=str)
@torch.no_grad()
def test_it_is_as_exact_as_the_reference(triton_device, monkeypatch, launched, dtype, splits):
    """Banks of different length, an empty one among them; ends of blocks, tiles and splits are ragged."""
    arguments = inputs(2, 0, 1, device=triton_device, dtype=dtype)
    exact = written_out(*on_cpu(*arguments))
    allowed = 2 * relative_error(exact, memory_attention_reference(*arguments).cpu())
    monkeypatch.setattr(_launch, "custom_rows", lambda: {"memory_attention": [row(SPECIALISED=2)]})
    actual = launch.memory_attention_triton(*arguments, splits=splits)
    assert launched == [2] and relative_error(exact, actual.cpu()) <= allowed < 0.05
    monkeypatch.setattr(_launch, "custom_rows", lambda: {"memory_attention": [row()]})
    assert relative_error(launch.memory_attention_triton(*arguments, splits=splits), actual) < 1e-2
    assert launched == [2]


@torch.no_grad()
def test_other_rows_take_the_other_kernel(triton_device, monkeypatch, launched):
    monkeypatch.setattr(_launch, "custom_rows", lambda: {"memory_attention": [row(SPECIALISED=2)]})
    launch.memory_attention_triton(*inputs(1, device=triton_device, dtype=torch.float32), splits=1)
    maps = random_map(1, 1, 16, 32).to(triton_device, torch.bfloat16)
    for width, first in ((40, 4), (36, 0)):  # all rows, or every other one, begin 8 bytes beside a multiple of 16
        values = random_map(1, 1, 16, width).to(triton_device, torch.bfloat16)[..., first : first + 32]
        launch.rope_attention_triton(maps, maps, values, *axial_rope(32, 4, 4, 10000.0, triton_device))
    assert launched == []


# batch, heads, side, width of heads and of values
MAPS = {
    "even": (2, 1, 4, 64, 64),
    "ragged": (1, 2, 5, 32, 32),
    "padded": (1, 1, 5, 96, 96),
    "wide": (1, 1, 4, 256, 256),
}


@pytest.mark.parametrize(("splits", "dtype"), [(1, torch.bfloat16), (3, torch.float16)], ids=str)
@pytest.mark.parametrize("name", MAPS)
@torch.no_grad()
def test_self_attention_is_as_exact_as_the_reference(triton_device, monkeypatch, launched, name, splits, dtype):
    """Of parts of one projection: full and partly filled blocks, and values of more columns than are stored at once."""
    B, heads, side, d, width = MAPS[name]
    projected = random_map(B, side**2, heads * (2 * d + width)).to(triton_device, dtype)
    parts = projected.split([heads * d, heads * d, heads * width], -1)
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in parts)
    tables = axial_rope(d, side, side, 10000.0, triton_device)
    exact = rope_attention_reference(*(x.cpu().double() for x in (q, k, v)), *(x.cpu() for x in tables))
    allowed = 2 * relative_error(exact, rope_attention_reference(q, k, v, *tables).cpu())
    stored = max(16, launch.padded(width) // 4)
    monkeypatch.setattr(_launch, "custom_rows", lambda: {"memory_attention": [row(SPECIALISED=2, STORED=stored)]})
    actual = launch.rope_attention_triton(q, k, v, *tables, splits=splits)
    assert launched == [2] and actual.dtype == dtype
    assert relative_error(exact, actual.cpu()) <= allowed < 0.05


@pytest.mark.parametrize(
    ("version", "arch", "expected"),
    [("3.7.1", "sm_90", 3), ("3.6.0", "sm_90", 3), ("3.7.0", "sm_100", 3), ("3.5.1", "sm_90", 0),
     ("3.7.1", "sm_89", 0), ("3.7.1", "gfx942", 0)],
)  # fmt: skip
def test_where_it_is_supported(monkeypatch, version, arch, expected):
    monkeypatch.setattr(specialised_kernel.triton, "__version__", version)
    monkeypatch.setattr(_launch, "architecture", lambda device: arch)
    monkeypatch.setattr(specialised_kernel, "interpreting", lambda: False)
    stages = specialised_kernel.specialised_stages
    assert stages(row(SPECIALISED=3), torch.device("cuda"), torch.bfloat16, 64) == expected
    in_parts = 0 if version.startswith("3.6") else expected
    assert stages(row(SPECIALISED=3), torch.device("cuda"), torch.bfloat16, 256) == in_parts
    assert stages(row(SPECIALISED=3, STORED=16), torch.device("cuda"), torch.bfloat16, 64) == in_parts
    assert stages(row(SPECIALISED=3), torch.device("cuda"), torch.float32, 64) == 0
    assert stages(row(), torch.device("cuda"), torch.bfloat16, 64) == 0


@pytest.mark.parametrize("splits", [1, 3])
@torch.no_grad()
def test_full_blocks_without_masks_give_the_same(triton_device, monkeypatch, splits):
    """With PEELED in the row; the last block is partly filled."""
    arguments, found = inputs(2, 0, 1, device=triton_device, dtype=torch.float32), []
    for more in ({}, {"PEELED": 1}):
        monkeypatch.setattr(_launch, "custom_rows", lambda more=more: {"memory_attention": [row(**more)]})
        found.append(launch.memory_attention_triton(*arguments, splits=splits))
    assert relative_error(*found) < 1e-6


def shapes_of_the_record():
    """Numbers of keys, channels of heads and of values, and specialised configurations tried for them.

    A quarter of the record's least keys: the loop over their blocks is the same.
    """
    record = RECORDS["memory_attention"]
    found = {}
    for case in record.cases:
        if sides := re.match(r"\d+ objects, \d+x(\d+)", case.shape):
            found[case.launch] = min(int(sides[1]), found.get(case.launch, 2**31))
    for launched, least in found.items():
        M = least // 4
        d, width = map(int, launched.split("x"))
        tried = [s for s in record.searches if (s.dtype, s.shape) == ("bfloat16", f"{d}x{width}")]
        rows = [meta for search in tried for meta, _ in search.candidates if "SPECIALISED" in meta]
        for meta in rows or [{"BLOCK_M": 128, "BLOCK_N": 64, "CHUNK": 256, "SPECIALISED": 2}]:
            yield pytest.param(M, d, width, meta, id=f"{M} {d}/{width} {meta['BLOCK_M']}x{meta['BLOCK_N']}")


@pytest.mark.parametrize(("M", "d", "width", "meta"), list(shapes_of_the_record()))
@torch.no_grad()
def test_shapes_of_the_record(triton_device, launched, M, d, width, meta):
    """Four programs share the keys; of two objects one has fewer."""
    chosen, N, lengths = LaunchConfig(meta, OPTIONS), 130, (M, M - 37)
    made = [random_map(2, 1, n, c, seed=i).to(torch.bfloat16) for i, (n, c) in enumerate([(N, d), (M, d), (M, width)])]
    for x in made[1:]:
        x[1, 0, lengths[1] :] = float("nan")  # rows that are not filled
    exact, allowed = torch.zeros(2, 1, N, width, dtype=torch.float64), 0.0
    for b, length in enumerate(lengths):
        own = [x[b, :, :length] for x in made]
        exact[b] = F.scaled_dot_product_attention(*(x.double() for x in own))
        allowed = max(allowed, 2 * relative_error(exact[b], F.scaled_dot_product_attention(*own)))
    q, k, v = (x.to(triton_device) for x in made)
    table = torch.tensor(lengths, dtype=torch.int32, device=triton_device)
    means = launch._attend(chosen, Rotated(q), Rotated(k), v, table, launch.LOG2E * d**-0.5, 4)
    out = torch.empty(2, N, 1, width, dtype=torch.bfloat16, device=triton_device)
    launch._combine(means, out)
    assert launched == [meta["SPECIALISED"]]
    assert relative_error(exact, out.transpose(1, 2).cpu()) <= allowed < 0.05
