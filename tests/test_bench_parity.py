"""The checks of kernels on a GPU: a wrong one is seen, and every op has one."""

import itertools

import attention_parity
import components_parity
import encoder_ops
import pytest
import torch
import window_parity
from attention_parity import Plan
from gpu_plan import steps, work

from sam2fast.kernels._launch import launch_table

CPU = torch.device("cpu")


class TestParityOfComponents:
    PLAN = components_parity.Plan(masks=4, side=12, batch=2, seed=0)

    def test_row(self, triton_device):
        saved = []
        assert components_parity.components_parity(triton_device, saved.extend, self.PLAN)
        (row,) = saved
        assert row["wrong"] == 0 and row["random masks"] >= 4

    def test_a_wrong_kernel_is_seen(self, triton_device, monkeypatch):
        right = components_parity.connected_components
        monkeypatch.setattr(components_parity, "connected_components", lambda x: (right(x)[0], right(x)[1] + 1))
        monkeypatch.setattr(components_parity, "launches", _CountsUp())
        saved = []
        assert not components_parity.components_parity(triton_device, saved.extend, self.PLAN)
        assert saved[0]["wrong"] == saved[0]["random masks"]


class _CountsUp:
    """As if every call had launched."""

    def __init__(self):
        self.reads = -1

    def __getitem__(self, op):
        self.reads += 1
        return 2 * self.reads


class TestParityOfAttention:
    PLAN = Plan(
        sides=(3,),
        objects=(1, 2),
        widths=((32, 16),),
        dtypes=(torch.float32,),
        splits=(None, 2),
        draws=1,
        pointers=5,
        seed=0,
    )

    def test_rows(self, triton_device):
        """A row for each op, dtype and width; every choice of splits ran twice."""
        saved = []
        plan = self.PLAN._replace(dtypes=(torch.float32, torch.bfloat16))
        assert attention_parity.attention_parity(triton_device, lambda rows: saved.append(list(rows)), plan)
        rows = saved[-1]
        ops = ("memory_attention", "rope_attention", attention_parity.FP8)
        expected = itertools.product(ops, ("float32", "bfloat16"))
        assert [(row["op"], row["dtype"]) for row in rows] == list(expected)
        for row in rows:
            assert (row["inputs"], row["runs"], row["wrong"]) == (2, 8, 0)
            limit = 0.3 if row["op"] == attention_parity.FP8 else 0.1 if row["dtype"] == "bfloat16" else 1e-5
            assert 0 < row["largest error"] < limit

    @pytest.mark.parametrize("change", [1e-3, 0.5, float("nan")])
    @pytest.mark.parametrize("op", ["memory_attention", "rope_attention"])
    def test_a_wrong_kernel_is_seen(self, triton_device, monkeypatch, op, change):
        rows = self.rows_of_changed(triton_device, monkeypatch, op, itertools.repeat(change))
        seen = [op, attention_parity.FP8] if op == "memory_attention" and change != 1e-3 else [op]
        assert [row["wrong"] > 0 for row in rows] == [row["op"] in seen for row in rows]

    def test_a_race_is_seen(self, triton_device, monkeypatch):
        rows = self.rows_of_changed(triton_device, monkeypatch, "rope_attention", itertools.cycle([0, 3e-6]))
        assert [row["wrong"] for row in rows] == [0, 4, 0] and rows[1]["largest error"] < 1e-4

    def rows_of_changed(self, device, monkeypatch, op, changes):
        from sam2fast.kernels.memory_attention import launch

        right = getattr(launch, f"{op}_triton")
        changed = lambda *inputs, **options: right(*inputs, **options) + next(changes)  # noqa: E731
        monkeypatch.setattr(launch, f"{op}_triton", changed)
        saved = []
        assert not attention_parity.attention_parity(device, lambda rows: saved.append(list(rows)), self.PLAN)
        return saved[-1]

    def test_banks_have_gaps(self):
        generator = torch.Generator().manual_seed(0)
        memory, filled = attention_parity.bank_with_gaps(4, 9, 64, 3, 16, torch.float32, 8, generator, CPU)
        table = memory.page_table
        assert (table >= 0).sum(1).tolist() == filled and 0 in filled and max(filled) <= 8
        rows = table[table >= 0].long()
        assert len(rows.unique()) == sum(filled) == len(memory.pages) - 3
        assert memory.pages[rows].isfinite().all() and int(memory.pages.isnan().any(-1).any(-1).sum()) == 3
        assert torch.equal(memory.pointers.isfinite().all(-1), memory.pointer_valid)
        assert not memory.pointer_valid[filled.index(0)].any() or filled.count(0) > 1


class TestParityOfWindows:
    PLAN = window_parity.QUICK._replace(
        windows=(4, 7, 0),
        dtypes=(torch.float32,),
        head_widths=(8, 24),
        real=((8, 4, 2, 24, True), (8, 7, 1, 8, False)),
        poison=True,
        seed=0,
    )

    def rows(self, device, plan=PLAN):
        saved = []
        right = window_parity.window_parity(device, lambda rows: saved.append(list(rows)), plan)
        return right, saved[-1]

    def test_rows(self, triton_device):
        """A row for each dtype and window, of the real maps and the small ones; each ran twice."""
        right, rows = self.rows(triton_device, self.PLAN._replace(dtypes=(torch.float32, torch.bfloat16)))
        assert right
        assert [(row["dtype"], row["window"]) for row in rows] == [
            *itertools.product(("float32", "bfloat16"), (4, 7, 0))
        ]
        assert [row["inputs"] for row in rows] == [3, 3, 2] * 2
        for row in rows:
            assert row["runs"] == 2 * row["inputs"] and row["wrong"] == 0
            assert 0 < row["largest error"] < (1e-5 if row["dtype"] == "float32" else 0.1)

    @pytest.mark.parametrize("changes", [[1e-3], [float("nan")], [0, 3e-6]], ids=["wrong", "NaN", "race"])
    def test_a_wrong_kernel_is_seen(self, triton_device, monkeypatch, changes):
        from sam2fast.kernels.window_attention import launch

        right, more = launch.window_attention_triton, itertools.cycle(changes)
        monkeypatch.setattr(launch, "window_attention_triton", lambda *inputs: right(*inputs) + next(more))
        right, rows = self.rows(triton_device)
        assert not right and [row["wrong"] for row in rows] == [row["inputs"] for row in rows]

    def test_all_shapes_can_be_launched(self):
        """Random ones have queries, fit what the kernel takes, and are of every kind."""
        plan = window_parity.Plan(draws=200)
        for window in plan.windows:
            shapes = list(window_parity.small_shapes(window, plan, torch.Generator().manual_seed(0)))
            for shape in shapes:
                stride = 2 if shape.pooled else 1
                assert shape.height // stride and shape.width // stride and shape.d in plan.head_widths
                assert not shape.pooled or window % 2 == 0
                assert window or not shape.pooled or shape.height % 2 == shape.width % 2 == 0
            assert {shape.pooled for shape in shapes} == ({False} if window == 7 else {False, True})
            assert {1, 2} <= {shape.height for shape in shapes} and any(s.height != s.width for s in shapes)

    def test_real_maps(self):
        plan = window_parity.Plan()
        assert {own for _, own, *_ in plan.real} == set(plan.windows)
        assert {d for *_, d, _ in plan.real} == {56, 72, 96}


class TestParityOfTheEncoder:
    PLAN = encoder_ops.QUICK._replace(draws=2, rows=20, side=12)

    def rows(self, device):
        saved = []
        right = encoder_ops.encoder_parity(device, lambda rows: saved.append(list(rows)), self.PLAN)
        return right, saved[-1]

    def test_rows(self, triton_device):
        right, rows = self.rows(triton_device)
        assert right
        dtypes = ("float32", "bfloat16", "float16")
        expected = [*itertools.product(("layer_norm", "linear_gelu"), dtypes), ("preprocess", "float32")]
        assert [(row["op"], row["dtype"]) for row in rows] == expected
        assert all(row["inputs"] == 2 and row["wrong"] == 0 and row["largest error"] < 0.02 for row in rows)

    @pytest.mark.parametrize("changes", [[0.1], [float("nan")], [0, 3e-6]], ids=["wrong", "NaN", "race"])
    def test_a_wrong_kernel_is_seen(self, triton_device, monkeypatch, changes):
        from sam2fast.kernels.preprocess import kernel

        right, more = kernel.resize_and_normalise_triton, itertools.cycle(changes)
        monkeypatch.setattr(kernel, "resize_and_normalise_triton", lambda *inputs: right(*inputs) * (1 + next(more)))
        right, rows = self.rows(triton_device)
        assert not right and [row["wrong"] > 0 for row in rows] == [False] * 6 + [True]


def test_every_kernel_has_a_parity_check():
    """Names of the steps are those of the launch table's ops, but for what one check has together."""
    together = {"run_lengths and nms": {"run_lengths", "nms"}, "encoder": {"layer_norm", "linear_gelu", "preprocess"}}
    named = set().union(*(together.get(name, {name}) for name in work._checks()))
    assert set(work._checks()) == set(steps.PARITY)
    assert not set(launch_table()) - named, "gpu_plan/work.py has no check of the kernels of these ops"
