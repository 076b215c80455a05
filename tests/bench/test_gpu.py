"""A visit to a GPU, rehearsed in Triton's interpreter: what goes wrong in one step costs that step alone."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from gpu.collect import collect
from gpu.records import Records, merged, read_records, text_of
from gpu.steps import MOST_S, VISIT_S, Step, plan, timetable
from waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
FAULTS = ROOT / "tests" / "support" / "gpu_faults"
ABSENT_THERE = "hydra omegaconf antlr4 iopath sam2 av flask ray"
QUICK_STEPS = ("parity rope_attention", "parity encoder", "parity connected_components", "parity run_lengths and nms")


def started(out: Path, *options: str, missing: str = "", faults: dict | None = None, **how) -> subprocess.Popen:
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    environment |= {"PYTHONPATH": str(FAULTS), "SAM2FAST_TEST_MISSING": missing}
    environment |= {"SAM2FAST_TEST_FAULTS": json.dumps(faults or {}), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "bench" / "gpu"), "--device", "cpu", "--rehearse", "--out", str(out)]
    return subprocess.Popen([*command, *options], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True, cwd=out.parent, **how)  # fmt: skip


def rehearsed(out: Path, *options: str, **surroundings) -> tuple[int, str]:
    process = started(out, *options, **surroundings)
    printed, _ = process.communicate(timeout=400)
    return process.returncode, printed


def only(*steps: str) -> list[str]:
    return [word for step in steps for word in ("--only", step)]


def verdicts(out: Path) -> dict[str, str]:
    records = read_records(out / "results.jsonl")
    return {record["step"]: record["verdict"] for record in records if record["kind"] == "verdict"}


ONE_OF_EACH_KIND = (
    *("environment", "parity encoder", "parity newer ptxas", "profile t", "tuned t", "call cold start l"),
    *("micro encoder", "tune window_attention *", "sanitize memcheck"),
)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(ONE_OF_EACH_KIND, marks=pytest.mark.long, id="one of each kind"),
        pytest.param([step.name for step in plan()], marks=pytest.mark.slow, id="all"),
    ],
)
def test_the_plan_where_packages_are_missing(names, tmp_path):
    """As on a machine that has torch, triton and numpy, and nothing was carried along."""
    out = tmp_path / "out"
    code, printed = rehearsed(out, *only(*names), missing=ABSENT_THERE)
    assert code == 0, printed
    found = verdicts(out)
    assert list(found) != [] and set(found) == set(names)
    missing = ("omegaconf", "compute-sanitizer", "a newer ptxas than Triton's own")
    assert set(found.values()) <= {"passed", *(f"not run: {name} is missing" for name in missing)}, found
    passed = {name for name, verdict in found.items() if verdict == "passed"}
    kinds = {"environment", *(name for name in names if name.startswith(("micro", "tune ", "parity")))}
    assert passed >= kinds - {"parity recorded steps", "parity recorded images", "parity newer ptxas"}
    assert all(f"| {name} | {verdict} |" in printed for name, verdict in found.items())
    files = list(out.iterdir())
    assert len(files) <= 8 and all(path.is_file() and path.stat().st_size < 16 * 2**20 for path in files)
    rows = [record for record in read_records(out / "results.jsonl") if record["kind"] == "row"]
    assert {row["step"] for row in rows} >= passed


@pytest.mark.slow
def test_what_goes_wrong_in_a_step_is_lost_with_that_step_alone(tmp_path):
    kinds = ("raises", "exits by a signal", "fills the disk", "hangs")
    faults = dict(zip(QUICK_STEPS, kinds, strict=True))
    others = ("environment", "micro rope_attention", "micro masks")
    out = tmp_path / "out"
    code, printed = rehearsed(out, "--budget", "45", *only(*others, *faults), faults=faults)
    assert code == 1
    found = verdicts(out)
    assert [found[name] for name in others] == ["passed"] * 3, printed
    expected = ("RuntimeError: a fault on purpose", "killed by SIGSEGV", "No space left on device", "timed out after")
    for step, why in zip(faults, expected, strict=True):
        assert found[step].startswith("FAILED: ") and why in found[step], found
        assert f"| {step} | FAILED" in printed.replace(f"| {step} | {found[step]}", f"| {step} | FAILED")
    rows = {record["step"] for record in read_records(out / "results.jsonl") if record["kind"] == "row"}
    assert rows == set(others)


@pytest.mark.slow
def test_a_disk_that_is_full_loses_no_step(tmp_path):
    """The files of the visit and of its steps may have 4,000 bytes each; what does not fit is still printed."""
    out, steps = tmp_path / "out", ("parity rope_attention", "micro encoder", "micro rope_attention")
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))}
    process = started(out, *only(*steps), **limit)
    printed, _ = process.communicate(timeout=200)
    assert process.returncode == 1, printed
    assert all(f"| {step} | passed |" in printed for step in steps)
    assert "RESULTS WERE NOT WRITTEN" in printed and "File too large" in printed
    assert read_records(out / "results.jsonl")  # whole lines, as far as there was room
    assert (out / "results.jsonl").stat().st_size <= 4000


@pytest.mark.slow
def test_a_visit_that_is_cut_off_is_resumed(tmp_path):
    out, again = tmp_path / "first", tmp_path / "second"
    steps = ("micro rope_attention", "micro encoder", "parity encoder")
    process = started(out, *only(*steps), faults={"micro encoder": "hangs"})
    assert wait_until(lambda: (out / "results.jsonl").exists() and "micro rope_attention" in verdicts(out), 60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    kept = read_records(out / "results.jsonl")
    assert any(record["kind"] == "row" for record in kept)
    code, printed = rehearsed(again, *only(*steps), "--resume", str(out / "results.jsonl"),
                              faults={"micro rope_attention": "raises"})  # fmt: skip
    assert code == 0, printed  # what has passed is not run again
    assert set(verdicts(again).values()) == {"passed"} and read_records(again / "results.jsonl")[: len(kept)] == kept


@pytest.mark.long
def test_a_visit_that_is_told_to_stop_leaves_a_table_and_no_process(tmp_path):
    out = tmp_path / "out"
    process = started(out, *only("micro encoder", "parity encoder"), faults={"micro encoder": "hangs"})
    assert wait_until(
        lambda: (out / "log.txt").exists() and "micro encoder: begins" in (out / "log.txt").read_text(), 60
    )
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)  # also the step's own child, which holds the pipe, is gone
    assert process.returncode == 128 + signal.SIGTERM
    assert "| micro encoder | " in printed and (out / "summary.md").exists()


WRONG = """
import pytest

@pytest.mark.gpu
@pytest.mark.parametrize("wrong", [0, 2])
def test_parity(record_property, wrong):
    record_property("row", {"op": "nms", "wrong": wrong, "largest error": 0.5})
    assert wrong == 0
"""
TESTED = """
import sys, torch
from gpu.work import Context, _tested
print(_tested(sys.argv[1], Context(torch.device("cpu"), lambda part, row: print(part, row["wrong"]), rehearse=True)))
"""


@pytest.mark.long
def test_a_wrong_row_is_sent_and_fails_its_step(tmp_path):
    (tmp_path / "test_wrong.py").write_text(WRONG)
    command = [sys.executable, "-c", TESTED, str(tmp_path / "test_wrong.py")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "bench")])}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert "parity of nms 0" in done.stdout and "parity of nms 2" in done.stdout, done.stdout + done.stderr
    expected = "Outcome(right=False, figure='2 wrong in 2 rows, largest error 0.5', why='test_parity[2]: "
    assert expected in done.stdout.splitlines()[-1]


def test_no_step_is_begun_without_time_for_it(tmp_path):
    """The plan is in order of value; a shorter step may still fit."""
    out = tmp_path / "out"
    code, printed = rehearsed(out, "--budget", "-1", *only("parity"))
    assert code == 0 and set(verdicts(out).values()) == {"not run: no time left"}, printed
    assert (out / "summary.md").read_text() in printed


def test_steps_have_names_and_limits_of_their_own():
    steps = plan()
    assert len({step.name for step in steps}) == len(steps)
    assert all(0 < step.seconds <= step.limit_s <= MOST_S < VISIT_S for step in steps)


def test_the_first_visits_have_what_decides_most():
    """By the plan's own seconds; a visit is a call of ten minutes, and a lease has room for two of them."""
    planned = timetable(plan())
    assert sorted(p.step.name for p in planned) == sorted(step.name for step in plan())
    assert all(0 <= p.begin_s < p.end_s == p.begin_s + p.step.seconds <= VISIT_S < 600 for p in planned)
    first = [p.step.name for p in planned if p.visit == 1]
    assert first[0] == "environment" and all(name.startswith("parity") for name in first[1 : first.index(MEASURED[0])])
    assert [name for name in first if name in MEASURED] == list(MEASURED)


MEASURED = ("call throughput t", "profile t", "micro memory_attention", "tune memory_attention 256x64", "tuned t")


def test_steps_wait_for_what_has_the_machine_for_itself():
    def step(name, seconds, alone=True):
        return Step(name, ("", ""), seconds, seconds, alone)

    steps = [
        step("a", 10),
        step("b", 30, False),
        step("c", 20, False),
        step("d", 20, False),
        step("e", 40),
        step("f", 5),
    ]
    found = [(p.visit, p.begin_s, p.end_s, p.step.name) for p in timetable(steps, visit_s=60, jobs=2)]
    assert found == [(1, 0, 10, "a"), (1, 10, 40, "b"), (1, 10, 30, "c"), (1, 30, 50, "d"), (1, 50, 55, "f"),
                     (2, 0, 40, "e")]  # fmt: skip


def test_the_plan_is_listed(tmp_path):
    command = [sys.executable, str(ROOT / "bench" / "gpu"), "--list", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and not (tmp_path / "out").exists()
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + len(plan()) and lines[1].split() == ["1", "0", "35", "environment"]


def test_results_wait_for_room(tmp_path):
    records = Records(tmp_path)
    records.add({"kind": "row", "step": "a", "row": "x" * 50})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (130, hard))
    try:
        records.add({"kind": "row", "step": "b", "row": "y" * 50})
        assert "File too large" in records.problem
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [record["step"] for record in read_records(tmp_path / "results.jsonl")] == ["a"]
    records.add({"kind": "row", "step": "c", "row": ""})
    assert records.problem is None and read_records(tmp_path / "results.jsonl") == records.all


@pytest.mark.parametrize("text", ['{"a": 1}\n', "no JSON\n"])
def test_a_file_of_another_kind_is_refused(tmp_path, text):
    path = tmp_path / "other.jsonl"
    path.write_text(text)
    with pytest.raises(SystemExit, match="other.jsonl.*expected"):
        read_records(path)


TABLE = {"nms": [{"arch": "*", "dtype": "*", "shape": "*", "meta": {"A": 1}, "options": {"num_warps": 4}}]}
ROW = {"op": "nms", "arch": "sm_90", "dtype": "*", "shape": "*", "meta": {"A": 2}, "options": {"num_warps": 8}}


def test_tuned_rows_replace_those_of_the_same_gpu():
    once = merged(TABLE, [ROW])
    assert [row["arch"] for row in once["nms"]] == ["*", "sm_90"] and len(TABLE["nms"]) == 1
    twice = merged(once, [{**ROW, "meta": {"A": 3}}])
    assert [row["meta"] for row in twice["nms"]] == [{"A": 1}, {"A": 3}]
    assert json.loads(text_of(twice)) == twice
    assert merged({}, [ROW])["nms"] == once["nms"][1:] and json.loads(text_of({})) == {}


MACHINE = {"device": "NVIDIA H200", "gpu": "NVIDIA H200", "torch": "2.11.0"}


def visit(tmp_path, rows, environment=True, rehearsal=False):
    records = Records(tmp_path / "visit")
    if environment:
        about = {"date": "2026-12-01", "rehearsal": rehearsal, "machine": MACHINE}
        records.add({"step": "environment", "kind": "row", "part": "environment", "row": about})
    for part, row in rows:
        records.add({"step": "a step", "kind": "row", "part": part, "row": row})
    verdict = {"verdict": "passed", "figure": "1 | 2", "seconds": 3.0}
    records.add({"step": "a step", "kind": "verdict", **verdict})
    return tmp_path / "visit", tmp_path / "results"


def row_of(ms, subject="triton"):
    return {"op": "nms", "shape": "3", "dtype": "float32", "subject": subject, "p50 ms": ms}


def test_collected_rows_replace_earlier_ones(tmp_path):
    rows = [("micro", row_of(2.0)), ("micro", row_of(4.0, "torch")), ("micro", row_of(1.5))]
    (report,) = collect(*visit(tmp_path, rows))
    content = json.loads(report.read_text())
    assert report.name == "nvidia-h200-2026-12-01.json" and content["machine"] == MACHINE
    assert [row["p50 ms"] for row in content["parts"]["micro"]] == [1.5, 4.0]
    assert content["parts"]["verdicts"][0]["verdict"] == "passed"


def test_a_later_visit_keeps_the_parts_of_an_earlier(tmp_path):
    collect(*visit(tmp_path, [("micro", row_of(2.0))]))
    (report,) = collect(*visit(tmp_path, [("sanitize", {"tool": "memcheck", "exit": 0})]))
    assert {"micro", "sanitize"} <= set(json.loads(report.read_text())["parts"])


def test_tuned_configurations_are_kept_and_printed(tmp_path, capsys):
    (report,) = collect(*visit(tmp_path, [("tune", {"stored": ROW})]))
    assert json.loads(report.read_text())["parts"]["tune"] == [{"stored": ROW}]
    assert capsys.readouterr().out == "nms: config('sm_90', '*', '*'): {'A': 2}, {'num_warps': 8}\n"


def test_results_that_do_not_say_where_they_are_from_are_refused(tmp_path):
    arguments = visit(tmp_path, [("micro", row_of(2.0))], environment=False)
    with pytest.raises(SystemExit, match="does not say what it was measured on"):
        collect(*arguments)
    with pytest.raises(SystemExit, match="is of a rehearsal"):
        collect(*visit(tmp_path, [], rehearsal=True))
    assert not arguments[1].exists()
