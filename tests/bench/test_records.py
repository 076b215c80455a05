"""Tests that the measuring tools do not time wrong results and write whole reports."""

import dataclasses
import re
import sys
from types import SimpleNamespace

import kernel_records
import measure
import one_op
import pytest
import torch
from _pytest.mark.expression import Expression
from backend_calls import RefusedError, both_ways, by_triton, may_refuse, ours
from bench_cases import small_case
from checkout import ROOT
from gpu import steps, work
from inputs import full_bank
from kernel_records import RECORDS, cases, small_cases
from kernel_records.memory_attention import CANDIDATES, memory_case
from measure import line_of
from registry import WrongResultError, check, expectation

from sam2fast.kernels._dispatch import current_backend
from sam2fast.kernels._op import OPS
from sam2fast.kernels.memory_attention import memory_attention
from sam2fast.profiling import limits

CPU = torch.device("cpu")


def test_every_op_is_measured_and_checked_by_a_step():
    names = [case.name for case in cases()]
    assert len(set(names)) == len(names)
    compared = {comparison.op for comparison in steps.COMPARED}
    assert {case.op for case in cases()} == compared == {case.op for case in small_cases()}
    for comparison in steps.COMPARED:
        shapes = [case.shape for case in cases() if case.op == comparison.op]
        assert any(re.fullmatch(comparison.shapes, shape) for shape in shapes), comparison
    assert all(record.parity for record in RECORDS.values())


def test_every_parity_test_is_in_one_step():
    """Tests also that the step of each kernel in use, unless in float32, names the kernel's ops."""
    of_step = {name: Expression.compile(each.keywords) for name, each in steps.PARITY.items()}
    compared = [(f"{folder}: {op}", each) for folder, record in RECORDS.items() for op, each in record.parity.items()]
    for test, each in compared:
        for dtype in each.planned_dtypes:
            words = f"{test} {dtype}"
            (step,) = (name for name, chosen in of_step.items() if chosen.evaluate(words.__contains__))
            ignored = [word for word in ("fp8", "candidate", "in float32") if word in f"{test} {step}"]
            assert set(each.ops) <= set(steps.PARITY[step].ops) or ignored, words
    named = [op for each in steps.PARITY.values() for op in each.ops]
    assert len(set(named)) == len(named) and set(named) <= {op.launches for op in OPS.values()} | set(OPS)
    ends = {"mlp": "FAILED: wrong", "nms": "passed", steps.FILLS_HOLES: "FAILED: timed out after 9 s"}
    verdicts = {f"parity {name}": {"verdict": verdict} for name, verdict in ends.items()}
    assert steps.failed_ops(verdicts, False) == ["mlp"]
    assert sorted(steps.failed_ops(verdicts, True)) == [steps.FILLS_HOLES, "mlp"]


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


@torch.no_grad()
def test_the_baseline_bounds_the_reference_and_both_bound_other_results():
    case = dataclasses.replace(memory_case(1, 1, torch.bfloat16, side=4), tolerance=0.0)
    calls = case.prepare(CPU)
    exact = case.exact(CPU)

    def tolerance(error):
        return expectation(case, {**calls, "reference": lambda: exact + error * noise}, CPU).tolerance

    noise = torch.zeros_like(exact)
    noise.view(-1)[0] = exact.abs().mean() + exact.std(correction=0)
    least = expectation(case, {name: call for name, call in calls.items() if name != "reference"}, CPU).tolerance
    assert tolerance(0) == least and tolerance(0.9 * least) == pytest.approx(1.8 * least)
    with pytest.raises(WrongResultError, match="reference differs"):
        tolerance(1.1 * least)
    assert expectation(case, {**calls, "reference": may_refuse(lambda: 1 / 0)}, CPU).tolerance == least


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
def micro(monkeypatch):
    """The step for the op of :func:`small_case`, from the cases that are given; and what it sends."""
    monkeypatch.setattr(limits, "SIDE_ON_CPU", limits.SMALLEST_SIDE)  # half a minute where bfloat16 is slow
    monkeypatch.setattr(limits, "COPIED_ON_CPU", 2**16)
    monkeypatch.setattr(work, "COMPARED", [steps.Comparison("linear", "", shapes="2048.*")])

    def run(*cases, limit_s=float("inf"), which="", earlier=()):
        rows = []
        monkeypatch.setattr(kernel_records, "cases", lambda: cases)
        return work.micro(
            which, work.Context(CPU, lambda part, row: rows.append((part, row)), limit_s, earlier=earlier)
        ), rows

    return run


def test_micro_step_sends_a_row_for_each_subject_and_a_sentence(micro):
    other = dataclasses.replace(small_case(), shape="4096x96 to 384")
    outcome, sent = micro(small_case(), other)
    assert outcome.right and outcome.figure == "1 of 1 comparisons, 1 cases"
    *rows, sentence = [row for _, row in sent]
    assert [part for part, _ in sent] == ["micro", "micro", "sentences"]
    assert [row["subject"] for row in rows] == ["F.linear", "sam2fast"]
    assert all(row["of limit"] > 0 and row["timed by"] == "clock" for row in rows)
    assert sentence["ratios"] == {small_case().shape: rows[0]["p50 ms"] / rows[1]["p50 ms"]}
    assert sentence["sentence"].startswith("`linear` ")
    assert line_of(rows).startswith("linear, 2048x96 to 384, float32  ") and line_of(rows).endswith("  F.linear")


def test_candidates_have_a_step_of_their_own(micro, monkeypatch):
    monkeypatch.setattr(work, "CANDIDATES", [steps.Comparison("linear", "no", "yes", others="F.linear")])
    outcome, sent = micro(small_case(), which="candidates")
    assert outcome.figure == "1 of 1 comparisons, 1 cases" and sent[-1][1]["sentence"].endswith(("no.", "yes."))
    # Each candidate has cases, on their own shapes, which no other comparison measures.
    every = [case for case in cases() if case.op in ("memory_attention", "rope_attention")]
    for comparisons, are_candidates in ((steps.CANDIDATES, True), (steps.COMPARED, False)):
        for comparison in comparisons:
            shapes = [case.shape for case in every if case.op == comparison.op]
            found = [shape for shape in shapes if re.fullmatch(comparison.shapes, shape)]
            named = [shape for shape in found if shape.endswith(CANDIDATES)]
            assert named == found * are_candidates and bool(found) == bool(shapes)


def test_micro_step_fails_on_a_wrong_result(micro):
    def prepare(device):
        calls = dict(small_case().prepare(device))
        return calls | {"sam2fast": lambda: calls["F.linear"]() + 1}

    outcome, ((_, row),) = micro(dataclasses.replace(small_case(), prepare=prepare))
    assert not outcome.right and "sam2fast differs" in outcome.why
    assert row["subject"].startswith("WRONG") and "p50 ms" not in row


def test_micro_step_ends_before_its_limit(micro):
    outcome, sent = micro(small_case(), limit_s=-1.0)
    assert outcome.right and outcome.unfinished == "1 of 1 cases are left" and sent == []


def test_micro_step_continues_with_the_cases_that_are_left(micro, monkeypatch):
    first, second = (dataclasses.replace(small_case(), shape=shape) for shape in ("2048a", "2048b"))
    _, sent = micro(first)
    earlier = [row for part, row in sent if part == "micro"]
    monkeypatch.setattr(measure, "case_rows", lambda case, *_, **__: [{**earlier[0], "shape": case.shape}])
    outcome, sent = micro(first, second, earlier=earlier)
    assert [row["shape"] for part, row in sent if part == "micro"] == ["2048b"]
    assert outcome.right and not outcome.unfinished and outcome.figure == "1 of 1 comparisons, 2 cases"
    wrong = {**earlier[0], "subject": "WRONG: another result"}
    assert not micro(first, earlier=[wrong])[0].right


def test_ops_by_torch_are_not_compared(micro, monkeypatch):
    monkeypatch.setattr(work, "OPS", {"linear": SimpleNamespace(launches="products")})
    monkeypatch.setattr(work, "torch_ops", lambda: frozenset({"products"}))
    outcome, sent = micro(small_case())
    assert outcome.right and sent == []


def test_a_kernel_that_is_switched_off_is_refused(monkeypatch):
    monkeypatch.setenv("SAM2FAST_TORCH_OPS", "memory_attention")
    with pytest.raises(RefusedError, match="is in SAM2FAST_TORCH_OPS"):
        by_triton(lambda: OPS["memory_attention"].uses_kernel(torch.zeros(1)))()


def test_micro_step_times_the_default_dtype(micro):
    """In bfloat16 where there are such cases, else in fp32."""
    bf16 = dataclasses.replace(small_case(), dtype="bfloat16", shape="2048x96 to 385")
    _, sent = micro(small_case(), bf16)
    assert {row["shape"] for part, row in sent if part == "micro"} == {"2048x96 to 385"}


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
    printed = capsys.readouterr().out
    assert f"{len(RECORDS['layer_norm'].cases) - 1} larger cases are left out" in printed and "1.00x" in printed
