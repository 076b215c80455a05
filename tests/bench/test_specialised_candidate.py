"""Attention by specialised groups of warps; in Triton's interpreter one program does all of it in turn."""

import re

import pytest
import torch
import torch.nn.functional as F
from backend_calls import RefusedError
from kernel_records import RECORDS
from memories import attention_arguments, on_cpu, written_out
from parity import random_map
from tuning_trials import launched_as

pytest.importorskip("triton", "3.7", reason="older versions do not launch this kernel with every tile")
from candidates import specialised_attention as candidate  # noqa: E402
from candidates.specialised_attention import Tile  # noqa: E402

from sam2fast.kernels import _launch  # noqa: E402
from sam2fast.kernels._launch import Row  # noqa: E402
from sam2fast.kernels.memory_attention import (  # noqa: E402
    launch,
    memory_attention_reference,
    rope_attention_reference,
)
from sam2fast.kernels.memory_attention.launch import Rotated  # noqa: E402
from sam2fast.modeling.position_encoding import axial_rope  # noqa: E402
from sam2fast.utils.testing import relative_error  # noqa: E402

SMALL = Tile(16, 16, 2)
SMALL_ROW = Row("*", "*", "*", {"BLOCK_M": 16, "BLOCK_N": 16, "CHUNK": 256}, {"num_warps": 4, "num_stages": 2})


@pytest.fixture
def launched(monkeypatch):
    """Stages of the launches of the specialised kernel."""
    found, kernel = [], candidate._attend_specialised_kernel

    class Counted:
        def __getitem__(self, grid):
            return lambda *a, **k: found.append(k["STAGES"]) or kernel[grid](*a, **k)

    monkeypatch.setattr(candidate, "_attend_specialised_kernel", Counted())
    return found


def inputs(*filled, device, dtype):
    return attention_arguments(*filled, side=5, d=64, pointers=3, rows=len(filled), device=device, dtype=dtype)


@pytest.mark.parametrize(("splits", "dtype"), [(1, torch.bfloat16), (3, torch.float16), (8, torch.bfloat16)], ids=str)
@torch.no_grad()
def test_it_is_as_exact_as_the_reference(triton_device, launched, dtype, splits):
    """Banks of different length, an empty one among them; ends of blocks, tiles and splits are ragged."""
    arguments = inputs(2, 0, 1, device=triton_device, dtype=dtype)
    exact = written_out(*on_cpu(*arguments))
    allowed = 2 * relative_error(exact, memory_attention_reference(*arguments).cpu())
    with candidate.launched(SMALL):
        actual = launch.memory_attention_triton(*arguments, splits=splits)
    assert launched == [2] and relative_error(exact, actual.cpu()) <= allowed < 0.05
    with launched_as("memory_attention", SMALL_ROW):
        assert relative_error(launch.memory_attention_triton(*arguments, splits=splits), actual) < 1e-2
    assert launched == [2]


@torch.no_grad()
def test_other_inputs_are_refused(triton_device, launched):
    arguments = inputs(1, device=triton_device, dtype=torch.float32)
    with candidate.launched(SMALL), pytest.raises(RefusedError):
        launch.memory_attention_triton(*arguments, splits=1)
    arguments = attention_arguments(2, device=triton_device, dtype=torch.float16)
    for how in ({"fp8": True}, {"pooling": "counted"}):
        with candidate.launched(SMALL), pytest.raises(RefusedError):
            launch.memory_attention_triton(*arguments, splits=1, **how)
    maps = random_map(1, 1, 16, 32).to(triton_device, torch.bfloat16)
    tables = axial_rope(32, 4, 4, 10000.0, triton_device)
    for width, first in ((40, 4), (36, 0)):  # all rows, or every other one, begin 8 bytes beside a multiple of 16
        values = random_map(1, 1, 16, width).to(triton_device, torch.bfloat16)[..., first : first + 32]
        with candidate.launched(SMALL), pytest.raises(RefusedError):
            launch.rope_attention_triton(maps, maps, values, *tables)
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
def test_self_attention_is_as_exact_as_the_reference(triton_device, launched, name, splits, dtype):
    """Of parts of one projection: full and partly filled blocks, and values of more columns than are stored at once."""
    B, heads, side, d, width = MAPS[name]
    projected = random_map(B, side**2, heads * (2 * d + width)).to(triton_device, dtype)
    parts = projected.split([heads * d, heads * d, heads * width], -1)
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in parts)
    tables = axial_rope(d, side, side, 10000.0, triton_device)
    exact = rope_attention_reference(*(x.cpu().double() for x in (q, k, v)), *(x.cpu() for x in tables))
    allowed = 2 * relative_error(exact, rope_attention_reference(q, k, v, *tables).cpu())
    stored = max(16, launch.padded(width) // 4)
    with candidate.launched(SMALL._replace(stored=stored)):
        actual = launch.rope_attention_triton(q, k, v, *tables, splits=splits)
    assert launched == [2] and actual.dtype == dtype
    assert relative_error(exact, actual.cpu()) <= allowed < 0.05


WHOLE, IN_PARTS = Tile(128, 64, 3), Tile(256, 64, 2, stored=16)


@pytest.mark.parametrize(
    ("version", "arch", "narrow", "wide"),
    [("3.7.1", "sm_90", IN_PARTS, WHOLE), ("3.6.0", "sm_90", WHOLE, None), ("3.7.0", "sm_100", IN_PARTS, WHOLE),
     ("3.5.1", "sm_90", None, None), ("3.7.1", "sm_89", None, None), ("3.7.1", "gfx942", None, None)],
)  # fmt: skip
def test_where_it_is_supported(monkeypatch, version, arch, narrow, wide):
    monkeypatch.setattr(candidate.triton, "__version__", version)
    monkeypatch.setattr(_launch, "architecture", lambda device: arch)
    monkeypatch.setattr(candidate, "interpreting", lambda: False)
    monkeypatch.setattr(candidate, "TILES", {"256x64": (IN_PARTS, WHOLE), "256x256": (WHOLE,)})
    assert [candidate.tile_of(shape, torch.device("cuda")) for shape in candidate.TILES] == [narrow, wide]


def shapes_of_the_record():
    """Numbers of keys, channels of heads and of values, and tiles tried for them.

    A quarter of the record's least keys: the loop over their blocks is the same.
    """
    found = {}
    for case in RECORDS["memory_attention"].cases:
        if sides := re.match(r"\d+ objects, \d+x(\d+)", case.shape):
            found[case.launch] = min(int(sides[1]), found.get(case.launch, 2**31))
    for launched, least in found.items():
        M = least // 4
        d, width = map(int, launched.split("x"))
        for tile in candidate.TILES.get(launched, [Tile(128, 64, 2)]):
            yield pytest.param(M, d, width, tile, id=f"{M} {d}/{width} {tile.queries}x{tile.keys}")


@pytest.mark.parametrize(("M", "d", "width", "tile"), list(shapes_of_the_record()))
@torch.no_grad()
def test_shapes_of_the_record(triton_device, launched, M, d, width, tile):
    """Four programs share the keys; of two objects one has fewer."""
    N, lengths = 130, (M, M - 37)
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
    with candidate.launched(tile):
        chosen = launch.attention_config(q, d, width)
        means = launch._attend(chosen, Rotated(q), Rotated(k), v, table, launch.LOG2E * d**-0.5, 4)
    out = torch.empty(2, N, 1, width, dtype=torch.bfloat16, device=triton_device)
    launch._combine(means, out)
    assert launched == [tile.stages]
    assert relative_error(exact, out.transpose(1, 2).cpu()) <= allowed < 0.05
