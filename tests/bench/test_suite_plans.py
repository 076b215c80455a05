"""What the suite of whole calls measures when it is asked to: plans, steps for a GPU, their rehearsals, the command."""

import json
import subprocess
import sys

import pytest
import torch
from gpu import steps
from suite import __main__ as command
from suite import plans, subjects
from suite.machine import BENCH
from suite.plans import CASES
from suite.results import validate
from suite.subjects import SUBJECTS
from suite.timing import run

from sam2fast.tracking.propagation import frames_at_once

STEPS = [step.job[1] for step in steps.plan() if step.job[0] == "call"]


def test_every_case_is_planned():
    assert {group.case.name for group in plans.cpu()} == {case.name for case in CASES}
    on_gpu = [group for name in STEPS for group in plans.step(name, "cuda")]
    assert {group.case.name for group in on_gpu} >= {case.name for case in CASES if case.is_profiled}
    assert {group.case for group in on_gpu} >= set(plans.VARIANTS)
    assert {(group.setting.device, group.setting.dtype) for group in on_gpu} == {("cuda", "bf16")}
    assert {group.setting.size for group in on_gpu} == {"t", "s", "b+", "l"}


def test_steps_of_the_compiled_predictor_stand_alone_and_later():
    """A visit that ends early has the others' rows, which they replace."""
    compiling = [
        name for name in STEPS if any(set(g.subjects) & set(subjects.COMPILED) for g in plans.step(name, "cuda"))
    ]
    assert compiling == ["vos_optimized t", "vos_optimized l"]
    for name in compiling:
        (compiled,) = plans.step(name, "cuda")
        assert compiled.subjects == ("official", "official vos_optimized", "sam2fast")
        assert any(
            (group.case, group.setting, group.at) == (compiled.case, compiled.setting, compiled.at)
            for group in plans.step("official", "cuda")
        )
        assert STEPS.index("official") < STEPS.index(name)


def test_a_rehearsal_has_every_call_of_a_step_and_is_small():
    for name in STEPS:
        planned, rehearsed = plans.step(name, "cuda"), plans.rehearsal(name)
        assert [(g.case, g.subjects, g.setting.dtype, g.interleaved) for g in planned] == [
            (g.case, g.subjects, g.setting.dtype, g.interleaved) for g in rehearsed
        ]
        for group in rehearsed:
            assert (group.setting.size, group.setting.device, group.runs) == ("nano", "cpu", 1)
            assert group.setting.image_size <= 256 and group.setting.frames == 3
            assert all((objects or 0) <= 2 and (history or 0) <= 10 for objects, history in group.at)


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_rehearsals(name):
    """On a CPU as it will be on a GPU, without what only that has."""
    kept = []
    assert run(plans.rehearsal(name), kept.append)
    assert len(kept) == sum(len(group.at) for group in plans.rehearsal(name))
    for row in kept:
        left_out = {name for name, figures in row["subjects"].items() if not figures["samples_s"]}
        notes = {row["subjects"][name]["note"] for name in left_out}
        assert notes <= {"not asked for", "for CUDA only"} and "sam2fast" not in left_out


def test_variants_of_throughput_have_rows_of_their_own():
    groups = [group for name in ("ahead", "ours", "objects", "official") for group in plans.step(name, "cuda")]
    keys = [(group.case.name, group.setting.size, group.setting.image_size) for group in groups]
    assert len(set(keys)) == len(keys) == 4 + 3 + 2 + 4
    assert [group.interleaved for group in groups] == [True] * 4 + [False] * 9
    assert {group.at for group in plans.step("objects", "cuda")} == {((1, None), (4, None), (16, None), (64, None))}


def test_throughput_on_a_gpu_is_of_whole_batches():
    """Of frames that are encoded at once: four, or as many as a variant says."""
    groups = [group for name in STEPS for group in plans.step(name, "cuda") if plans.THROUGHPUT in group.case.name]
    assert {(group.setting.frames or plans.MEASURED_TOGETHER) % 8 for group in groups} == {0}
    assert frames_at_once(None, torch.device("cuda")) == 4


def test_variants_change_our_predictor():
    setting = subjects.Setting("nano", "fp32", 64, objects=1, frames=2)
    usual, ahead = (case.open("sam2fast", setting) for case in (plans.ALONE, plans.AHEAD[2]))
    assert [session.tracked.encode_ahead for session in (usual, ahead)] == [None, 4]
    asked = []
    ahead.tracked.predictor.propagate_in_video = lambda state, **how: asked.append(how["encode_ahead"]) or iter(())
    ahead.tracked.passes(0)
    assert asked == [4]


def asked_for(*arguments):
    return plans.asked_for(command.parsed(arguments))


def test_every_combination_that_is_asked_for():
    objects = [word for count in (1, 4, 16) for word in ("--objects", str(count))]
    models = ("--size", "t", "--size", "b+", "--dtype", "fp32", "--dtype", "bf16")
    groups = asked_for("--only", "steady", *models, *objects, "--image-size", "1024", "--runs", "2")
    assert len(groups) == 4 and {group.at for group in groups} == {((1, None), (4, None), (16, None))}
    assert {group.runs for group in groups} == {2} and {group.setting.image_size for group in groups} == {1024}
    counts = ("--objects", "2", "--history", "50")
    (boxes,) = asked_for("--only", "boxes", *counts, "--subject", "sam2fast")
    assert boxes.at == ((2, None),) and boxes.subjects == ("sam2fast",)
    (encode,) = asked_for("--only", "encode", *counts)
    assert encode.at == ((None, None),) and encode.subjects == SUBJECTS
    frames = [asked_for("--only", "throughput", *rest)[0].setting.frames for rest in
              ((), ("--device", "cuda"), ("--frames", "5"))]  # fmt: skip
    assert frames == [plans.CPU_FRAMES, None, 5]
    (memory,) = asked_for("--only", "memory", "--history", "300")
    assert memory.at == ((4, 300),)


WITHOUT = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"omegaconf", "hydra", "iopath", "sam2", "av", "scipy"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "sam2" else find_spec(name, *rest)
from suite import __main__, plans
from suite.timing import run
rows = []
names = ("images", "official", "ahead", "peak memory")
right = [run(plans.rehearsal(name), rows.append) for name in names]
assert right == [False] * len(names), right
for row in rows:
    assert row["subjects"]["sam2fast"]["note"] == "not run: omegaconf is missing", row["subjects"]["sam2fast"]
    expected = {f"video throughput, encode_ahead {count}": "not asked for" for count in (1, 2, 4, 8)}
    official = expected.get(row["case"], "the official package is not installed")
    assert row["subjects"]["official"]["note"] == official, row["subjects"]["official"]
"""


def test_without_what_packages_are_built_with_rows_say_what_is_missing():
    done = subprocess.run([sys.executable, "-c", WITHOUT], cwd=BENCH, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_command(tmp_path, capsys):
    arguments = ["--only", "predict", "--size", "nano", "--image-size", "64", "--runs", "1", "--out", str(tmp_path)]
    with pytest.raises(SystemExit) as ended:
        command.main([*arguments, "--subject", "sam2fast"])
    assert ended.value.code == 0
    (path,) = tmp_path.iterdir()
    validate(json.loads(path.read_text()))
    with pytest.raises(SystemExit, match="nothing to measure: no case has 'nonsense' in its name"):
        command.main(["--only", "nonsense"])
    with pytest.raises(SystemExit):
        command.main(["--runs", "0"])
    capsys.readouterr()
    command.main(["--list"])
    listed = capsys.readouterr().out.splitlines()
    for name in (*(f"{case.name}: {case.note}" for case in CASES), *SUBJECTS):
        assert f"  {name}" in listed
