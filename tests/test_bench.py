"""The measuring tools: a wrong result gets no time, reports are whole, the launch table is rewritten alike."""

import argparse
import dataclasses
import itertools
import json

import attention_parity
import encoder_ops
import gpu
import pytest
import torch
import tune
import window_parity
from attention import RefusedError, by_backend, cut_out_windows, may_refuse
from attention_parity import Plan
from inputs import full_bank, random
from measure import measure
from registry import WrongResultError, attention_case, cases, check, expectation, memory_case

from sam2fast.kernels._launch import LaunchConfig, launch_table
from sam2fast.kernels.memory_attention import memory_attention
from sam2fast.kernels.window_attention import window_attention_reference
from sam2fast.profiling import limits
from sam2fast.testing import relative_error

CPU = torch.device("cpu")


def small_case():
    return next(case for case in cases() if case.name == "linear 2048x96 to 384 float32")


def test_names_are_unique():
    names = [case.name for case in cases()]
    assert len(set(names)) == len(names)


def test_a_wrong_subject_is_refused():
    case = small_case()
    calls = dict(case.prepare(CPU))
    check(case, calls, CPU)
    calls["sam2fast"] = lambda right=calls["sam2fast"]: right() * 1.01
    with pytest.raises(WrongResultError, match="sam2fast differs from F.linear"):
        check(case, calls, CPU)
    calls["sam2fast"] = lambda: torch.full((2048, 384), float("nan"))
    with pytest.raises(WrongResultError):
        check(case, calls, CPU)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_a_dropped_block_of_keys_is_refused(dtype):
    """The 64 pointers, beside 7 x 256 keys of maps; in bfloat16 the comparison with fp32 tells."""
    case = memory_case(1, 7, dtype, side=16)
    calls = case.prepare(CPU)
    assert "sam2fast" in check(case, calls, CPU)
    arguments = full_bank(1, 7, 64, 16, 256, 64, CPU, dtype)
    memory = arguments.memory._replace(pointer_valid=torch.zeros(1, 64, dtype=torch.bool))
    wrong = {**calls, "sam2fast": lambda: memory_attention(*arguments._replace(memory=memory))}
    with pytest.raises(WrongResultError, match="sam2fast differs"):
        check(case, wrong, CPU)


def test_a_yardstick_far_from_itself_in_fp32_is_refused():
    case = memory_case(1, 1, torch.bfloat16, side=4, d=32, m=16)
    calls = {"broken": lambda: torch.zeros(1, 16, 32)}
    with pytest.raises(WrongResultError, match="broken differs from itself in fp32 by"):
        expectation(case, calls, CPU)


@pytest.mark.parametrize(
    ("side", "window", "pooled"), [(8, 4, False), (10, 4, True), (6, 0, False), (6, 0, True), (9, 4, True)], ids=str
)
@torch.no_grad()
def test_windows_that_are_cut_out(side, window, pooled):
    qkv, bias = random(2, side, side + 4, 48, device=CPU), random(48, device=CPU, seed=1)
    expected = window_attention_reference(qkv, bias, 2, window, (2, 2) if pooled else None)
    assert relative_error(expected, cut_out_windows(qkv, bias, 2, window, pooled)) < 1e-5


@torch.no_grad()
def test_pooled_windows_are_measured():
    assert sum(case.name.endswith(("96 pooled float32", "96 pooled bfloat16")) for case in cases()) == 4
    whole, pooled = (attention_case(10, 4, 2, 16, torch.float32, flag) for flag in (False, True))
    assert pooled.flops * 4 == whole.flops and pooled.bytes / whole.bytes == 3.25 / 4
    assert list(check(pooled, pooled.prepare(CPU), CPU)) == ["SDPA", "sam2fast"]
    assert whole.launch == "*" and attention_case(8, 0, 2, 16, torch.float32).launch == "global"


def test_a_subject_that_refuses_is_left_out(capsys):
    case = small_case()
    calls = dict(case.prepare(CPU)) | {"picky": may_refuse(lambda: torch.zeros(2) @ torch.zeros(3))}
    with pytest.raises(RefusedError, match="RuntimeError: .*size"):
        calls["picky"]()
    assert list(check(case, calls, CPU)) == ["F.linear", "sam2fast"]
    assert "picky is left out: RuntimeError" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_every_way_of_memory_attention_agrees(dtype):
    case = memory_case(3, 2, dtype, side=6, d=32, m=16)
    able = check(case, case.prepare(CPU), CPU)
    assert {"sam2fast", "torch twin", "projected values, SDPA MATH"} < set(able)


@torch.no_grad()
def test_scores_that_do_not_fit_are_not_tried():
    x = torch.zeros(1, 1, 2, 8)
    calls = by_backend("SDPA", lambda: torch.nn.functional.scaled_dot_product_attention(x, x, x), 2**40, CPU)
    with pytest.raises(RefusedError, match="scores do not fit"):
        calls["SDPA MATH"]()


def test_cases_for_another_device_are_left_out(tmp_path, monkeypatch):
    elsewhere = dataclasses.replace(small_case(), device="cuda")
    monkeypatch.setattr(gpu, "cases", lambda: [elsewhere])
    monkeypatch.setattr(gpu, "measure_limits", lambda device: None)
    report = gpu.Report(CPU, tmp_path)
    assert gpu.micro(CPU, report, only="") and not report.content["parts"]
    assert elsewhere.runs_on(torch.device("cuda")) and not elsewhere.runs_on(CPU)


def test_percentiles_are_in_order():
    timing = measure(lambda: torch.zeros(1000).sum(), CPU, budget_s=0.01)
    assert 0 < timing.p20 <= timing.p50 <= timing.p80


@pytest.fixture
def small_limits(monkeypatch):
    """Limits of a copy and of products that take no time; full size they take half a minute where bfloat16 is slow."""
    monkeypatch.setattr(limits, "SIDE_ON_CPU", limits.SMALLEST_SIDE)
    monkeypatch.setattr(limits, "COPIED_ON_CPU", 2**16)


def test_micro_part_writes_rows_and_a_table(tmp_path, monkeypatch, capsys, small_limits):
    monkeypatch.setattr(gpu, "cases", lambda: [small_case()])
    report = gpu.Report(CPU, tmp_path)
    assert gpu.micro(CPU, report, only="linear")
    content = json.loads(report.path.read_text())
    assert [row["subject"] for row in content["parts"]["micro"]] == ["F.linear", "sam2fast"]
    assert all(row["of limit"] > 0 for row in content["parts"]["micro"])
    assert content["machine"]["torch"] == torch.__version__
    assert "## micro" in report.path.with_suffix(".md").read_text()
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".md"]


def test_micro_part_fails_on_a_wrong_result(tmp_path, monkeypatch, small_limits):
    def prepare(device):
        calls = dict(small_case().prepare(device))
        return calls | {"sam2fast": lambda: calls["F.linear"]() + 1}

    monkeypatch.setattr(gpu, "cases", lambda: [dataclasses.replace(small_case(), prepare=prepare)])
    report = gpu.Report(CPU, tmp_path)
    assert not gpu.micro(CPU, report, only="")
    (row,) = json.loads(report.path.read_text())["parts"]["micro"]
    assert row["subject"].startswith("WRONG") and "p50 ms" not in row


def test_parity_part(tmp_path, triton_device):
    report = gpu.Report(triton_device, tmp_path)
    assert gpu.parity(triton_device, report, masks=4, side=12, batch_limit=2)
    (row,) = json.loads(report.path.read_text())["parts"]["parity"]
    assert row["wrong"] == 0 and row["random masks"] >= 4


def test_parity_part_sees_a_wrong_kernel(tmp_path, triton_device, monkeypatch):
    right = gpu.connected_components
    monkeypatch.setattr(gpu, "connected_components", lambda mask: (right(mask)[0], right(mask)[1] + 1))
    monkeypatch.setattr(gpu, "launches", _CountsUp())
    assert not gpu.parity(triton_device, gpu.Report(triton_device, tmp_path), masks=1, side=12, batch_limit=1)


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

    def test_rows(self, tmp_path, triton_device):
        """A row for each op, dtype and width; every choice of splits ran twice."""
        report = gpu.Report(triton_device, tmp_path)
        plan = self.PLAN._replace(dtypes=(torch.float32, torch.bfloat16))
        assert attention_parity.attention_parity(triton_device, lambda rows: report.save("attention", rows), plan)
        rows = json.loads(report.path.read_text())["parts"]["attention"]
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
        widths=(8, 24),
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
                assert shape.height // stride and shape.width // stride and shape.d in plan.widths
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


def test_parity_of_chosen_ops(monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(gpu, "parity", lambda *_: ran.append("connected_components") or True)
    checks = {
        op: (name, lambda *_, op=op: ran.append(op) or op != "window_attention", plan)
        for op, (name, _, plan) in gpu.PARITY.items()
    }
    monkeypatch.setattr(gpu, "PARITY", checks)
    arguments = argparse.Namespace(masks=1, side=1, batch=1, quick=True, only="")
    assert not gpu.all_parity(CPU, gpu.Report(CPU, tmp_path), arguments)
    assert ran == [*gpu.OPS]
    arguments.only = "memory"
    assert gpu.all_parity(CPU, gpu.Report(CPU, tmp_path), arguments) and ran[len(gpu.OPS) :] == ["memory_attention"]
    arguments.only = "nothing"
    with pytest.raises(SystemExit, match="nothing is checked"):
        gpu.all_parity(CPU, gpu.Report(CPU, tmp_path), arguments)


def test_every_kernel_has_a_parity_check():
    named = {op for group in gpu.OPS for op in group.split(", ")}
    assert set(launch_table()) <= named


def test_sanitize_part_says_when_it_cannot(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.shutil, "which", lambda name: None)
    report = gpu.Report(CPU, tmp_path)
    assert not gpu.sanitize(report)
    assert report.content["parts"]["sanitize"] == [{"tool": "compute-sanitizer", "errors": "not installed"}]


def test_sanitize_part_runs_the_checker(tmp_path, monkeypatch):
    """A stand-in checker that finds an error with one of its tools."""
    checker = tmp_path / "compute-sanitizer"
    checker.write_text('#!/bin/sh\necho "========= ERROR SUMMARY: $2"\n[ "$2" != racecheck ] || exit 9\n')
    checker.chmod(0o755)
    monkeypatch.setattr(gpu.shutil, "which", lambda name: str(checker))
    report = gpu.Report(CPU, tmp_path / "results")
    assert not gpu.sanitize(report)
    assert [row["exit"] for row in report.content["parts"]["sanitize"]] == [0, 9, 0, 0]


def test_a_part_keeps_the_others(tmp_path):
    gpu.Report(CPU, tmp_path).save("parity", [{"op": "a", "wrong": 0}])
    gpu.Report(CPU, tmp_path).save("micro", [{"op": "b", "p50 ms": 0.5}])
    report = gpu.Report(CPU, tmp_path)
    assert set(report.content["parts"]) == {"parity", "micro"}


class TestLaunchTable:
    STORED = tune.TABLE

    def test_a_tuned_row_replaces_its_own_and_no_other(self):
        table = json.loads(tune.TABLE.read_text())
        row = LaunchConfig("sm_90", "*", "*", {"BLOCK": 256}, {"num_warps": 4})
        once = tune.with_row(table, "connected_components", row)
        twice = tune.with_row(once, "connected_components", row._replace(meta={"BLOCK": 512}))
        assert len(once["connected_components"]) == len(twice["connected_components"]) == 2
        assert twice["connected_components"][0] == table["connected_components"][0]
        assert twice["connected_components"][1]["meta"] == {"BLOCK": 512}

    def tune(self, tmp_path, monkeypatch, time_of, *arguments, prepared=()):
        """Rows of the table after tuning, and before."""
        path = tmp_path / "table.json"
        before = tune.TABLE.read_text()
        path.write_text(before)
        monkeypatch.setattr(tune, "TABLE", path)
        monkeypatch.setattr(tune, "architecture", lambda device: "sm_90")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(tune, "trials", lambda search, device: prepared)
        monkeypatch.setattr(tune, "time_of", time_of)
        monkeypatch.setattr("sys.argv", ["tune.py", *arguments])
        tune.main()
        return json.loads(path.read_text()), json.loads(before)

    def test_the_fastest_right_candidate_is_stored(self, tmp_path, monkeypatch, capsys):
        time_of = lambda op, config, *rest: abs(config.meta["BLOCK"] - 1024) + 0.5  # noqa: E731
        after, before = self.tune(tmp_path, monkeypatch, time_of, "--op", "connected_components")
        row = after["connected_components"][-1]
        assert (row["arch"], row["dtype"], row["shape"], row["meta"]) == ("sm_90", "*", "*", {"BLOCK": 1024})
        assert after["memory_attention"] == before["memory_attention"]

    def test_nothing_is_stored_if_all_are_wrong(self, tmp_path, monkeypatch, capsys):
        with pytest.raises(SystemExit, match="table is unchanged"):
            self.tune(tmp_path, monkeypatch, lambda *_: float("inf"))
        assert (tmp_path / "table.json").read_text() == self.STORED.read_text()

    def test_rows_of_a_dtype_and_a_shape(self, tmp_path, monkeypatch, capsys):
        time_of = lambda op, config, *rest: config.meta["BLOCK_N"] - config.options["num_stages"] / 10  # noqa: E731
        arguments = "--op", "memory_attention", "--shape", "256x64", "--dtype", "bfloat16"
        after, before = (rows["memory_attention"] for rows in self.tune(tmp_path, monkeypatch, time_of, *arguments))
        (row,) = [row for row in after if row not in before]
        assert row == after[-1] and [row[key] for key in ("arch", "dtype", "shape")] == ["sm_90", "bfloat16", "256x64"]
        assert row["meta"]["BLOCK_N"] == 32 and row["options"]["num_stages"] == 4
        key = lambda row: (row["arch"], row["dtype"], row["shape"])  # noqa: E731
        assert len({key(row) for row in after}) == len(after)

    @pytest.mark.parametrize(("factor", "sdpa"), [(0.5, 0), (1.5, 1)])
    def test_whole_maps_are_left_to_torch_if_it_is_faster(self, tmp_path, monkeypatch, capsys, factor, sdpa):
        """By the time of the best kernel over that of the yardstick."""
        slower = lambda op, config, *rest: factor + (config.meta["BLOCK_M"] != 64)  # noqa: E731
        arguments = "--op", "window_attention", "--shape", "global", "--dtype", "float32"
        tables = self.tune(tmp_path, monkeypatch, slower, *arguments, prepared=[None])
        after, before = (rows["window_attention"] for rows in tables)
        (row,) = [row for row in after if row not in before]
        assert (row["arch"], row["shape"]) == ("sm_90", "global")
        assert row["meta"]["BLOCK_M"] == 64 and row["meta"]["SDPA"] == sdpa

    def test_windows_are_tuned_together_and_apart_from_whole_maps(self, monkeypatch):
        monkeypatch.setattr(tune, "measure", lambda *_, **__: argparse.Namespace(p50=1.0))
        monkeypatch.setattr(tune, "expectation", lambda *_: None)
        found = [case for case in cases() if case.op == "window_attention"]
        monkeypatch.setattr(tune, "cases", lambda: [dataclasses.replace(c, prepare=self.prepared) for c in found])
        for search in tune.SEARCHES:
            if search.op == "window_attention":
                names = [trial.case.name for trial in tune.trials(search, CPU)]
                assert len(names) == (1 if search.shape == "global" else 6)
                assert all(("window 0" in name) == (search.shape == "global") for name in names)

    def prepared(self, device):
        return dict.fromkeys(("SDPA", "sam2fast", "triton"), lambda: None)

    def test_attention_is_tuned_where_cases_are(self):
        for search in tune.SEARCHES:
            classes = {(case.dtype, case.launch) for case in cases() if case.op in search.cases}
            assert search.candidates and (search.dtype == "*" or (search.dtype, search.shape) in classes)

    def test_time_of_a_candidate(self, monkeypatch):
        case, config = small_case(), LaunchConfig("*", "*", "*", {"BLOCK": 64}, {})
        right = case.prepare(CPU)["sam2fast"]
        trial = tune.Trial(case, expectation(case, case.prepare(CPU), CPU), right, 1.0)
        with pytest.raises(RuntimeError, match="was not launched"):
            tune.time_of("connected_components", config, [trial], CPU)
        wrong = trial._replace(ours=lambda: right() + 1)
        assert tune.time_of("connected_components", config, [wrong], CPU) == float("inf")

        def counted():
            tune.launches["connected_components"] += 1
            return right()

        monkeypatch.setattr(tune, "launches", type(tune.launches)())
        assert 0 < tune.time_of("connected_components", config, [trial._replace(ours=counted)], CPU) < float("inf")

    def test_the_file_is_written_as_it_stands(self):
        text = tune.TABLE.read_text()
        assert tune.text_of(json.loads(text)) == text

    def test_the_more_particular_row_wins(self, monkeypatch):
        from sam2fast.kernels import _launch

        rows = [
            LaunchConfig("*", "*", "*", {"BLOCK": 1}, {}),
            LaunchConfig("cpu", "*", "*", {"BLOCK": 2}, {}),
            LaunchConfig("cpu", "bfloat16", "*", {"BLOCK": 3}, {}),
            LaunchConfig("sm_90", "*", "*", {"BLOCK": 4}, {}),
            LaunchConfig("*", "float32", "large", {"BLOCK": 5}, {}),
        ]
        monkeypatch.setattr(_launch, "launch_table", lambda: {"op": rows})
        asked = [(torch.uint8, "*"), (torch.bfloat16, "*"), (torch.float32, "large")]
        found = [_launch.launch_config("op", torch.zeros(1, dtype=d), s).meta["BLOCK"] for d, s in asked]
        assert found == [2, 3, 5]
        monkeypatch.setattr(_launch, "launch_table", lambda: {"op": rows[3:4]})
        with pytest.raises(LookupError, match="no launch configuration of op"):
            _launch.launch_config("op", torch.zeros(1))

    def test_rows_are_compiled_where_they_are_launched(self, monkeypatch):
        """For the targets on which some dtype and shape takes them, named or not."""
        from sam2fast.kernels import _launch

        aot = self.aot(monkeypatch)
        names = ("*", "sm_80", "sm_90"), ("*", "float32", "float16"), ("*", "a", "b")
        generator = torch.Generator().manual_seed(0)
        for _ in range(50):
            every = [LaunchConfig(*name, {"BLOCK": i}, {}) for i, name in enumerate(itertools.product(*names))]
            rows = [every[i] for i in torch.randperm(len(every), generator=generator)[:7].tolist()]
            monkeypatch.setattr(_launch, "launch_table", lambda rows=rows: {"op": rows})
            for target in ("sm_80", "sm_90", "sm_100"):
                monkeypatch.setattr(_launch, "architecture", lambda device, target=target: target)
                launched = self.launched(_launch)
                compiled = [row.meta["BLOCK"] for row in rows if aot.targets_of(row, rows, [target])]
                assert sorted(compiled) == sorted(launched)

    def aot(self, monkeypatch):
        pytest.importorskip("triton")  # before the environment says that it is not interpreted
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        import aot

        return aot

    def launched(self, module):
        """The rows taken by any dtype and shape, among them some that no row names."""
        found = set()
        for dtype, shape in itertools.product((torch.float32, torch.float16, torch.uint8), ("a", "b", "another")):
            try:
                found.add(module.launch_config("op", torch.zeros(1, dtype=dtype), shape).meta["BLOCK"])
            except LookupError:
                continue
        return found

    def test_a_row_of_a_shape_is_compiled_for_every_target_without_its_own(self, monkeypatch):
        wanted = ["sm_80", "sm_90", "gfx942"]
        rows = [
            LaunchConfig("*", "bfloat16", "*", {"BLOCK": 1}, {}),
            LaunchConfig("sm_80", "bfloat16", "*", {"BLOCK": 2}, {}),
            LaunchConfig("*", "bfloat16", "256x64", {"BLOCK": 3}, {}),
            LaunchConfig("sm_90", "bfloat16", "256x64", {"BLOCK": 4}, {}),
        ]
        targets = [self.aot(monkeypatch).targets_of(row, rows, wanted) for row in rows]
        assert targets == [["sm_90", "gfx942"], ["sm_80"], ["sm_80", "gfx942"], ["sm_90"]]

    def test_every_op_has_a_row_for_unknown_gpus(self):
        for rows in launch_table().values():
            dtypes = {row.dtype for row in rows if row.arch == row.shape == "*"}
            assert "*" in dtypes or dtypes >= {"float32", "bfloat16", "float16"}

    def test_a_candidate_is_used_only_inside(self):
        from sam2fast.kernels import _launch

        config = LaunchConfig("*", "*", "*", {"BLOCK": 64}, {})
        before = _launch.launch_table()
        with tune.launched_as("connected_components", config):
            assert _launch.launch_config("connected_components", torch.zeros(1)).meta == {"BLOCK": 64}
        assert _launch.launch_table() == before
