"""The measuring tools: a wrong result gets no time, and reports are whole."""

import dataclasses
import sys

import kernel_records
import one_op
import pytest
import torch
from backend_calls import RefusedError, both_ways, may_refuse, ours
from bench_cases import small_case
from checkout import ROOT
from gpu import steps, work
from inputs import full_bank
from kernel_records import RECORDS, cases, small_cases
from kernel_records.memory_attention import memory_case
from measure import speed
from registry import WrongResultError, check, expectation

from sam2fast.kernels._dispatch import current_backend
from sam2fast.kernels.memory_attention import memory_attention
from sam2fast.profiling import limits

CPU = torch.device("cpu")


def test_names_are_unique():
    names = [case.name for case in cases()]
    assert len(set(names)) == len(names)


def test_every_op_is_in_the_documents():
    docs = ROOT / "docs"
    places = {
        ROOT / "mkdocs.yml": "kernels/{}.md",
        docs / "kernels" / "index.md": "({}.md)",
        docs / "api" / "ops.md": "::: sam2fast.kernels.{}\n",
    }
    missing = [
        (path.name, op) for path, text in places.items() for op in RECORDS if text.format(op) not in path.read_text()
    ]
    assert not missing and all((docs / "kernels" / f"{op}.md").exists() for op in RECORDS)


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


def test_a_baseline_far_from_itself_in_fp32_is_refused():
    case = memory_case(1, 1, torch.bfloat16, side=4, d=32, m=16)
    calls = {"broken": lambda: torch.zeros(1, 16, 32)}
    with pytest.raises(WrongResultError, match="broken differs from itself in fp32 by"):
        expectation(case, calls, CPU)


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


@pytest.fixture
def micro_rows(monkeypatch):
    """Rows of the step for the ops of :func:`small_case`, from the cases that are given."""
    monkeypatch.setattr(limits, "SIDE_ON_CPU", limits.SMALLEST_SIDE)  # half a minute where bfloat16 is slow
    monkeypatch.setattr(limits, "COPIED_ON_CPU", 2**16)
    monkeypatch.setitem(work.MICRO, "linear", (1, "", ("linear",)))

    def run(case):
        rows = []
        monkeypatch.setattr(kernel_records, "cases", lambda: [case])
        return work.micro("linear", work.Context(CPU, lambda part, row: rows.append(row))), rows

    return run


def test_micro_step_sends_a_row_for_each_subject(micro_rows):
    outcome, rows = micro_rows(small_case())
    assert outcome.right and "of the limit" not in outcome.figure  # which is that of bfloat16
    assert [row["subject"] for row in rows] == ["F.linear", "sam2fast"]
    assert all(row["of limit"] > 0 and row["timed by"] == "clock" for row in rows)
    assert speed(rows).startswith("linear 2048x96 to 384: ") and speed(rows).endswith("x F.linear")


def test_micro_step_fails_on_a_wrong_result(micro_rows):
    def prepare(device):
        calls = dict(small_case().prepare(device))
        return calls | {"sam2fast": lambda: calls["F.linear"]() + 1}

    outcome, (row,) = micro_rows(dataclasses.replace(small_case(), prepare=prepare))
    assert not outcome.right and "sam2fast differs" in outcome.why
    assert row["subject"].startswith("WRONG") and "p50 ms" not in row


def test_every_kernel_has_a_parity_check():
    keywords = " ".join(keywords for keywords, _ in steps.PARITY.values()).split()
    for folder, record in RECORDS.items():
        assert record.parity and folder in keywords, f"no step of gpu/steps.py checks the kernels of {folder}"


def test_micro_steps_have_every_op_of_the_registry():
    measured = set()
    for name, (_, _, ops) in steps.MICRO.items():
        measured |= set(ops) or {case.op for case in RECORDS[name].cases}
    assert {case.op for case in cases()} == measured == {case.op for case in small_cases()}


@pytest.mark.parametrize("options", [[], ["--list"]], ids=["times", "names"])
def test_an_op_is_timed_alone(options, monkeypatch, capsys):
    case = small_case()
    monkeypatch.setattr(limits, "measure_limits", lambda device: limits.Limits(1e9, {"float32": 1e9}))
    monkeypatch.setattr(sys, "argv", ["layer_norm.py", "--device", "cpu", *options])
    one_op.main(RECORDS["layer_norm"]._replace(cases=[case]))
    printed = capsys.readouterr().out.splitlines()
    if options:
        assert printed == [case.name]
    else:
        assert [line.split()[-1] for line in printed[:2]] == ["speed", "1.00x"]
        assert len(printed) == 1 + len(case.prepare(CPU))


def test_a_cpu_stops_after_its_seconds(monkeypatch, capsys):
    monkeypatch.setattr(limits, "measure_limits", lambda device: limits.Limits(1e9, {"float32": 1e9}))
    monkeypatch.setattr(one_op, "SECONDS_ON_CPU", -1.0)
    monkeypatch.setattr(sys, "argv", ["layer_norm.py", "--device", "cpu"])
    one_op.main(RECORDS["layer_norm"])
    assert f"{len(RECORDS['layer_norm'].cases)} larger cases are left out" in capsys.readouterr().out
