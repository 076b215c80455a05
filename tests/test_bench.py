"""The measuring tools: a wrong result gets no time, reports are whole, the launch table is rewritten alike."""

import dataclasses
import json

import gpu
import pytest
import torch
import tune
from measure import measure
from registry import WrongResultError, cases, check

from sam2fast.kernels._launch import LaunchConfig, launch_table

CPU = torch.device("cpu")


def small_case():
    return next(case for case in cases() if case.name == "linear 2048x96 to 384 float32")


def test_names_are_unique():
    names = [case.name for case in cases()]
    assert len(set(names)) == len(names)


def test_a_wrong_subject_is_refused():
    case = small_case()
    calls = dict(case.prepare(CPU))
    check(case, calls)
    calls["sam2fast"] = lambda right=calls["sam2fast"]: right() * 1.01
    with pytest.raises(WrongResultError, match="sam2fast differs from F.linear"):
        check(case, calls)
    calls["sam2fast"] = lambda: torch.full((2048, 384), float("nan"))
    with pytest.raises(WrongResultError):
        check(case, calls)


def test_percentiles_are_in_order():
    timing = measure(lambda: torch.zeros(1000).sum(), CPU, budget_s=0.01)
    assert 0 < timing.p20 <= timing.p50 <= timing.p80


def test_micro_part_writes_rows_and_a_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "cases", lambda: [small_case()])
    report = gpu.Report(CPU, tmp_path)
    assert gpu.micro(CPU, report, only="linear")
    content = json.loads(report.path.read_text())
    assert [row["subject"] for row in content["parts"]["micro"]] == ["F.linear", "sam2fast"]
    assert all(row["of limit"] > 0 for row in content["parts"]["micro"])
    assert content["machine"]["torch"] == torch.__version__
    assert "## micro" in report.path.with_suffix(".md").read_text()
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".md"]


def test_micro_part_fails_on_a_wrong_result(tmp_path, monkeypatch):
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
    def test_a_tuned_row_replaces_its_own_and_no_other(self):
        table = json.loads(tune.TABLE.read_text())
        row = LaunchConfig("sm_90", "*", "*", {"BLOCK": 256}, {"num_warps": 4})
        once = tune.with_row(table, "connected_components", row)
        twice = tune.with_row(once, "connected_components", row._replace(meta={"BLOCK": 512}))
        assert len(once["connected_components"]) == len(twice["connected_components"]) == 2
        assert twice["connected_components"][0] == table["connected_components"][0]
        assert twice["connected_components"][1]["meta"] == {"BLOCK": 512}

    def test_the_fastest_right_candidate_is_stored(self, tmp_path, monkeypatch, capsys):
        path = tmp_path / "table.json"
        path.write_text(tune.TABLE.read_text())
        monkeypatch.setattr(tune, "TABLE", path)
        monkeypatch.setattr(tune, "architecture", lambda device: "sm_90")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(tune, "time_of", lambda op, config, device: abs(config.meta["BLOCK"] - 1024) + 0.5)
        monkeypatch.setattr("sys.argv", ["tune.py"])
        tune.main()
        rows = json.loads(path.read_text())["connected_components"]
        assert (rows[-1]["arch"], rows[-1]["meta"]) == ("sm_90", {"BLOCK": 1024})
        before = path.read_text()
        monkeypatch.setattr(tune, "time_of", lambda op, config, device: float("inf"))
        with pytest.raises(SystemExit, match="table is unchanged"):
            tune.main()
        assert path.read_text() == before

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
        assert found == [2, 3, 2]
        monkeypatch.setattr(_launch, "launch_table", lambda: {"op": rows[3:4]})
        with pytest.raises(LookupError, match="no launch configuration of op"):
            _launch.launch_config("op", torch.zeros(1))

    def test_every_op_has_a_row_for_unknown_gpus(self):
        assert all(any(row[:3] == ("*", "*", "*") for row in rows) for rows in launch_table().values())

    def test_a_candidate_is_used_only_inside(self):
        from sam2fast.kernels import _launch

        config = LaunchConfig("*", "*", "*", {"BLOCK": 64}, {})
        before = _launch.launch_table()
        with tune.launched_as("connected_components", config):
            assert _launch.launch_config("connected_components", torch.zeros(1)).meta == {"BLOCK": 64}
        assert _launch.launch_table() == before
