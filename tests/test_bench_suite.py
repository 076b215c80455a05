"""The suite of whole calls: every case and subject has a row, wrong results get no time, result files are whole."""

import argparse
import copy
import json
import subprocess
import sys

import gpu
import pytest
import torch
from suite import __main__ as command
from suite import image_cases, plans, process_cases, subjects, timing, video_cases
from suite.cases import CASES, Case, case_of
from suite.image_cases import unlike_masks
from suite.machine import BENCH, commit, machine
from suite.missing import MissingError
from suite.results import Results
from suite.run import run
from suite.schema import SchemaError, validate, validate_row
from suite.sessions import Sample, worst_error
from suite.subjects import SUBJECTS, Setting
from suite.timing import measure, opened

SETTING = Setting("nano", "fp32", 64, objects=2)
BOTH = ("official", "sam2fast")


class Stand:
    """A session that needs no model; every call takes the next of some seconds."""

    def __init__(self, result=1.0, seconds=(5.0, 3.0, 2.0, 4.0), earlier=(), compile_s=None, fails_after=None):
        self.results = result if callable(result) else lambda call: torch.tensor([[result, 2.0]])
        self.seconds, self.notes, self.earlier_s, self.compile_s = seconds, [], list(earlier), compile_s
        self.peak_mib, self.calls, self.fails_after = None, 0, fails_after

    def prepare(self, setting):
        self.setting = setting

    def call(self):
        if self.calls == self.fails_after:
            raise RuntimeError("out of luck\nand more")
        self.calls += 1
        return Sample(self.seconds[(self.calls - 1) % 4], [self.results(self.calls)])

    def close(self):
        self.closed = True


def case_with(sessions, **kwargs):
    def open_(subject, setting):
        if subject not in sessions:
            raise MissingError("not today")
        return sessions[subject]

    return Case("stand", open_, "nothing", **kwargs)


def row_of(sessions, dtype="fp32", runs=3, asked=SUBJECTS, **kwargs):
    case, setting = case_with(sessions, **kwargs), Setting("nano", dtype, 64)
    with opened(case, setting, asked) as found:
        row = measure(case, setting, runs, found)
    validate_row(json.loads(json.dumps(row)))
    return row


@pytest.mark.parametrize(("patience_s", "rounds"), [(0.0, 2), (1e9, 4), (float("inf"), 4)])
def test_two_rounds_at_least_then_only_while_there_is_patience(patience_s, rounds):
    case, setting = case_with({}), Setting("nano", "fp32", 64)
    row = measure(case, setting, 4, [("sam2fast", Stand(), "")], patience_s=patience_s)
    assert len(row["subjects"]["sam2fast"]["samples_s"]) == rounds


def test_the_plan_of_a_cpu_has_patience_for_each_row():
    assert {one.patience_s for one in plans.cpu()} == {plans.PATIENCE_S}


def test_the_registry_is_complete():
    assert [case.name for case in CASES] == [
        "image encode", "predict", "boxes", "video steady frame", "stream latency", "automatic masks", "cold start",
        "peak memory",
    ]  # fmt: skip
    wanted = {"official", "official vos_optimized", "sam2fast", "sam2fast fast", "sam2fast compiled"}
    assert set(SUBJECTS) == wanted
    assert case_of("boxes").at == ((1, None), (16, None), (64, None))
    video = {(objects, None) for objects in (1, 4, 16)} | {(1, history) for history in (10, 100, 1000)}
    assert set(case_of("video steady frame").at) == video
    assert case_of("stream latency").percentiles


def test_everything_is_listed():
    listed = command.listing()
    for name in (*(case.name for case in CASES), *SUBJECTS, "video-b", "linear 2048x96 to 384 float32"):
        assert f"  {name}" in listed or f" {name} " in listed


def test_every_case_is_planned():
    assert {group.case.name for group in plans.cpu()} == {case.name for case in CASES}
    assert set(plans.GPU_PARTS) == set(gpu.SUITE)
    on_gpu = [group for part in plans.GPU_PARTS.values() for group in part("cuda")]
    assert {group.case.name for group in on_gpu} == {case.name for case in CASES}
    assert {group.setting.device for group in on_gpu} == {"cuda"} and {s for g in on_gpu for s in g.subjects} == set(
        SUBJECTS
    )
    for size, part in (("t", "video-t"), ("s", "video-s"), ("b+", "video-b"), ("l", "video-l")):
        assert {group.setting.size for group in plans.GPU_PARTS[part]("cuda")} == {size}


def test_every_combination_that_is_asked_for():
    groups = plans.asked_for(["video"], ["t", "b+"], ["fp32", "bf16"], [1024], [1, 4, 16], [], [], 2, "cpu")
    assert len(groups) == 4 and {group.at for group in groups} == {((1, None), (4, None), (16, None))}
    assert {group.runs for group in groups} == {2} and {group.setting.image_size for group in groups} == {1024}
    (boxes,) = plans.asked_for(["boxes"], [], [], [], [2], [50], ["sam2fast"], None, "cpu")
    assert boxes.at == ((2, None),) and boxes.subjects == ("sam2fast",)
    (encode,) = plans.asked_for(["encode"], [], [], [], [2], [50], [], None, "cpu")
    assert encode.at == ((None, None),) and encode.subjects == SUBJECTS
    (memory,) = plans.asked_for(["memory"], [], [], [], [], [300], [], None, "cpu")
    assert memory.at == ((4, 300),)


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


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "wrong",
    [
        lambda call: torch.tensor([[1.0, 2.01]]),
        lambda call: torch.tensor([[1.0, 2.0 if call < 3 else 2.01]]),
        lambda call: torch.tensor([[1.0, float("nan")]]),
        lambda call: torch.tensor([[1.0, 2.0, 3.0]]),
    ],
    ids=["always", "later", "no number", "another shape"],
)
def test_a_wrong_result_gets_no_time(wrong, dtype, tmp_path):
    sessions = {"official": Stand(), "sam2fast": Stand(wrong), "sam2fast compiled": Stand()}
    row = row_of(sessions, dtype)
    ours, close = row["subjects"]["sam2fast"], "sam2fast" in row["difference"]
    if dtype == "bf16" and close:  # how far it is is for the reader to judge
        assert len(ours["samples_s"]) == 3 and 1e-3 < row["difference"]["sam2fast"] < 1
        return
    assert ours["samples_s"] == [] and ours["note"].startswith("WRONG") and "sam2fast" not in row["ratio"]
    assert len(row["subjects"]["official"]["samples_s"]) == len(row["subjects"]["sam2fast compiled"]["samples_s"]) == 3
    group = plans.Group(case_with({"official": Stand(), "sam2fast": Stand(wrong)}), SETTING, ((None, None),), 3, BOTH)
    assert not run([group], None)


def test_one_object_s_error_is_not_hidden_by_another_s_logits():
    expected = torch.tensor([[1.0, 2.0], [-1024.0, 1000.0]])
    actual = expected + torch.tensor([[0.001, 0.0], [0.0, 0.0]])
    assert worst_error([expected], [actual]) > 1e-4 > worst_error([expected], [expected])


def test_a_subject_that_fails_does_not_stop_the_others(capsys):
    row = row_of({"official": Stand(), "sam2fast": Stand(fails_after=2), "sam2fast compiled": Stand(fails_after=0)})
    assert row["subjects"]["sam2fast"]["note"] == "FAILED: RuntimeError: out of luck"
    assert row["subjects"]["sam2fast compiled"]["samples_s"] == [] and list(row["ratio"]) == []
    assert len(row["subjects"]["official"]["samples_s"]) == 3
    group = plans.Group(case_with({"official": Stand(), "sam2fast": Stand(fails_after=2)}), SETTING, ((1, 1),), 3, BOTH)
    assert not run([group], None)


def test_compilation_shows_in_the_first_calls():
    """Beyond what these calls take later, and beside what was compiled before them."""
    row = row_of({"sam2fast compiled": Stand(seconds=(10.0, 1.0, 1.0, 1.0), earlier=(6.0, 0.5), compile_s=0.25)})
    assert row["subjects"]["sam2fast compiled"]["compile_s"] == 0.25 + 9 + 5
    row = row_of({"sam2fast fast": Stand(seconds=(10.0, 1.0, 1.0, 1.0), earlier=(6.0,), compile_s=2.0)})
    assert row["subjects"]["sam2fast fast"]["compile_s"] == 2.0


def test_percentiles_of_latencies():
    row = row_of({"sam2fast": Stand(seconds=(0.0, 1.0, 2.0, 9.0))}, runs=3, percentiles=True)
    ours = row["subjects"]["sam2fast"]
    assert (ours["p50_s"], ours["p95_s"], ours["p99_s"]) == (2.0, 9.0, 9.0)
    assert timing._percentile(list(range(1, 101)), 95) == 95


def test_what_is_said_of_a_row(capsys):
    timing.described(row_of({"official": Stand(), "sam2fast": Stand(1.00001)}))
    said = capsys.readouterr().out
    assert "sam2fast: 3 s (2-4), 1.00x (1.00-1.00), difference 5.0e-06" in said and "not today" in said


def test_masks_without_a_counterpart_are_counted():
    def record(rows, iou=0.9):
        mask = torch.zeros(20, 20, dtype=torch.bool).numpy()
        mask[:rows] = True
        return {"segmentation": mask, "predicted_iou": iou, "stability_score": 0.9, "bbox": [0, 0, 20, rows]}

    same = [record(5), record(12)]
    assert unlike_masks(same, list(reversed(same))) == 0 and unlike_masks([], []) == 0
    assert unlike_masks(same, [record(5), record(14)]) == 2 / 4
    assert unlike_masks([*same, record(18, iou=0.3)], same) == 0  # rounding may have carried it across the threshold


def rows(*names):
    made = []
    for name in names:
        made.append({**row_of({"official": Stand(), "sam2fast": Stand()}), "case": name})
    return made


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


def test_an_interrupted_run_leaves_whole_rows(tmp_path, monkeypatch):
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
        run(groups, results)
    content = json.loads(results.path.read_text())
    validate(content)
    assert [row["size"] for row in content["rows"]] == ["t"]

    def full(*_):
        raise OSError("no space")

    monkeypatch.setattr("suite.results.os.replace", full)
    with pytest.raises(OSError, match="no space"):
        results.add({**content["rows"][0], "size": "l"})
    assert json.loads(results.path.read_text()) == content and list(tmp_path.iterdir()) == [results.path]


def test_no_more_is_begun_after_the_limit(capsys):
    group = plans.Group(case_with({"sam2fast": Stand()}), SETTING, ((1, None),), 3, ("sam2fast",))
    assert run([group], None) and not run([group], None, limit_s=-1)
    assert "left out after -1 s: stand, nano fp32, 64 px" in capsys.readouterr().out


BREAKAGES = {
    "date": lambda report: report.update(date="yesterday"),
    "rows": lambda report: report.update(rows={}),
    "unknown field": lambda report: report["rows"][0].update(extra=1),
    "no note": lambda report: report["rows"][0].pop("note"),
    "the same row twice": lambda report: report["rows"].append(report["rows"][0]),
    "dtype": lambda report: report["rows"][0].update(dtype="float32"),
    "objects": lambda report: report["rows"][0].update(objects=0),
    "no subjects": lambda report: report["rows"][0].update(subjects={}, ratio={}, difference={}),
    "median of none": lambda report: report["rows"][0]["subjects"]["sam2fast"].update(samples_s=[]),
    "silent absence": lambda report: report["rows"][0]["subjects"]["sam2fast fast"].update(note=""),
    "wrong minimum": lambda report: report["rows"][0]["subjects"]["sam2fast"].update(min_s=0.5),
    "not a number": lambda report: report["rows"][0]["subjects"]["sam2fast"].update(first_s=float("nan")),
    "text": lambda report: report["rows"][0]["subjects"]["sam2fast"].update(first_s="1"),
    "ratio of nobody": lambda report: report["rows"][0]["ratio"].update({"sam2fast fast": {}}),
    "ratio out of order": lambda report: report["rows"][0]["ratio"]["sam2fast"].update(min=9.0),
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
    results = Results(tmp_path, {})
    results.path.write_text(json.dumps(broken))
    if breakage is not BREAKAGES["not a number"]:
        with pytest.raises(SchemaError):
            Results(tmp_path, {})


def test_the_machine_says_what_was_measured(monkeypatch):
    monkeypatch.setenv("SAM2FAST_COMMIT", "abc")
    assert commit() == machine()["commit"] == "abc" and machine()["torch"] == torch.__version__


def test_who_is_missing_says_so(monkeypatch):
    for name in ("official vos_optimized", "sam2fast fast"):
        with pytest.raises(MissingError, match="for video only"):
            subjects.image_predictor(name, SETTING)
        with pytest.raises(MissingError, match="for CUDA only"):
            subjects.video_predictor(name, SETTING)
    with pytest.raises(MissingError, match="it has no streams"):
        video_cases.Stream("official", SETTING)
    monkeypatch.setattr(subjects.importlib.util, "find_spec", lambda name: None)
    row = measure(case_of("predict"), SETTING, 1, [])
    assert {figures["note"] for figures in row["subjects"].values()} == {"not asked for"}
    with opened(case_of("image encode"), SETTING, ("official",)) as sessions:
        assert sessions == [("official", None, "the official package is not installed")]


def test_without_the_extension_nobody_fills_holes(monkeypatch):
    assert subjects.video_predictor("official", SETTING).predictor.fill_hole_area == 8
    monkeypatch.setattr(subjects, "_official_hole_filling", lambda device: "")
    for name in BOTH:
        built = subjects.video_predictor(name, SETTING)
        assert built.predictor.fill_hole_area == 0 and any("holes are not filled" in note for note in built.notes)


ALL = [case.name for case in CASES[:6]]


@pytest.mark.parametrize(
    ("dtype", "names"),
    [
        pytest.param("fp32", ALL, marks=pytest.mark.slow, id="fp32"),
        pytest.param("bf16", ["predict", "video steady frame"], marks=pytest.mark.long, id="bf16"),
    ],
)
def test_small_runs(dtype, names, tmp_path, monkeypatch):
    monkeypatch.setattr(image_cases, "POINTS_PER_SIDE", 2)
    groups = plans.asked_for(names, ["nano"], [dtype], [64], [2], [12], BOTH, 2, "cpu")
    results = Results(tmp_path, machine())
    assert run(groups, results)
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


def test_history_that_is_not_the_official_one_is_seen(monkeypatch):
    """Our objects get results of other frames than the official ones; their masks then differ."""
    whole = video_cases.OurVideo.refill

    def other_results(self, objects, frames):
        whole(self, objects, frames)
        for tracked in self.state.objects.values():
            results = list(tracked.tracked.values())
            tracked.tracked = dict(zip(tracked.tracked, results[:1] * len(results), strict=True))

    monkeypatch.setattr(video_cases.OurVideo, "refill", other_results)
    with opened(case_of("video steady frame"), SETTING, BOTH) as sessions:
        row = measure(case_of("video steady frame"), SETTING, 1, sessions)
    assert row["subjects"]["sam2fast"]["note"].startswith("WRONG: differs from official by")


@pytest.mark.slow
def test_a_process_of_its_own(tmp_path):
    cold, official = (process_cases.cold_start(name, SETTING) for name in ("sam2fast", "official"))
    samples = []
    for session in (cold, official):
        session.prepare(SETTING)
        samples.append(session.call())
        assert set(samples[-1].parts) == {"import", "build", "first mask"}
        assert abs(sum(samples[-1].parts.values()) - samples[-1].seconds) < 1e-6
    assert worst_error(samples[0].result, samples[1].result) < timing.ALLOWED
    memory = process_cases.peak_memory("sam2fast", SETTING)
    memory.prepare(Setting("nano", "fp32", 64, objects=2, history=3))
    assert memory.call().result[0].shape == (2, 64, 64) and 50 < memory.peak_mib < 5000
    with pytest.raises(RuntimeError, match="its process failed: .*nonsense"):
        process_cases._run({**memory.order, "what": "nonsense"})


def test_nothing_of_weight_is_imported_before_the_clock():
    code = "import suite.own_process, sys; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=BENCH).returncode == 0


def test_the_command(tmp_path, capsys):
    arguments = ["--only", "predict", "--size", "nano", "--image-size", "64", "--runs", "1", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        command.main([*arguments, "--subject", "sam2fast"])
    assert ended.value.code == 0
    (path,) = tmp_path.iterdir()
    validate(json.loads(path.read_text()))
    with pytest.raises(SystemExit, match="nothing to measure: no case has 'nonsense' in its name"):
        command.main(["--only", "nonsense"])
    for wrong in (["--runs", "0"], ["--subject", "nobody"]):
        with pytest.raises(SystemExit) as ended:
            command.main(wrong)
        assert ended.value.code == 2


def test_parts_for_a_gpu(tmp_path, monkeypatch):
    arguments = argparse.Namespace(part="amg", device="cpu", only="nonsense", out=tmp_path)
    with pytest.raises(SystemExit, match="nothing to measure"):
        gpu.whole_calls(arguments)
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="no CUDA here"):
            command.main(["--part", "video-t"])
