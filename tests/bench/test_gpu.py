"""A visit to a GPU, rehearsed in Triton's interpreter: what goes wrong in one step costs that step alone."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import ClassVar

import pytest
from figure_results import row as suite_row
from figure_results import subject
from figures.results import Report, mark
from gpu import runner, work
from gpu import visit as visit_module
from gpu.collect import collect
from gpu.records import Records, read_records, unfinished_rows
from gpu.steps import ATEN_ONLY, BUDGETS_S, CANDIDATES, PARITY, RETRY_S, Comparison, Step, plan, timetable
from gpu.visit import remaining
from suite import machine
from waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
FAULTS = ROOT / "tests" / "support" / "gpu_faults"
# Packages of the tests' environment that images for GPUs lack.
ABSENT_THERE = """
    annotated_types antlr4 av blinker cross_web defusedxml deprecate flask fvcore graphql gunicorn highdicom httpcore2
    hydra importlib_resources iopath itsdangerous jpeg_ls jsonschema jsonschema_specifications nibabel omegaconf
    pycocotools pydantic pydantic_core pydevd_plugins pydicom pyvers ray referencing rpds sam2 shapely strawberry
    submitit supervision tensordict training truststore typing_inspection tzdata
"""
QUICK_STEPS = ("parity rope_attention", "parity layer_norm", "parity connected_components", "parity run_lengths")
OTHERS = ("environment", "parity memory of graphs", "parity norm_linear")


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


ONE_OF_EACH_KIND = ("environment", "profile", "call ahead", "micro", "parity linear_gelu", "real files")


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(ONE_OF_EACH_KIND, id="one of each kind"),
        pytest.param([step.name for step in plan()], marks=pytest.mark.slow, id="all"),
    ],
)
def test_the_plan_where_packages_are_missing(names, tmp_path):
    """As on a machine for GPUs, with the packages that were carried along, if any."""
    out = tmp_path / "out"
    code, printed = rehearsed(out, *only(*names), missing=ABSENT_THERE)
    assert code == 0, printed
    found = verdicts(out)
    assert set(found) == set(names)
    missing = [] if (ROOT / ".carry" / "site" / "omegaconf").exists() else ["omegaconf"]
    assert set(found.values()) <= {"passed", *(f"not run: {name} is missing" for name in missing)}, found
    passed = {name for name, verdict in found.items() if verdict == "passed"}
    assert passed == set(names) - {step.name for step in plan() if not set(missing).isdisjoint(step.needs)}
    assert all(f"| {name} | {verdict} |" in printed for name, verdict in found.items())
    files = list(out.iterdir())
    assert len(files) <= 8 and all(path.is_file() and path.stat().st_size < 16 * 2**20 for path in files)
    rows = [record for record in read_records(out / "results.jsonl") if record["kind"] == "row"]
    assert {row["step"] for row in rows} >= passed


@pytest.mark.slow
def test_what_goes_wrong_in_a_step_is_lost_with_that_step_alone(tmp_path):
    kinds = ("raises", "exits by a signal", "fills the disk", "hangs")
    faults = dict(zip(QUICK_STEPS, kinds, strict=True))
    out = tmp_path / "out"
    code, printed = rehearsed(out, "--budget", "60", *only(*OTHERS, *faults), faults=faults)
    assert code == 1
    found = verdicts(out)
    assert [found[name] for name in OTHERS] == ["passed"] * 3, printed
    expected = ("RuntimeError: a fault on purpose", "killed by SIGSEGV", "No space left on device", "timed out after")
    for step, why in zip(faults, expected, strict=True):
        assert found[step].startswith("FAILED: ") and why in found[step], found
        assert f"| {step} | FAILED" in printed.replace(f"| {step} | {found[step]}", f"| {step} | FAILED")
    rows = {record["step"] for record in read_records(out / "results.jsonl") if record["kind"] == "row"}
    assert rows == set(OTHERS)


@pytest.mark.slow
def test_a_disk_that_is_full_loses_no_step(tmp_path):
    """The files of the visit and of its steps may have 1,000 bytes each; what does not fit is still printed."""
    out, steps = tmp_path / "out", ("parity rope_attention", "parity linear_gelu", "parity norm_linear")
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))}
    process = started(out, *only(*steps), **limit)
    printed, _ = process.communicate(timeout=200)
    assert process.returncode == 1, printed
    assert all(f"| {step} | passed |" in printed for step in steps)
    assert "RESULTS WERE NOT WRITTEN" in printed and "File too large" in printed
    assert read_records(out / "results.jsonl")  # whole lines, as far as there was room
    assert (out / "results.jsonl").stat().st_size <= 1000


@pytest.mark.slow
def test_a_visit_that_is_killed_keeps_its_rows_and_is_gone_on_with(tmp_path):
    out, steps = tmp_path / "out", ("environment", "parity linear_gelu")
    process = started(out, *only(*steps), faults={"parity linear_gelu": "hangs"})
    assert wait_until(lambda: (out / "results.jsonl").exists() and "environment" in verdicts(out), 60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    kept = read_records(out / "results.jsonl")
    assert any(record["kind"] == "row" for record in kept)
    code, printed = rehearsed(out, *only("parity linear_gelu"))
    assert code == 0, printed
    assert read_records(out / "results.jsonl")[: len(kept)] == kept
    assert verdicts(out) == dict.fromkeys(steps, "passed")


class Passing:
    """In place of the runner: every step passes."""

    calls: ClassVar[list] = []

    def __init__(self, command, environment, records, log, deadline, jobs, after):
        self.records, self.deadline = records, deadline

    def run(self, steps):
        self.calls.append(([step.name for step in steps], round(self.deadline - time.monotonic())))
        for step in steps[:2]:
            verdict = {"verdict": "passed", "figure": "", "seconds": 1.0}
            self.records.add({"step": step.name, "kind": "verdict", **verdict})


@pytest.fixture
def visited(monkeypatch):
    """The program in this process, whose steps pass."""
    monkeypatch.setattr(runner, "Runner", Passing)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(Passing, "calls", [])

    def run(*options):
        monkeypatch.setattr(sys, "path", [*sys.path])
        monkeypatch.setattr(sys, "argv", ["gpu", *options])
        return visit_module.main()

    return run


def test_the_second_call_goes_on_for_250_seconds(tmp_path, visited, capsys):
    """A step that is named runs again."""
    names = [step.name for step in plan()]
    for options in ([], [], ["--only", "environment", "--budget", "9"]):
        assert visited("--device", "cpu", "--rehearse", "--out", str(tmp_path), *options) == 0
    assert Passing.calls == [(names, 570), (names[2:], 250), (["environment"], 9)]
    assert "| profile | passed |" in capsys.readouterr().out


SAYS_ITS_LIMIT = """
import json, os, sys
given = dict(zip(sys.argv[1::2], sys.argv[2::2]))
end = {"kind": "end", "right": True, "figure": given["--limit"]}
os.write(int(given["--records"]), (json.dumps(end) + "\\n").encode())
"""


@pytest.mark.parametrize(("left_s", "limit_s"), [(1000.0, 30.0), (20.0, 20.0)])
def test_a_step_is_told_the_time_that_it_has(tmp_path, left_s, limit_s):
    """The plan's limit, or the rest of the visit."""
    records, log = Records(tmp_path), runner.Log(tmp_path / "log.txt")
    command = [sys.executable, "-c", SAYS_ITS_LIMIT]
    deadline = time.monotonic() + left_s
    runner.Runner(command, os.environ, records, log, deadline, 1, lambda: None).run([Step("a", ("", ""), 1, 30, "?")])
    (verdict,) = records.all
    assert verdict["verdict"] == "passed" and limit_s - 1 < float(verdict["figure"]) <= limit_s


SAYS_ITS_OPS = """
import json, os, sys
end = {"kind": "end", "right": "mlp" not in sys.argv[2], "figure": os.environ["SAM2FAST_TORCH_OPS"]}
end["unfinished"] = "half is left" if sys.argv[2] == "micro" else ""
os.write(int(sys.argv[4]), (json.dumps(end) + os.linesep).encode())
"""


def test_kernels_that_fail_are_left_to_torch(tmp_path):
    """Tests that later calls leave the kernels to torch, too, but that checks of kernels do not."""
    steps = [step for step in plan() if step.name in ("profile", "parity mlp", "parity nms", "micro")]
    for at in (steps, steps[-1:]):
        records, command = Records(tmp_path), [sys.executable, "-c", SAYS_ITS_OPS]
        log, deadline = runner.Log(tmp_path / "log"), time.monotonic() + 1000
        runner.Runner(command, os.environ, records, log, deadline, 1, lambda: None).run(at)
    found = [(record["step"], record["verdict"][:10], record["figure"]) for record in records.all]
    assert found == [
        ("profile", "passed", ""), ("parity nms", "passed", ""), ("parity mlp", "FAILED: a ", ""),
        ("micro", "unfinished", "mlp"), ("micro", "unfinished", "mlp"),
    ]  # fmt: skip


def test_rows_of_unfinished_runs_are_continued(tmp_path):
    """Their rows count. Runs that timed out begin again."""
    records = Records(tmp_path / "visit")
    about = {"date": "2026-12-01", "rehearsal": False, "machine": MACHINE}
    records.add({"step": "environment", "kind": "row", "part": "environment", "row": about})
    for verdict, ms in (("unfinished: 2 are left", 1.0), ("FAILED: timed out after 9 s", 2.0), ("", 3.0)):
        row = {**row_of(ms, f"subject {ms:.0f}"), "torch_ops": ["mlp"]}
        records.add({"step": "micro", "kind": "row", "part": "micro", "row": row})
        if verdict:
            records.add({"step": "micro", "kind": "verdict", "verdict": verdict, "figure": "", "seconds": 1.0})
    assert [record["row"]["p50 ms"] for record in unfinished_rows(records.all, "micro")] == [1.0]
    end = {"step": "micro", "kind": "verdict", "verdict": "passed", "figure": "", "seconds": 1.0}
    assert unfinished_rows([*records.all, end], "micro") == []
    (path,) = collect(tmp_path / "visit", tmp_path / "results")
    content = json.loads(path.read_text())
    rows = {row["p50 ms"]: row for row in content["parts"]["micro"]}
    assert "verdict" not in rows[1.0] and "timed out" in rows[2.0]["verdict"] and "timed out" in rows[3.0]["verdict"]
    assert mark(rows[1.0], Report("", "", content)) == " (mlp by torch)"


def test_results_of_several_devices_are_refused(tmp_path):
    folder, results = visit(tmp_path, [])
    about = {"date": "2026-12-01", "rehearsal": False, "machine": {**MACHINE, "device": "NVIDIA H100"}}
    Records(folder).add({"step": "a", "kind": "row", "part": "environment", "row": about})
    with pytest.raises(SystemExit, match="results of NVIDIA H100 and NVIDIA H200; expected one device"):
        collect(folder, results)


def test_wheels_of_missing_packages_are_unpacked(tmp_path, monkeypatch):
    carried = tmp_path / "site"
    for name in ("not_here", "json"):
        with zipfile.ZipFile(tmp_path / f"{name}-1.0-cp311-abi3-any_linux.whl", "w") as file:
            file.writestr(f"{name}/__init__.py", "")
    monkeypatch.setattr(visit_module.platform, "machine", lambda: "linux")
    monkeypatch.setattr(visit_module, "CARRIED", carried)
    visit_module.unpack()
    assert [path.name for path in carried.iterdir()] == ["not_here"]


def test_a_job_knows_its_limit(monkeypatch, visited):
    limits = []
    monkeypatch.setitem(work.JOBS, "micro", lambda _, context: limits.append(context.limit_s) or work.Outcome(True))
    assert visited("--device", "cpu", "--step", "micro", "--limit", "12.5") == 0 and limits == [12.5]


def test_a_visit_that_is_told_to_stop_leaves_a_table_and_no_process(tmp_path):
    out = tmp_path / "out"
    process = started(out, *only("parity norm_linear", "parity linear_gelu"), faults={"parity norm_linear": "hangs"})
    assert wait_until(
        lambda: (out / "log.txt").exists() and "parity norm_linear: begins" in (out / "log.txt").read_text(), 60
    )
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=60)  # also the step's own child, which holds the pipe, is gone
    assert process.returncode == 128 + signal.SIGTERM
    assert "| parity norm_linear | " in printed and (out / "summary.md").exists()


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


def test_steps_have_names_limits_and_questions_of_their_own():
    steps = plan()
    for field in ("name", "question"):
        assert len({getattr(step, field) for step in steps}) == len(steps)
    assert all(0 < step.seconds <= step.limit_s <= BUDGETS_S[0] for step in steps)
    assert all(step.question.endswith("?") for step in steps)


def test_the_two_calls_of_a_visit():
    """Tests the plan's own seconds: kernels are checked before anything else is timed."""
    planned = timetable(plan())
    assert BUDGETS_S[0] < 600 and sum(BUDGETS_S) < 15 * 60
    assert all(0 <= p.begin_s < p.end_s == p.begin_s + p.step.seconds <= BUDGETS_S[min(p.call - 1, 1)] for p in planned)
    first, second, third = ([p.step.name for p in planned if p.call == call] for call in (1, 2, 3))
    checks = [name for name in first if name.startswith("parity ")]
    assert first[2 : 2 + len(checks)] == checks and {f"parity {name}" for name in PARITY} < set(checks)
    assert [*first[:2], *first[2 + len(checks) :]] == [
        *("environment", "profile", "candidates", "micro", "call ahead", "call objects", "call ours", "call images"),
        *("call official", "call peak memory", "mask copies"),
    ]
    assert second == ["real files", "at once", "call stream", "call vos_optimized t"]
    assert third == ["call vos_optimized l"]
    limits = {step.name: step.limit_s for step in plan()}
    assert limits["call vos_optimized t"] == BUDGETS_S[0] and limits["call vos_optimized l"] == 120


def test_the_second_call_begins_with_steps_that_were_not_reached_or_timed_out(tmp_path):
    records = Records(tmp_path)
    ends = {
        "environment": "passed", "profile": "FAILED: a fault", "call vos_optimized t": "FAILED: timed out after 270 s",
        "call vos_optimized l": "not run: no time left", "micro": "unfinished: 40 of 90 cases are left",
    }  # fmt: skip
    for step, verdict in ends.items():
        records.add({"step": step, "kind": "verdict", "verdict": verdict, "figure": "", "seconds": 1.0})
    steps = [step for step in plan() if step.name in (*ends, "real files")]
    found = remaining(steps, records)
    names = ["micro", "real files", "call vos_optimized t", "call vos_optimized l", "profile"]
    assert [step.name for step in found] == names
    assert (found[0].seconds, found[0].limit_s) == (60, 75)
    assert (found[2].seconds, found[2].limit_s) == (RETRY_S, RETRY_S) and found[3].limit_s > RETRY_S


def test_the_official_compiler_has_no_kernels_to_choose_and_a_cache_that_stays(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    found = visit_module._environment(rehearse=False)
    assert {name: found[name] for name in ATEN_ONLY} == dict.fromkeys(ATEN_ONLY, "ATEN") and len(ATEN_ONLY) == 2
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        folder = Path(found[name])
        assert folder.is_relative_to(ROOT)
        ignored = subprocess.run(["git", "check-ignore", "--quiet", str(folder)], cwd=ROOT)
        assert ignored.returncode == 0


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ({"a": 1.2, "b": 3.0}, "`op` is 1.20 to 3.00 times as fast as the fastest alternative: the kernel stays."),
        ({"a": 1.3}, "`op` is 1.30 times as fast as the fastest alternative: the kernel stays."),
        (
            {"a": 1.2, "b": 0.5, "c": 1.0},
            "`op` has at most the speed of the fastest alternative at b (0.50), c (1.00): torch is better.",
        ),
    ],
)
def test_the_sentence_of_a_comparison(ratios, expected):
    comparison = Comparison("op", "torch is better")
    assert comparison.sentence(ratios) == expected
    rows = [{"subject": name, "p50 ms": ms} for name, ms in (("torch", 3.0), ("SDPA", 2.0), ("sam2fast", 9.0))]
    assert work.ratio_of(comparison, rows) == 2 / 9
    assert work.ratio_of(comparison, [*rows, {"subject": "triton", "p50 ms": 1.0}, {"subject": "WRONG"}]) == 2.0
    assert work.ratio_of(comparison, rows[:2]) is work.ratio_of(comparison, rows[2:]) is None


def test_candidates_are_compared_with_the_kernel_that_is_used():
    comparison = CANDIDATES[0]
    rows = [{"subject": name, "p50 ms": ms} for name, ms in
            (("projected values, SDPA", 9.0), ("sam2fast", 2.0), ("sam2fast, specialised", 1.0))]  # fmt: skip
    assert work.ratio_of(comparison, rows) == 2.0


def test_steps_wait_for_what_has_the_machine_for_itself():
    def step(name, seconds, alone=True):
        return Step(name, ("", ""), seconds, seconds, "?", alone)

    beside = [step(name, seconds, False) for name, seconds in (("b", 30), ("c", 20), ("d", 20))]
    steps = [step("a", 10), *beside, step("e", 40), step("f", 5)]
    found = [(p.call, p.begin_s, p.end_s, p.step.name) for p in timetable([*steps, step("g", 39)], (60, 40), jobs=2)]
    assert found == [(1, 0, 10, "a"), (1, 10, 40, "b"), (1, 10, 30, "c"), (1, 30, 50, "d"), (1, 50, 55, "f"),
                     (2, 0, 40, "e"), (3, 0, 39, "g")]  # fmt: skip


def test_the_plan_is_listed(tmp_path):
    command = [sys.executable, str(ROOT / "bench" / "gpu"), "--list", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and not (tmp_path / "out").exists()
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + len(plan()) and lines[1].split()[:5] == ["1", "0", "20", "environment", "How"]


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


MACHINE = {"device": "NVIDIA H200", "gpu": "NVIDIA H200", "torch": "2.11.0", "commit": "0123456789ab"}


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
    later, _ = visit(tmp_path / "later", [("limits", {"copy TB/s": 3.0})])
    (report,) = collect(later, tmp_path / "results")
    assert {"micro", "limits"} <= set(json.loads(report.read_text())["parts"])


def test_rows_have_commit_clocks_and_a_verdict_that_is_no_pass(tmp_path):
    """Those of a step that timed out replace none of a step that did not, in whatever order they ran."""
    records = Records(tmp_path / "visit")
    about = {"date": "2026-12-01", "rehearsal": False, "machine": MACHINE}
    records.add({"step": "environment", "kind": "row", "part": "environment", "row": about})

    def step(name, verdict, *rows):
        for part, row in rows:
            records.add({"step": name, "kind": "row", "part": part, "row": row})
        if verdict:
            records.add({"step": name, "kind": "verdict", "verdict": verdict, "figure": "", "seconds": 1.0})

    suite = suite_row("predict", {"sam2fast": subject(0.5)}) | {"clocks": {"own": 1}}
    late = "FAILED: timed out after 9 s"
    step("micro", "passed", ("micro", row_of(2.0)), ("clocks", {"SM MHz": 7}), ("suite", suite))
    step("micro", late, ("micro", row_of(1.0)), ("micro", row_of(3.0, "torch")), ("suite", {**suite, "note": "late"}))
    step("other", "FAILED: WRONG", ("micro", row_of(4.0, "scipy")))
    step("cut off", "", ("micro", row_of(5.0, "cuDNN")))
    kernels, calls = collect(tmp_path / "visit", tmp_path / "results")
    found = {each["subject"]: each for each in json.loads(kernels.read_text())["parts"]["micro"]}
    assert {name: (each["p50 ms"], each.get("verdict")) for name, each in found.items()} == {
        "triton": (2.0, None), "torch": (3.0, late), "scipy": (4.0, "FAILED: WRONG"),
        "cuDNN": (5.0, "FAILED: timed out with the visit"),
    }  # fmt: skip
    assert found["triton"]["clocks"] == {"SM MHz": 7} and {each["commit"] for each in found.values()} == {
        "0123456789ab"
    }
    (kept,) = json.loads(calls.read_text())["rows"]
    assert (kept["note"], kept["clocks"], kept["commit"]) == ("", {"own": 1}, "0123456789ab") and "verdict" not in kept


@pytest.mark.parametrize("commit", ["0123456789ab-dirty", "another"])
def test_results_of_another_commit_are_not_gone_on_with(tmp_path, monkeypatch, capsys, commit):
    folder, _ = visit(tmp_path, [])
    monkeypatch.setenv("SAM2FAST_COMMIT", MACHINE["commit"])
    visit_module.refuse_other_commits(Records(folder))
    monkeypatch.setenv("SAM2FAST_COMMIT", commit)
    with pytest.raises(SystemExit, match=f"is of 0123456789ab, not of {commit}"):
        visit_module.refuse_other_commits(Records(folder))
    visit_module.refuse_other_commits(Records(tmp_path))
    assert ("There are uncommitted changes" in capsys.readouterr().out) == (commit != "another")


@pytest.fixture
def no_commit(monkeypatch):
    """As in a copy of the tree without git."""
    monkeypatch.delenv("SAM2FAST_COMMIT", raising=False)
    monkeypatch.setattr(machine, "output_of", lambda *command: None)


def test_a_visit_of_no_known_commit_is_refused(tmp_path, monkeypatch, visited, no_commit):
    monkeypatch.setattr(visit_module, "KEPT", tmp_path / "kept")
    for told in (None, ""):
        if told is not None:
            monkeypatch.setenv("SAM2FAST_COMMIT", told)
        with pytest.raises(SystemExit, match="the commit is not known.*git checkout, or set SAM2FAST_COMMIT to"):
            visited("--out", str(tmp_path / "out"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [["--list"], ["--rehearse"], ["--device", "cpu"]])
def test_without_a_commit_what_counts_nowhere_goes_on(tmp_path, monkeypatch, visited, no_commit, options):
    monkeypatch.setattr(visit_module, "KEPT", tmp_path / "kept")
    assert visited("--out", str(tmp_path / "out"), *options) == 0


def test_results_are_in_every_folder(tmp_path):
    records = Records(tmp_path / "kept", tmp_path / "out")
    records.add({"kind": "row", "step": "a"})
    assert read_records(tmp_path / "out" / "results.jsonl") == records.all
    assert Records(tmp_path / "kept", tmp_path / "another").all == records.all
    assert read_records(tmp_path / "another" / "results.jsonl") == records.all


def test_results_that_do_not_say_where_they_are_from_are_refused(tmp_path):
    arguments = visit(tmp_path, [("micro", row_of(2.0))], environment=False)
    with pytest.raises(SystemExit, match="does not say what it was measured on"):
        collect(*arguments)
    with pytest.raises(SystemExit, match="is of a rehearsal"):
        collect(*visit(tmp_path, [], rehearsal=True))
    assert not arguments[1].exists()
