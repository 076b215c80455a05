"""The measuring tools: a wrong result gets no time, and reports are whole."""

import dataclasses
import json

import gpu
import pytest
import torch
from attention import by_backend, cut_out_windows
from backend_calls import RefusedError, both_ways, may_refuse, ours
from bench_cases import small_case
from inputs import full_bank, random
from measure import measure
from registry import WrongResultError, attention_case, cases, check, expectation, memory_case

from sam2fast.kernels._dispatch import current_backend
from sam2fast.kernels.memory_attention import memory_attention
from sam2fast.kernels.window_attention import window_attention_reference
from sam2fast.profiling import limits
from sam2fast.testing import relative_error

CPU = torch.device("cpu")


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


def test_on_a_gpu_our_kernels_are_measured_whatever_the_table_says():
    usual = current_backend()
    for ways, called in ((ours, {"triton": "triton"}), (both_ways, {"sam2fast": usual, "triton": "triton"})):
        assert {name: call() for name, call in ways(current_backend, torch.device("cuda")).items()} == called
        assert {name: call() for name, call in ways(current_backend, CPU).items()} == {"sam2fast": usual}


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


def test_a_part_keeps_the_others(tmp_path):
    gpu.Report(CPU, tmp_path).save("parity", [{"op": "a", "wrong": 0}])
    gpu.Report(CPU, tmp_path).save("micro", [{"op": "b", "p50 ms": 0.5}])
    report = gpu.Report(CPU, tmp_path)
    assert set(report.content["parts"]) == {"parity", "micro"}
