"""Tests steps of a visit to a GPU without one: profiles, clocks, memory of graphs, calls."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from backend_calls import RefusedError, forced
from fake_cuda import fake_cuda
from gpu import device_state, frame_profile, graph_memory, work
from gpu.frame_profile import Event
from gpu.steps import ATEN_ONLY
from gpu.work import Context
from inputs import Windowed
from kernel_records import memory_attention, window_attention
from kernel_records.memory_attention import self_attention_case
from kernel_records.window_attention import window_case
from recorded_ops import CalledAgain
from registry import WrongResultError, check
from suite import machine, plans, timing
from suite.plans import ALONE, case_of, group
from suite.subjects import Setting

from sam2fast.kernels import _launch
from sam2fast.kernels._dispatch import current_backend
from sam2fast.kernels._sdpa import CUDNN
from sam2fast.profiling import limits
from sam2fast.profiling.limits import Limits
from sam2fast.sam2_image_predictor import SAM2ImagePredictor

ROOT = Path(__file__).resolve().parents[2]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")

# Two frames: on stream 7 two kernels each, on stream 9 a copy that runs beside the first.
EVENTS = [
    Event("attend", 7, 0.0, 10.0), Event("Memcpy DtoH", 9, 2.0, 12.0), Event("norm", 7, 13.0, 15.0),
    Event("attend", 7, 20.0, 32.0), Event("norm", 7, 33.0, 35.0), Event("attend", 7, 40.0, 50.0),
]  # fmt: skip


def test_a_profile_has_durations_and_gaps_of_each_kernel():
    every, attend, copy, norm = frame_profile.rows_of(EVENTS, frames=2)
    assert (every["kernel"], every["frames"], every["calls"]) == ("all", 2, 3)
    # Busy from 0 to 12, 13 to 15, 20 to 32, 33 to 35 and 40 to 50; on stream 7 without the end of the copy.
    assert (every["us"], every["busy us"], every["idle us"]) == (25, 19, 6)
    assert every["streams"] == {"7": 18, "9": 5} and every["overlap us"] == 4 and every["copies us"] == 5
    assert (attend["kernel"], attend["stream"], attend["calls"]) == ("attend", 7, 1.5)
    assert (attend["us of a call"], attend["us"], attend["gap us of a call"], attend["gap us"]) == (10, 16, 5, 5)
    assert (norm["us of a call"], norm["gap us of a call"], norm["gap us"]) == (2, 2, 2)
    assert (copy["stream"], copy["us"], copy["gap us"]) == (9, 5, 0)


@pytest.mark.parametrize(
    ("host", "waits_us"),
    [
        (("cudaGraphLaunch", *["cudaEventSynchronize"] * 2, "cudaDeviceSynchronize"), 2),
        (("cudaGraphLaunch",), 0),
        ((), None),
    ],
)
def test_of_a_gpu_only_what_runs_there_is_in_a_profile(monkeypatch, host, waits_us):
    def event(name, kind, begin, parent=None):
        range_ = SimpleNamespace(start=begin, end=begin + 1)
        return SimpleNamespace(name=name, device_type=kind, device_resource_id=7, time_range=range_, cpu_parent=parent)

    class Profile:
        def __init__(self, activities):
            assert activities == [torch.profiler.ProfilerActivity.CUDA]

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def events(self):
            on, off = torch.autograd.DeviceType.CUDA, torch.autograd.DeviceType.CPU
            seen = [event(name, off, 3) for name in host]
            return [event("b", on, 5), *seen, event("a", on, 1), event("b", on, 7)]

    monkeypatch.setattr(frame_profile, "profile", Profile)
    monkeypatch.setattr(frame_profile, "wait", lambda device: None)
    found = frame_profile.profile_of(lambda: None, CUDA)
    assert found == ([Event("a", 7, 1, 2), Event("b", 7, 5, 6), Event("b", 7, 7, 8)], waits_us)
    assert frame_profile.kernel_names(lambda: None, CUDA) == ["b", "a"]


def test_frames_are_profiled():
    every, *each = frame_profile.profiled(ALONE, Setting("nano", "fp32", 64, objects=1, frames=2), CPU)
    assert every["frames"] == 2 and every["path"].startswith("eager: ") and every["encodes"] == 1
    assert 0 < every["busy us"] <= every["us"] and every["ms, not profiled"] > 0 and every["host us"] > 0
    assert every["host waits us"] is None and "first touch us" not in every
    assert {"aten::linear", "aten::conv2d"} <= {row["kernel"] for row in each}
    assert sum(row["calls"] for row in each) == pytest.approx(every["calls"])


def test_calls_of_images_are_profiled(monkeypatch):
    """The timed part. The host's first write is of an array with the bytes of three masks, their IoUs and logits."""
    log, shapes = [], []

    def logged(owner, name):
        whole = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given: log.append(name) or whole(*given))

    logged(frame_profile, "profile_of")
    for name in ("release_recordings", "set_image", "get_image_embedding"):
        logged(SAM2ImagePredictor, name)
    monkeypatch.setattr(frame_profile, "written", lambda shape: shapes.append(shape))
    every, *_ = frame_profile.profiled(case_of("predict"), Setting("nano", "fp32", 64), CPU)
    assert log == ["profile_of", "release_recordings", "set_image", "profile_of"]
    assert (every["frames"], every["encodes"]) == (1, 0) and "first touch us" in every
    assert set(shapes) == {(3 * 1200 * 1800 + 3 + 3 * 16 * 16,)}
    log.clear(), shapes.clear()
    every, *_ = frame_profile.profiled(case_of("image encode"), Setting("nano", "fp32", 64), CPU)
    calls = ["set_image", "get_image_embedding"] * 2
    assert log == ["profile_of", "release_recordings", *calls, "profile_of", "set_image"]
    assert (every["frames"], every["encodes"]) == (1, 1) and "first touch us" not in every and not shapes


def test_a_profile_of_nothing_is_an_error(monkeypatch):
    monkeypatch.setattr(frame_profile, "profile_of", lambda call, device: frame_profile.Profile([], None))
    with pytest.raises(RuntimeError, match="has seen no kernel"):
        frame_profile.profiled(ALONE, Setting("nano", "fp32", 64, frames=1), CPU)


PRINTED = """1980, 310.5, 41, 0x0000000000000000
1755, 690.1, 60, 0x0000000000000004
a line that is cut of
1710, 698.2, 61, 0x0000000000000044
"""


def test_clocks_and_the_reasons_for_lower_ones():
    found = device_state.clocks(PRINTED)
    assert found["samples"] == 3 and found["SM MHz"] == {"min": 1710, "max": 1980, "mean": 1815}
    assert found["W"]["max"] == 698.2 and found["C"]["min"] == 41
    assert found["samples with reasons"] == {"power cap": 2, "hardware thermal": 1}
    said = 'Field "clocks_event_reasons.active" is not a valid field to query.\n'
    assert device_state.clocks(said) == {"note": f"not read: {said.strip()}"}


def tool(folder, name, script):
    """A program of this name."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def one_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="12-34"))


def test_a_gpu_is_watched(tmp_path, monkeypatch, one_gpu):
    read = tmp_path / "read"
    tool(
        tmp_path,
        "nvidia-smi",
        f'echo "$1" > {read}.new; echo "1980, 310.5, 41, 0x1"; mv {read}.new {read}; exec sleep 60',
    )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(ZeroDivisionError), device_state.watched(CUDA) as found:
        while not read.exists():
            pass
        raise ZeroDivisionError
    assert found["samples"] == 1 and "idle" in found["samples with reasons"]
    assert read.read_text() == "--id=GPU-12-34\n"


def test_a_missing_tool_is_said(tmp_path, monkeypatch, one_gpu):
    monkeypatch.setenv("PATH", str(tmp_path))
    with device_state.watched(CPU) as on_cpu, device_state.watched(CUDA) as on_gpu:
        pass
    assert on_cpu == {} and on_gpu["note"].startswith("not read: nvidia-smi: ")


def test_a_rate_over_a_while(monkeypatch):
    clock = [5.0]
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: clock.append(clock[-1] + 0.5))  # for ten calls
    monkeypatch.setattr(device_state.time, "perf_counter", lambda: clock[-1])
    calls = []
    assert device_state.sustained(lambda: calls.append(0), CUDA, seconds=1.2) == 20
    assert len(calls) == 30


def test_limits_at_once_and_for_a_second(monkeypatch):
    monkeypatch.setattr(device_state, "SIDE", 10)
    monkeypatch.setattr(device_state, "COPIED", 1000)
    monkeypatch.setattr(device_state, "sustained", lambda call, device: call() is not None and 1e12)
    rates = device_state.sustained_rates(CPU)
    assert rates == {"sustained bfloat16 TFLOP/s": 2000, "sustained copy TB/s": 8000}
    monkeypatch.setattr(limits, "measure_limits", lambda device, dtypes: Limits(3e12, {"bfloat16": 8e14}))
    monkeypatch.setattr(machine, "machine", lambda device: {})
    monkeypatch.setattr(device_state, "sustained_rates", lambda device: {"sustained": 7.0})
    sent = []
    on_cpu, on_gpu = (work.environment("", Context(on, lambda part, row: sent.append(row))) for on in (CPU, CUDA))
    assert on_cpu.figure == "800 TFLOP/s bf16, 3.00 TB/s"
    assert on_gpu.figure == f"{on_cpu.figure}; for a second 7 sustained" and sent[-1] == {"sustained": 7.0}


def test_graphs_that_keep_their_memory_are_right(monkeypatch):
    monkeypatch.setattr(graph_memory, "SHAPE", (4, 32, 4))
    rows = list(graph_memory.rows_of(CPU))
    assert [(row["recorders"], row["wrong"]) for row in rows] == [("one recorder", 0), ("a recorder each", 0)]


@pytest.mark.parametrize("fault", ["a stale workspace", "another's memory"])
def test_graphs_that_lose_their_memory_are_seen(monkeypatch, fault):
    """After the third recording, a replay computes with what is no longer its own, or writes into another's tensor."""
    filled, recordings = [], []
    full = torch.full

    class Recorder(CalledAgain):
        def record(self, function):
            recordings.append(function)

            def replay():
                function()
                if len(recordings) % 3 == 0:
                    target = filled[-1] if fault == "another's memory" else results_of(function)
                    target.view(-1)[0] += 1

            return replay

    def results_of(function):
        cells = dict(zip(function.__code__.co_freevars, function.__closure__, strict=True))
        return cells["results"].cell_contents[cells["i"].cell_contents]

    monkeypatch.setattr(torch, "full", lambda *args, **kwargs: filled.append(full(*args, **kwargs)) or filled[-1])
    monkeypatch.setattr(graph_memory, "SHAPE", (4, 32, 4))
    monkeypatch.setattr(graph_memory, "Called", Recorder)
    sent = []
    outcome = work.graph_memory("", Context(CPU, lambda part, row: sent.append(row)))
    assert not outcome.right and all(row["wrong"] for row in sent)


BF16 = torch.bfloat16
ATTENTION = [self_attention_case(1, BF16, side=4), *(window_case(Windowed(8, 0, 2, 16, s), BF16) for s in (1, 2))]


@pytest.mark.parametrize("case", ATTENTION, ids=lambda case: case.name)
def test_attention_by_each_of_torchs_kernels_is_a_row(monkeypatch, case):
    """Here that of the CPU in place of them, with the same arguments and results."""
    ways = {"SDPA, cuDNN": F.scaled_dot_product_attention, "SDPA, FlashAttention": lambda q, k, v: q * 0}
    for module in (memory_attention, window_attention):
        monkeypatch.setattr(module, "forced", lambda by, device: {name: by(way) for name, way in ways.items()})
    calls = dict(case.prepare(CPU))
    with pytest.raises(WrongResultError, match="SDPA, FlashAttention differs"):
        check(case, calls, CPU)
    del calls["SDPA, FlashAttention"]
    assert "SDPA, cuDNN" in check(case, calls, CPU)


def test_torchs_kernels_are_called_whatever_torch_would_choose():
    def ways(device):
        x = torch.empty(1, 2, 16, 256, dtype=BF16, device=device)
        return forced(lambda by: lambda: by(x, x, x), CUDA)

    assert forced(lambda by: by, CPU) == {}
    for call in ways("cpu").values():
        with pytest.raises(RefusedError, match="NotImplementedError"):
            call()
    with fake_cuda():
        assert {name: call().shape for name, call in ways("cuda").items()} == {
            "SDPA, FlashAttention": (1, 2, 16, 256), "SDPA, cuDNN": (1, 2, 16, 256)
        }  # fmt: skip


def test_attention_is_computed_in_the_way_that_its_row_names(monkeypatch):
    launch = pytest.importorskip("sam2fast.kernels.memory_attention.launch")
    chosen, refused = [], set()
    in_use = launch._attend_kernel
    monkeypatch.setattr(memory_attention, "refused", refused)

    def call():
        is_candidate = launch._attend_kernel is not in_use
        chosen.append((current_backend(), _launch.custom_rows()["memory_attention"][0].meta, is_candidate))

    memory_attention.rotated_by_us(CUDNN, call, CPU)()
    monkeypatch.setattr(memory_attention, "runs_kernels", lambda device: True)
    (by_warps,) = memory_attention.by_candidate("specialised", "256x64", call, CPU).values()
    by_warps()
    (backend, by_torch, *of_torch), (own, _, *of_warps) = chosen
    assert by_torch["SDPA"] == CUDNN and backend != "triton" == own and (of_torch, of_warps) == ([False], [True])
    with pytest.raises(RefusedError, match="cuDNN refused"):
        memory_attention.rotated_by_us(CUDNN, lambda: refused.add("this shape"), CPU)()


def test_the_figure_of_calls_has_both_official_predictors():
    def subject(median):
        return {"median_s": median, "path": "recorded"}

    subjects = {"official": subject(0.02), "official vos_optimized": subject(0.012), "sam2fast": subject(0.004)}
    row = {"case": "video throughput", "size": "t", "dtype": "bf16", "objects": 1, "subjects": subjects}
    row["ratio"] = {"sam2fast": {"median": 5.0}}
    figure = "video throughput, t bf16, 1: 250.0/s, 4 ms, 5.00x official, 3.00x its vos_optimized, recorded"
    assert work._speed_of_calls([row]) == figure
    subjects["official vos_optimized"] = subject(None)
    shorter = figure.replace(", 3.00x its vos_optimized", "")
    assert work._speed_of_calls([row, row]) == f"{shorter}; {shorter}"


def test_a_step_of_calls_sends_rows_at_once_and_then_with_a_profile(monkeypatch):
    """A row of the compiled predictor names what the compiler may choose from."""
    monkeypatch.setenv("TORCHINDUCTOR_MAX_AUTOTUNE_GEMM_BACKENDS", "ATEN")
    monkeypatch.setenv("TORCHINDUCTOR_MAX_AUTOTUNE_CONV_BACKENDS", "ATEN")
    sent = []

    def run(groups, save):
        compiled = {"samples_s": [1.0], "note": "7 frames", "median_s": None}
        ours = {"samples_s": [1.0], "note": "", "median_s": 1.0, "host_s": 0.25}
        for case in ("video throughput", "peak memory"):
            row = {"case": case, "size": "nano", "dtype": "bf16", "image_size": 64, "objects": 1, "history": None}
            save(row | {"subjects": {"sam2fast": ours, work.VOS: compiled | {}}, "ratio": {}})
        assert len(sent) == 2
        return True

    monkeypatch.setattr(plans, "rehearsal", lambda name: [group("predict", Setting("nano", frames=3))])
    monkeypatch.setattr(timing, "run", run)
    monkeypatch.setattr(frame_profile, "profiled", lambda case, setting, device: [{"of": (case.name, setting.frames)}])
    assert work.call("official", Context(CPU, lambda part, row: sent.append(dict(row)), rehearse=True)).right
    assert [row.get("device") for row in sent] == [
        None, None, {"of": ("video throughput", 3), "host us": 250_000}
    ]  # fmt: skip
    assert sent[0]["subjects"][work.VOS]["note"] == "; ".join(["7 frames", *(f"{name}=ATEN" for name in ATEN_ONLY)])


def test_a_step_of_calls_ends_for_time_and_continues(monkeypatch):
    """The first rows are measured in any case."""
    log, sent = [], []

    def run(groups, save):
        for one in groups:
            log.append(one.setting.size)
            for name in one.names():
                row = dict(zip(("case", "size", "dtype", "image_size", "objects", "history"), name, strict=True))
                save(row | {"subjects": {work.VOS: {"samples_s": [], "note": ""}, "sam2fast": OURS}, "ratio": {}})
        return True

    monkeypatch.setattr(timing, "run", run)
    monkeypatch.setattr(plans, "step", lambda name, device: [group("predict", Setting(s, "bf16")) for s in ("t", "s")])
    unfinished = work.call("some", Context(CPU, lambda part, row: sent.append(row), limit_s=-1.0))
    assert unfinished.right and unfinished.unfinished == "1 of 2 groups of rows are left" and log == ["t"]
    finished = work.call("some", Context(CPU, lambda part, row: None, limit_s=-1.0, earlier=sent))
    assert finished.right and not finished.unfinished and log == ["t", "s"]


OURS = {"samples_s": [], "median_s": None, "note": ""}
