"""What kernels refuse because some GPU could not launch it; all that they support is compiled ahead of time."""

import ast
from functools import cache

import pytest
import torch
from checkout import ROOT
from parity import random_map

from sam2fast.kernels import _dispatch
from sam2fast.kernels import window_attention as window_shapes
from sam2fast.kernels._dispatch import FLOATS
from sam2fast.kernels._launch import MAX_PROGRAMS
from sam2fast.kernels._op import OPS
from sam2fast.kernels.memory_attention import AttendedMemory
from sam2fast.kernels.memory_attention import reference as memory_shapes

DTYPES = pytest.mark.parametrize("dtype", FLOATS, ids=lambda d: str(d).removeprefix("torch."))


def empty(*shape, dtype=torch.float32):
    """No memory is taken, however large."""
    return torch.empty(shape, dtype=dtype, device="meta")


@DTYPES
@pytest.mark.parametrize("window", [0, 8])
def test_heads_in_windows(dtype, window):
    refused = "supports heads of at most 96 channels, in multiples of 8, got 104"
    for d, expected in ((96, None), (104, refused)):
        qkv, bias = empty(1, 8, 8, 3 * 2 * d, dtype=dtype), empty(3 * 2 * d)
        assert OPS["window_attention"].unsupported(qkv, bias, 2, window, None) == expected


@DTYPES
def test_memory_tokens(dtype):
    widest = 64 if dtype == torch.float32 else 128
    refused = f"supports memory tokens of up to {widest} channels in {dtype}, got {widest + 1}"
    query = empty(1, 1, 16, 256, dtype=dtype)
    for m, expected in ((widest, None), (widest + 1, refused)):
        assert memory_shapes.memory_unsupported_reason(query, empty(3, 16, m, dtype=dtype)) == expected
    # A frame attends to itself.
    assert memory_shapes.unsupported_reason(query, empty(1, 1, 16, 256, dtype=dtype)) is None


@pytest.mark.parametrize("heads", [1, 3])
def test_heads_of_all_objects(heads):
    most = MAX_PROGRAMS // heads
    found = f"supports up to 65535 query heads of all objects together, got {most + 1} x {heads}"
    many, pages = empty(most + 1, heads, 16, 32), empty(3, 16, 32)
    assert memory_shapes.memory_unsupported_reason(many[1:], pages) is None
    assert memory_shapes.memory_unsupported_reason(many, pages) == found
    assert memory_shapes.unsupported_reason(many[1:], many[1:]) is None
    assert memory_shapes.unsupported_reason(many, many) == found


# ---- compiled by `make aot` ----


@cache
def launches_on(op, target):
    pytest.importorskip("triton")
    import recorded

    return recorded.launches([op], target)


def compiled(op, dtype):
    """Constants of the kernels of this dtype, by target and kernel."""
    name = str(dtype).removeprefix("torch.")
    found = {}
    for target in ("sm_80", "sm_90", "sm_100", "gfx942"):
        for launch in launches_on(op, target):
            if launch.dtype == name:
                found.setdefault((target, launch.name), []).append(launch.constants)
    return found


@DTYPES
def test_the_widest_heads_in_windows_are_compiled(dtype):
    """Padded and pooled in windows, and over the whole map; none is compiled that is refused."""
    for made in compiled("window_attention", dtype).values():
        widest = {(c["WINDOW"] > 0, c["POOL"], c["PAD"]) for c in made if c["D"] == window_shapes.WIDEST}
        assert widest == {(True, False, True), (True, True, True), (False, False, False)}
        assert max(c["D"] for c in made) == window_shapes.WIDEST


@DTYPES
def test_the_widest_memories_are_compiled(dtype):
    """In all kernels that read them, and attention to itself by the widest heads."""
    widest = memory_shapes.WIDEST_MEMORY[dtype]
    for (_, kernel), made in compiled("memory_attention", dtype).items():
        to_memory = [c for c in made if c.get("RAGGED") or c.get("PROJECT") or "POOLING" in c]
        assert max((c["WIDTH"] for c in to_memory), default=widest) == widest
        assert max((c["HALF"] for c in made if "HALF" in c), default=128) == memory_shapes.WIDEST // 2
        if kernel == "attend_kernel":
            itself = [c for c in made if c["DIRECT"]]
            assert max(min(c["D"], c["WIDTH"]) for c in itself) == memory_shapes.WIDEST


def test_conditions_of_kernels_have_two_sides():
    """Triton 3.2 refuses chains of ``and`` or ``or`` without parentheses."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "kernels").rglob("*.py")]
    functions = [x for tree in trees for x in ast.walk(tree) if isinstance(x, ast.FunctionDef)]
    kernels = [x for x in functions if any("jit" in ast.unparse(each) for each in x.decorator_list)]
    inside = [x for kernel in kernels for x in ast.walk(kernel)]
    assert len(kernels) > 30
    assert not [ast.unparse(x) for x in inside if isinstance(x, ast.BoolOp) and len(x.values) > 2]


# ---- grids ----


@pytest.fixture
def grids(monkeypatch):
    """Replaces a module's kernels by ones that only record their grids."""
    found = []

    def of(module, *names):
        for name in names:
            launch = type("Kernel", (), {"__getitem__": lambda self, grid: lambda *a, **k: found.append(grid)})()
            monkeypatch.setattr(module, name, launch)
        return found

    return of


def test_any_number_of_masks_or_images(grids):
    kernel = pytest.importorskip("sam2fast.kernels.connected_components_triton")
    found = grids(kernel, "_start_kernel", "_merge_kernel", "_count_kernel", "_finish_kernel")
    kernel.connected_components_triton(torch.zeros(70_000, 1, 1, 3, dtype=torch.bool))
    assert found == [(70_000,)] * 4
    found.clear()
    kernel = pytest.importorskip("sam2fast.kernels.preprocess_triton")
    found = grids(kernel, "_resize_and_normalise_kernel")
    kernel.resize_and_normalise_triton(torch.zeros(70_000, 1, 1, 3), (1, 1), [0.5] * 3, [0.5] * 3, 1.0)
    assert found == [(70_000,)]


def test_masks_of_any_width_are_packed(grids):
    launch = pytest.importorskip("sam2fast.kernels.mask_ops.launch")
    found = grids(launch, "_pack_kernel", "_unpack_kernel")
    packed = launch.pack_masks_triton(torch.zeros(1, 2**23, dtype=torch.bool))
    launch.unpack_masks_triton(packed, 2**23)
    assert [len(grid) for grid in found] == [1, 1] and found[1][0] > MAX_PROGRAMS


@pytest.mark.parametrize("heads", [1, 3])
def test_any_number_of_objects_that_share_a_query(grids, heads):
    """Their keys are made in groups, each within the limit."""
    launch = pytest.importorskip("sam2fast.kernels.memory_attention.launch")
    found = grids(launch, "_encode_kernel", "_attend_kernel", "_combine_kernel")
    B, m = 70_000, 16
    memory = AttendedMemory(
        pages=torch.zeros(1, 4, m),
        page_table=torch.zeros(B, 1, dtype=torch.int32),
        page_time=torch.zeros(B, 1, dtype=torch.int32),
        position_encoding=torch.zeros(4, m),
        time_encoding=torch.zeros(7, m),
        pointers=torch.zeros(B, 0, m),
        pointer_encoding=torch.zeros(B, 0, m),
        pointer_valid=torch.zeros(B, 0, dtype=torch.bool),
    )
    query, angles = random_map(1, heads, 4, 16), (torch.zeros(4, 8), torch.zeros(4, 8))
    weights = random_map(heads * 16, m), None, random_map(heads, m), None
    launch.memory_attention_triton(query, memory, *weights, *angles, splits=1)
    assert max(max(grid[1:]) for grid in found) <= MAX_PROGRAMS
    encoded = [grid for grid in found if len(grid) == 3 and grid[2] == heads]
    assert sum(grid[1] for grid in encoded) == B
    assert [grid[0] for grid in encoded] == [2] + [1] * (len(encoded) - 1)  # the first rotates the shared query


@pytest.mark.parametrize("most", [8, 1])
@torch.no_grad()
def test_too_many_images_are_launched_in_parts(triton_device, monkeypatch, most):
    """Windows of an image have four tiles of queries each."""
    launch = pytest.importorskip("sam2fast.kernels.window_attention_triton")
    qkv, bias = random_map(3, 16, 16, 3 * 16).to(triton_device), random_map(3 * 16, seed=1).to(triton_device)
    expected = launch.window_attention_triton(qkv, bias, 1, 16)
    before = _dispatch.launches["window_attention"]
    monkeypatch.setattr(launch, "MAX_PROGRAMS", most)
    assert torch.equal(launch.window_attention_triton(qkv, bias, 1, 16), expected)
    assert _dispatch.launches["window_attention"] - before == {8: 2, 1: 3}[most]
