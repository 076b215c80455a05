"""The candidate in Gluon, run by a machine that orders groups of warps, copies and products at random."""

import inspect

import pytest
import torch
from memories import memory_of, moved, on_cpu, weights_of, written_out
from parity import random_map

pytest.importorskip("triton", "3.6", reason="older versions have no Gluon for Hopper")
from candidates import gluon_memory_attention as candidate  # noqa: E402
from gluon_machine import HazardError, OnMachine  # noqa: E402
from kernel_records import RECORDS  # noqa: E402

from sam2fast.kernels.memory_attention import launch, memory_attention_reference  # noqa: E402
from sam2fast.modeling.position_encoding import axial_rope  # noqa: E402
from sam2fast.utils.testing import relative_error  # noqa: E402

# Numbers of keys in the record's cases of 256 x 64 channels.
KEYS = sorted(
    {int(case.shape.partition("x")[2]) for case in RECORDS["memory_attention"].cases
     if case.op == "memory_attention" and case.shape.rpartition("x")[2].isdigit()}
)  # fmt: skip


@pytest.fixture
def machine(triton_device, monkeypatch):
    """The candidate's kernel on the machine, in the place of the launcher's kernel."""
    made = OnMachine(candidate._attend_in_groups_kernel)
    monkeypatch.setattr(candidate, "_attend_in_groups_kernel", made)
    with candidate.launched():
        yield made


def attended(N, M, lengths, splits, dtype=torch.bfloat16):
    """Means and logarithms of the splits, combined, and the largest error beside float64 and that of torch."""
    B = len(lengths)
    q, k, v = (random_map(B, 1, rows, d, seed=i).to(dtype) for i, (rows, d) in enumerate([(N, 256), (M, 256), (M, 64)]))
    for b, length in enumerate(lengths):  # rows that are not filled
        k[b, 0, length:] = v[b, 0, length:] = float("nan")
    table = torch.tensor(lengths, dtype=torch.int32)
    scale = launch.LOG2E / 16
    chosen = launch.attention_config(q, 256, 64)
    means = launch._attend(chosen, launch.Rotated(q), launch.Rotated(k), v, table, scale, splits)
    out = torch.empty(B, N, 1, 64, dtype=dtype)
    launch._combine(means, out)
    exact, torchs = torch.zeros(2, B, N, 64, dtype=torch.float64)
    for b, length in enumerate(lengths):
        if length:
            own = q[b], k[b, :, :length], v[b, :, :length]
            exact[b] = torch.nn.functional.scaled_dot_product_attention(*(x.double() for x in own))[0]
            torchs[b] = torch.nn.functional.scaled_dot_product_attention(*own)[0]
    return relative_error(exact, out[:, :, 0]), relative_error(exact, torchs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("splits", [1, 3, 8])
@torch.no_grad()
def test_it_is_as_exact_as_torch(machine, dtype, splits):
    """Of objects without memory, with one key, with full blocks and with a rest; the last group has no query."""
    found, torchs = attended(150, 400, (400, 0, 1, 384, 65), splits, dtype)
    assert machine.launches == 1 and found <= 2 * torchs < 0.05


@pytest.mark.parametrize("M", KEYS)
@torch.no_grad()
def test_banks_of_the_record(machine, M):
    """As many keys as in the record's cases, and four splits as for one object."""
    found, torchs = attended(130, M, (M, M - 37), splits=4)
    assert machine.launches == 1 and found <= 2 * torchs < 0.05


@torch.no_grad()
def test_the_whole_op(machine):
    """Through the launcher with all its kernels."""
    memory = moved(memory_of(2, 0, 1, side=9, m=64, pointers=5, dtype=torch.bfloat16), "cpu", torch.bfloat16)
    weights = [w / w.shape[-1] ** 0.5 for w in weights_of(256, 64, 1, torch.bfloat16)]
    query = random_map(3, 1, 81, 256).to(torch.bfloat16)
    arguments = query, memory, *weights, *axial_rope(256, 9, 9, 10000.0, torch.device("cpu"))
    actual = launch.memory_attention_triton(*arguments, splits=2)
    exact = written_out(*on_cpu(*arguments))
    allowed = 2 * relative_error(exact, memory_attention_reference(*arguments))
    assert machine.launches == 1 and relative_error(exact, actual) <= allowed < 0.05


# A function of the kernel, a part of its source, and what stands there instead.
FAULTS = {
    "keys are overwritten": ("_fill", "mbarrier.wait(freed.index(tile), (i // TILES & 1) ^ 1)", "pass"),
    "the first copy waits": ("_fill", "& 1) ^ 1", "& 1)"),
    "half of the bytes": ("_fill", "rows.block_type.nbytes", "rows.block_type.nbytes // 2"),
    "keys are not awaited": ("_scores", "mbarrier.wait(filled.index(i % KEYS), i // KEYS & 1)", "pass"),
    "values are not awaited": ("_sum", "mbarrier.wait(filled.index(i % VALUES), i // VALUES & 1)", "pass"),
    "queries are not awaited": ("_attend_rows", "mbarrier.wait(filled[0].index(GROUP), 0)", "pass"),
    "parity of each block": ("_scores", "i // KEYS & 1", "i & 1"),
    "a wait for one product less": ("_attend_rows", "mma_wait(1, deps=[weighted", "mma_wait(2, deps=[weighted"),
    "keys are freed early": ("_attend_rows", "weighted, narrow = warpgroup_mma_wait(1, deps=[weighted, narrow])",
                             "mbarrier.arrive(freed[0].index((i + 1) % KEYS)); "
                             "weighted, narrow = warpgroup_mma_wait(1, deps=[weighted, narrow])"),
    "values are freed twice": ("_attend_rows", "freed[0].index((i + 1) % KEYS)", "freed[1].index((i + 1) % KEYS)"),
    "another group's queries": ("_attend_rows", "tiles[0].index(GROUP)", "tiles[0].index(0)"),
    "one key too many": ("_attend_rows", "< left", "<= left"),
    "queries without keys": ("_load_all", "if blocks > 0:", "if True:"),
}  # fmt: skip


def changed(function, old, new):
    lines = inspect.getsource(function.fn).replace(old, new).splitlines()[1:]  # without the decorator
    names = dict(function.fn.__globals__)
    exec(compile("\n".join(lines), "<changed>", "exec"), names)  # noqa: S102
    return names[function.fn.__name__]


@pytest.mark.parametrize("fault", FAULTS)
@torch.no_grad()
def test_faults_are_found(machine, fault):
    name, old, new = FAULTS[fault]
    assert old in inspect.getsource(getattr(candidate, name).fn)
    machine.changes = {name: changed(getattr(candidate, name), old, new)}
    for machine.seed in range(0, 500, 50):
        try:
            found, torchs = attended(150, 400, (400, 0, 399, 63), 2)
        except HazardError:
            return
        if not found <= 2 * torchs:
            return
    pytest.fail("the result is right")
