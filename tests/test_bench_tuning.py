"""The launch table: it is tuned and rewritten alike, and a row is taken where it is meant."""

import argparse
import dataclasses
import itertools
import json

import pytest
import torch
import tune
from bench_cases import small_case
from registry import cases, expectation

from sam2fast.kernels._launch import LaunchConfig, launch_table

CPU = torch.device("cpu")


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

    def test_every_op_is_tuned_where_cases_are(self):
        untuned = set(launch_table()) ^ {search.op for search in tune.SEARCHES}
        assert not untuned, f"the launch table and SEARCHES of bench/tune.py have to name the same ops, not {untuned}"
        measured = {(case.op, case.dtype, case.launch) for case in cases()}
        for search in tune.SEARCHES:
            row = f"{search.op} {search.dtype} {search.shape}"
            assert search.candidates, f"bench/tune.py has no candidates for {row}"
            assert any(
                op in search.cases and search.dtype in ("*", dtype) and search.shape == launch
                for op, dtype, launch in measured
            ), f"no case of bench/registry.py decides on {row}"

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
