"""The suite of whole calls: every case and subject has a row, wrong results get no time, result files are whole."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from bench_stands import BOTH, SETTING, Stand, case_with, row_of, rows
from suite import __main__ as command
from suite import plans, process_cases, sessions, subjects, timing, video_cases
from suite.machine import BENCH, machine
from suite.missing import MissingError
from suite.plans import CASES, case_of
from suite.results import Results, SchemaError, validate
from suite.sessions import worst_error
from suite.subjects import SUBJECTS, Setting
from suite.timing import Measured, measure, opened, run


@pytest.mark.parametrize(("patience_s", "rounds"), [(0.0, 2), (1e9, 4), (float("inf"), 4)])
def test_two_rounds_at_least_then_only_while_there_is_patience(patience_s, rounds):
    case, setting = case_with({}), Setting("nano", "fp32", 64)
    (row,) = measure([Measured(case, setting, [("sam2fast", Stand(), "")])], 4, patience_s=patience_s)
    assert len(row["subjects"]["sam2fast"]["samples_s"]) == rounds


def test_a_row_has_every_subject():
    row = row_of({"official": Stand(), "sam2fast": Stand(seconds=(9.0, 1.5, 2.0, 1.0))})
    assert list(row["subjects"]) == list(SUBJECTS)
    ours = row["subjects"]["sam2fast"]
    assert ours["samples_s"] == [1.5, 2.0, 1.0] and ours["first_s"] == 9.0
    assert (ours["median_s"], ours["min_s"], ours["max_s"], ours["compile_s"]) == (1.5, 1.0, 2.0, None)
    assert row["ratio"] == {"sam2fast": {"median": 2.0, "min": 1.0, "max": 4.0}}
    assert row["difference"] == {"sam2fast": 0.0}
    assert row["subjects"]["sam2fast fast"]["note"] == "not today"
    assert row_of({"sam2fast": Stand()}, asked=["sam2fast"])["subjects"]["official"]["note"] == "not asked for"
    assert "host_s" not in ours and row_of({"sam2fast": Stand(host_s=0.25)})["subjects"]["sam2fast"]["host_s"] == 0.25


def test_a_subject_that_fails_does_not_stop_the_others(capsys):
    row = row_of({"official": Stand(), "sam2fast": Stand(fails_after=2), "sam2fast compiled": Stand(fails_after=0)})
    assert row["subjects"]["sam2fast"]["note"] == "FAILED: RuntimeError: out of luck"
    assert row["subjects"]["sam2fast compiled"]["samples_s"] == [] and list(row["ratio"]) == []
    assert len(row["subjects"]["official"]["samples_s"]) == 3
    group = plans.Group(case_with({"official": Stand(), "sam2fast": Stand(fails_after=2)}), SETTING, ((1, 1),), 3, BOTH)
    assert not run([group])


def test_compilation_shows_in_the_first_calls():
    """Beyond what these calls take later, and beside what was compiled before them."""
    row = row_of({"sam2fast compiled": Stand(seconds=(10.0, 1.0, 1.0, 1.0), earlier=(6.0, 0.5), compile_s=0.25)})
    assert row["subjects"]["sam2fast compiled"]["compile_s"] == 0.25 + 9 + 5
    row = row_of({"sam2fast fast": Stand(seconds=(10.0, 1.0, 1.0, 1.0), earlier=(6.0,), compile_s=2.0)})
    assert row["subjects"]["sam2fast fast"]["compile_s"] == 2.0


def test_a_row_measured_again_replaces_its_own_and_no_other(tmp_path):
    first, second = rows("a", "b")
    Results(tmp_path, {"cpu": "x"}).add(first)
    results = Results(tmp_path, {"cpu": "y"})
    results.add(second)
    results.add({**first, "note": "again"})
    results.add({**first, "objects": 3})
    content = json.loads(results.path.read_text())
    validate(content)
    assert [(row["case"], row["objects"], row["note"]) for row in content["rows"]] == [
        ("a", None, "again"), ("b", None, "nothing"), ("a", 3, "nothing"),
    ]  # fmt: skip
    assert results.path.name.startswith("suite-cpu-2") and content["machine"] == {"cpu": "y"}
    assert Results(tmp_path, {"gpu": "NVIDIA H200"}).path.name.startswith("suite-nvidia-h200-2")


def test_an_interrupted_run_leaves_whole_rows(tmp_path):
    def interrupted(call):
        if call > 2:
            raise KeyboardInterrupt
        return torch.ones(1, 2)

    groups = [
        plans.Group(case_with({"sam2fast": Stand(result)}), Setting(size, "fp32", 64), ((1, None),), 3, ("sam2fast",))
        for size, result in (("t", 1.0), ("s", interrupted))
    ]
    results = Results(tmp_path, {})
    with pytest.raises(KeyboardInterrupt):
        run(groups, results.add)
    content = json.loads(results.path.read_text())
    validate(content)
    assert [row["size"] for row in content["rows"]] == ["t"]


BREAKAGES = {
    "unknown field": lambda report: report["rows"][0].update(extra=1),
    "no note": lambda report: report["rows"][0].pop("note"),
    "the same row twice": lambda report: report["rows"].append(report["rows"][0]),
    "dtype": lambda report: report["rows"][0].update(dtype="float32"),
    "no subjects": lambda report: report["rows"][0].update(subjects={}, ratio={}, difference={}),
    "median of none": lambda report: report["rows"][0]["subjects"]["sam2fast"].update(samples_s=[]),
    "silent absence": lambda report: report["rows"][0]["subjects"]["sam2fast fast"].update(note=""),
    "not a number": lambda report: report["rows"][0]["subjects"]["sam2fast"].update(first_s=float("nan")),
    "ratio of nobody": lambda report: report["rows"][0]["ratio"].update({"sam2fast fast": {}}),
    "difference": lambda report: report["rows"][0]["difference"].update(sam2fast=None),
}


@pytest.mark.parametrize("breakage", BREAKAGES.values(), ids=BREAKAGES)
def test_what_is_not_of_the_form_is_refused(breakage, tmp_path):
    report = {"date": "2026-11-21", "machine": machine(), "rows": rows("a", "b")}
    validate(report)
    broken = copy.deepcopy(report)
    breakage(broken)
    with pytest.raises(SchemaError, match="expected"):
        validate(broken)
    Results(tmp_path, {}).path.write_text(json.dumps(broken))
    with pytest.raises(SchemaError):
        Results(tmp_path, {})


def test_who_is_missing_says_so(monkeypatch):
    for name in ("official vos_optimized", "sam2fast fast"):
        with pytest.raises(MissingError, match="for video only"):
            subjects.image_predictor(name, SETTING)
        with pytest.raises(MissingError, match="for CUDA only"):
            subjects.video_predictor(name, SETTING)
    with pytest.raises(MissingError, match="it has no streams"):
        video_cases.Stream("official", SETTING)
    monkeypatch.setattr(subjects.importlib.util, "find_spec", lambda name: None)
    (row,) = measure([Measured(case_of("predict"), SETTING, [])], 1)
    assert {figures["note"] for figures in row["subjects"].values()} == {"not asked for"}
    with opened(case_of("image encode"), SETTING, ("official",)) as sessions:
        assert [found[:3] for found in sessions] == [("official", None, "the official package is not installed")]


def test_without_the_extension_nobody_fills_holes(monkeypatch):
    assert subjects.video_predictor("official", SETTING).predictor.fill_hole_area == 8
    monkeypatch.setattr(subjects, "_official_hole_filling", lambda device: "")
    for name in BOTH:
        built = subjects.video_predictor(name, SETTING)
        assert built.predictor.fill_hole_area == 0 and any("holes are not filled" in note for note in built.notes)


ALL = [case.name for case in CASES[:7]]


@pytest.mark.parametrize(
    ("dtype", "names"),
    [
        pytest.param("fp32", ALL, marks=pytest.mark.slow, id="fp32"),
        pytest.param("bf16", ["predict", "video steady frame"], id="bf16"),
    ],
)
def test_small_runs(dtype, names, tmp_path, monkeypatch):
    monkeypatch.setattr(sessions, "POINTS_PER_SIDE", 2)
    texts = {"only": names, "subject": BOTH, "dtype": [dtype], "size": ["nano"]}
    numbers = {"image-size": 64, "objects": 2, "history": 12, "runs": 2, "frames": 3}
    chosen = [f"--{name}={value}" for name, values in texts.items() for value in values]
    chosen += [f"--{name}={value}" for name, value in numbers.items()]
    groups = plans.asked_for(command.parsed(chosen))
    results = Results(tmp_path, machine())
    assert run(groups, results.add)
    content = json.loads(results.path.read_text())
    validate(content)
    assert [row["case"] for row in content["rows"]] == names
    for row in content["rows"]:
        alone = row["case"] == "stream latency"
        assert set(row["ratio"]) == set(row["difference"]) == (set() if alone else {"sam2fast"})
        assert row["dtype"] == "bf16" or all(value <= timing.ALLOWED for value in row["difference"].values())
        assert len(row["subjects"]["sam2fast"]["samples_s"]) == 2
    (video,) = (row for row in content["rows"] if row["case"] == "video steady frame")
    assert (video["objects"], video["history"]) == (2, 12)
    assert "12 frames before" in video["subjects"]["official"]["note"]


@pytest.mark.slow
def test_a_process_of_its_own(tmp_path):
    cold, official = (process_cases.cold_start(name, SETTING) for name in ("sam2fast", "official"))
    samples = []
    for session in (cold, official):
        session.prepare(SETTING)
        samples.append(session.call())
    assert worst_error(samples[0].result, samples[1].result) < timing.ALLOWED
    memory = process_cases.peak_memory("sam2fast", SETTING)
    memory.prepare(Setting("nano", "fp32", 64, objects=2, history=3))
    assert memory.call().result[0].shape == (2, 64, 64) and 50 < memory.peak_mib < 5000
    with pytest.raises(RuntimeError, match="its process failed: .*nonsense"):
        process_cases._run({**memory.order, "what": "nonsense"})


def test_nothing_of_weight_is_imported_before_the_clock():
    code = "import suite.own_process, sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=BENCH).returncode == 0
