"""Launch configurations: candidates are judged and timed, and the best is kept in a file."""

import json
import time

import backend_calls
import pytest
import torch
import tune
import tuning_faults
import tuning_trials
from bench_cases import small_case
from kernel_records import RECORDS, SEARCHES, cases, small_cases
from registry import Search, configured, expectation
from tuning_trials import NO_TIME, Attempt, Judges, Subject

from sam2fast.kernels._launch import TABLE_VARIABLE

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """A rehearsal has kernels measured on the CPU in this process from then on."""
    monkeypatch.setattr(backend_calls, "interpreted", False)


def search_of(op, dtype="*", shape="*"):
    return next(search for search in SEARCHES if (search.op, search.dtype, search.shape) == (op, dtype, shape))


class TestTuning:
    """With stand-ins for the GPU: what candidates take is said by the tests."""

    @pytest.fixture(autouse=True)
    def stand_ins(self, tmp_path, monkeypatch):
        self.path, self.rows, self.wrong, self.timed = tmp_path / "table.json", [], lambda attempt: "", []
        monkeypatch.setenv(TABLE_VARIABLE, str(self.path))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(tune, "architecture", lambda device: "sm_90")
        monkeypatch.setattr(tune, "subjects", lambda *_: [Subject(small_case(), {"torch": lambda: None})])
        monkeypatch.setattr(tune, "device_time", lambda *_: (2.0, "clock"))
        monkeypatch.setattr(tune, "times", self.times)
        monkeypatch.setattr(tune, "Judges", self.judges)

    def judges(self, *arguments):
        test = self

        class Stand:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

            def judge(self, search, attempts, deadline):
                return [test.wrong(attempt) for attempt in attempts]

        return Stand()

    def times(self, search, attempt, prepared, device, budget_s, least):
        self.timed.append((attempt, budget_s))
        return {small_case().name: 2.0 * self.time_of(attempt)}, {"graph replay"}

    def run(self, search, time_of, **more):
        self.time_of = time_of
        return tune.run(search, CUDA, self.rows.append, **more)

    @property
    def after(self):
        return json.loads(self.path.read_text())

    def changed(self, op):
        """The rows of the file, which are all of this op."""
        assert list(self.after) == [op]
        return self.after[op]

    def test_the_fastest_right_candidate_is_stored(self):
        search = search_of("connected_components")
        self.wrong = lambda attempt: "WrongResultError: by 1" if attempt.meta["BLOCK"] == 1024 else ""
        assert self.run(search, lambda attempt: attempt.options["num_warps"] / attempt.meta["BLOCK"])
        (row,) = self.changed("connected_components")
        assert [row[key] for key in ("arch", "dtype", "shape")] == ["sm_90", "*", "*"]
        assert row["meta"] == {"BLOCK": 512} and row["options"] == {"num_warps": 4}
        *candidates, last = self.rows
        wrong = [r for r in candidates if r["correct"] is not True]
        assert {r["meta"]["BLOCK"] for r in wrong} == {1024} and wrong[0]["correct"] == "WrongResultError: by 1"
        assert all(r["relative time"] is None for r in wrong)
        first = [r for r in candidates if r.get("round") == 1]
        assert len(first) + len(wrong) == last["candidates"] == len(search.candidates)
        assert first[0]["meta"] == {"BLOCK": 512} and first[0]["timed by"] == ["graph replay"]
        assert last["stored"] == {"op": "connected_components", **row} and last["right"] == len(first)
        assert last["before"] == {"meta": {"BLOCK": 512}, "options": {"num_warps": 16}}
        assert last["speedup"] == pytest.approx(4.0)
        assert all(json.dumps(r) for r in self.rows)

    def test_the_stored_row_stays_unless_another_is_faster(self):
        search, stored = search_of("connected_components"), {"BLOCK": 512}
        assert self.run(search, lambda attempt: 1.0 if attempt.meta == stored else 0.995)
        (row,) = self.changed("connected_components")
        assert row["meta"] == stored and row["arch"] == "sm_90" and self.rows[-1]["speedup"] == 1.0
        assert self.run(search, lambda attempt: 1.0 if attempt.meta == stored else 0.9)
        assert self.after["connected_components"][-1]["meta"] != stored
        assert self.rows[-1]["speedup"] == pytest.approx(1 / 0.9)

    def test_a_search_that_fails_costs_itself(self, monkeypatch, capsys):
        """All candidates of one are wrong, another one ends with an error."""
        run = tune.run
        broken = lambda search, *rest: run(search, *rest) if search.op != "nms" else 1 / 0  # noqa: E731
        monkeypatch.setattr(tune, "run", broken)
        self.wrong = lambda attempt: "RuntimeError: no" if "ELEMENTS" in attempt.meta else ""
        self.time_of = lambda attempt: 1 / attempt.meta.get("BLOCK", 1)
        ops = ("nms", "layer_norm", "connected_components", "preprocess")
        arguments = [text for op in ops for text in ("--op", op)]
        monkeypatch.setattr("sys.argv", ["tune.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            tune.main()
        assert ended.value.code == 1
        printed = capsys.readouterr()
        assert "no candidate of layer_norm * * gives the right result" in printed.out
        assert "nms * *: ZeroDivisionError" in printed.err
        assert set(self.after) == {"connected_components", "preprocess"}
        for op in ("connected_components", "preprocess"):
            assert self.after[op][-1]["meta"]["BLOCK"] == {"preprocess": 512}.get(op, 1024)

    @pytest.mark.parametrize(("fastest", "sdpa"), [("kernel", 0), ("torch", 1), ("flash", 2), ("cudnn", 3)])
    def test_whole_maps_are_left_to_torch_if_it_is_faster(self, fastest, sdpa):
        """By the backend that is the fastest; the numbers are those of the best kernel."""

        def time_of(attempt):
            if attempt.by_kernel:
                return (1.0 if fastest != "kernel" else 0.01) * attempt.meta["BLOCK_N"] / attempt.options["num_stages"]
            return 0.5 if attempt.meta["SDPA"] == sdpa else 1.0

        assert self.run(search_of("window_attention", "bfloat16", "global"), time_of)
        (row,) = self.changed("window_attention")
        assert (row["arch"], row["shape"], row["meta"]["SDPA"]) == ("sm_90", "global", sdpa)
        assert row["meta"]["BLOCK_N"] == 32 and row["options"]["num_stages"] == 3
        assert {a.meta["SDPA"] for a, _ in self.timed if not a.by_kernel} == {1, 2, 3}

    def test_timing_ends_at_the_deadline(self, monkeypatch):
        """What was timed until then decides."""
        now = [0.0]
        monkeypatch.setattr(time, "monotonic", lambda: now[0])

        def time_of(attempt):
            now[0] += 1
            return 1 / attempt.meta["BLOCK"] / attempt.options["num_warps"]

        assert self.run(search_of("connected_components"), time_of, deadline=4.0)
        assert len(self.timed) == 4 and self.rows[-1]["timed"] == 4 and self.rows[-1]["out of time"]
        best = min((attempt for attempt, _ in self.timed), key=lambda a: 1 / a.meta["BLOCK"] / a.options["num_warps"])
        assert self.rows[-1]["stored"]["meta"] == best.meta

    def test_results_go_to_a_file_of_their_own(self, monkeypatch, tmp_path, capsys):
        own = tmp_path / "out" / "own.json"
        monkeypatch.setattr(tune, "TABLE", own)
        monkeypatch.delenv(TABLE_VARIABLE)
        search = search_of("connected_components")
        self.run(search, lambda attempt: 1 / attempt.meta["BLOCK"], small=True)
        assert json.loads(own.read_text()) == {} and capsys.readouterr().out == ""  # a rehearsal
        self.run(search, lambda attempt: 1 / attempt.meta["BLOCK"])
        (row,) = json.loads(own.read_text())["connected_components"]
        assert row["meta"] == {"BLOCK": 1024} and not self.path.exists()
        said = "connected_components: config('sm_90', '*', '*'): {'BLOCK': 512}, {'num_warps': 16} -> {'BLOCK': 1024}, "
        assert capsys.readouterr().out.startswith(said)


class TestCandidates:
    def test_the_stored_row_comes_first_and_each_once(self):
        for search in SEARCHES:
            for arch in ("sm_90", "sm_80", "cpu"):
                stored = configured(search.op, arch, search.dtype, search.shape)
                found = tune.attempts_of(search, stored)
                assert found[0].options == stored.options and {**stored.meta, **found[0].meta} == found[0].meta
                assert len({json.dumps(each, sort_keys=True) for each in found}) == len(found) <= 45
                small = tune.attempts_of(search, stored, small=True)
                assert len(small) == 2 and small[0] == found[0] and small[1].by_kernel

    def test_every_op_is_tuned_where_cases_are(self):
        assert set(RECORDS) == {search.op for search in SEARCHES}
        for source in (cases, small_cases):
            measured = {(case.op, case.dtype, case.launch) for case in source()}
            for search in SEARCHES:
                assert search.candidates, f"there are no candidates for {search.name}"
                assert any(
                    op in search.cases and search.dtype in ("*", dtype) and search.shape == launch
                    for op, dtype, launch in measured
                ), f"no case of {source.__name__}() decides on {search.name}"
        for op, record in RECORDS.items():
            searched = {search.shape: search for search in SEARCHES if search.op == op}
            shapes = {call.shape for call in record.launched()}
            assert shapes - {"*"} <= set(searched), op
            if op in ("run_lengths", "nms"):
                for shape in shapes:
                    meta, options = configured(op, "sm_90", "uint8", shape)
                    assert (dict(meta), dict(options)) in searched[shape].candidates


def test_what_is_expected_to_be_fastest_is_tried_first():
    """After the configuration in force: torch's attention after our rotation."""
    found = {}
    for shape in ("256x64", "256x256"):
        search = search_of("memory_attention", "bfloat16", shape)
        stored = configured("memory_attention", "sm_90", "bfloat16", shape)
        attempts = tune.attempts_of(search, stored)
        found[shape] = [(a.by_kernel, a.meta.get("SDPA")) for a in attempts]
    assert found["256x64"][:2] == [(True, None), (True, None)]
    assert found["256x256"][:4] == [(False, 3), (False, 2), (True, 0), (True, 0)]


class TestJudging:
    def test_a_candidate(self, monkeypatch):
        case, search = small_case(), Search("connected_components", "*", "*", [], ("linear",))
        calls = dict(case.prepare(CPU))
        right, expected = calls["sam2fast"], [expectation(case, calls, CPU)]
        attempt = Attempt({"BLOCK": 64}, {})
        judge = lambda **more: tuning_trials.judge(  # noqa: E731
            search, attempt, [Subject(case, {"torch": right, **more})], expected, CPU
        )
        assert judge(triton=right) == "the kernel of connected_components was not launched"
        assert "WrongResultError" in judge(triton=lambda: right() + 1)

        def counted():
            tuning_trials.launches["connected_components"] += 1
            return right()

        monkeypatch.setattr(tuning_trials, "launches", type(tuning_trials.launches)())
        assert judge(triton=counted) == ""
        attempt = Attempt({"SDPA": 3}, {}, False)
        monkeypatch.setattr(tuning_trials, "refused", set())
        refusing = {"torch": right, "sam2fast": lambda: tuning_trials.refused.add("a shape") or right()}
        found = tuning_trials.judge(search, attempt, [Subject(case, refusing)], expected, CPU)
        assert found == "cuDNN refused, and torch chose another way"

        taken, ways = tuning_trials.times(search, attempt, [Subject(case, {"sam2fast": right})], CPU, 0.0, 1)
        assert list(taken) == [case.name] and taken[case.name] > 0 and ways == {"clock"}

    def test_a_candidate_that_ends_its_process_costs_itself(self):
        """One after the other in one process, which is started again where it must be."""
        order = [getattr(tuning_faults, name) for name in
                 ("RIGHT", "FATAL", "WRONG", "SLOW", "REFUSED", "UNLAUNCHED", "RIGHT")]  # fmt: skip
        attempts = [Attempt({"ELEMENTS": fault}, {"num_warps": 4}) for fault in order]
        with Judges("cpu", "tuning_faults:faulty_cases", count=1, seconds=4.0) as judges:
            right, fatal, wrong, slow, refused, unlaunched, last = judges.judge(search_of("layer_norm"), attempts)
            assert judges.judge(search_of("layer_norm"), attempts[:1], time.monotonic() - 1) == [NO_TIME]
        assert right == last == ""
        assert fatal == "the process ended with -6"
        assert wrong.startswith("WrongResultError") and slow == "no answer in 4 s"
        assert refused == "RuntimeError: out of resources"
        assert unlaunched == "the kernel of layer_norm was not launched"


def test_a_rehearsal(triton_device, tmp_path, monkeypatch):
    """By processes and the interpreter, into a table of its own."""
    if triton_device.type != "cpu":
        pytest.skip("the rehearsal is for machines without a GPU")
    path, rows = tmp_path / "table.json", []
    monkeypatch.setenv(TABLE_VARIABLE, str(path))
    (search,) = (search for search in SEARCHES if search.name == "window_attention bfloat16 global")
    assert tune.run(search, CPU, rows.append, small=True)
    assert rows[-1]["right"] == rows[-1]["timed"] == rows[-1]["candidates"] == 2
    assert json.loads(path.read_text())[search.op][-1]["arch"] == "cpu" and rows[-1]["stored"]


TABLE = {"nms": [{"arch": "*", "dtype": "*", "shape": "*", "meta": {"A": 1}, "options": {"num_warps": 4}}]}
ROW = {"op": "nms", "arch": "sm_90", "dtype": "*", "shape": "*", "meta": {"A": 2}, "options": {"num_warps": 8}}


def test_tuned_rows_replace_those_of_the_same_gpu():
    once = tune.merged(TABLE, [ROW])
    assert [row["arch"] for row in once["nms"]] == ["*", "sm_90"] and len(TABLE["nms"]) == 1
    twice = tune.merged(once, [{**ROW, "meta": {"A": 3}}])
    assert [row["meta"] for row in twice["nms"]] == [{"A": 1}, {"A": 3}]
    assert json.loads(tune.text_of(twice)) == twice
    assert tune.merged({}, [ROW])["nms"] == once["nms"][1:] and json.loads(tune.text_of({})) == {}
