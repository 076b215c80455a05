"""A model on ``cuda:1`` stays there: no code uses the current device implicitly."""

import ast
import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import torch

from sam2fast.deploy.exported import loading
from sam2fast.engine import graphs
from sam2fast.kernels import _launch

ROOT = Path(__file__).parents[3]
ONE = torch.device("cuda:1")


# Of torch.cuda: without an argument they mean the current device.
NEED_A_DEVICE = {
    *("synchronize", "current_stream", "default_stream", "Stream", "get_device_capability", "get_device_properties"),
    *("get_device_name", "mem_get_info", "memory_allocated", "max_memory_allocated", "memory_reserved"),
    *("max_memory_reserved", "memory_stats", "reset_peak_memory_stats", "get_rng_state", "set_rng_state"),
}
# They set or query the current device of the process.
NEVER = {"set_device", "current_device"}
# Intended uses: worker and training processes own their device; the current stream inside a block for the device.
MEANT = {
    ("sam2fast/deploy/parallel/worker.py", "set_device"),
    ("sam2fast/training/distributed/ranks.py", "set_device"),
    ("sam2fast/engine/graphs.py", "current_stream"),
}


def sources():
    return [*ROOT.glob("kernels/**/*.py"), *(p for p in ROOT.glob("sam2fast/**/*.py") if "kernels" not in p.parts)]


def findings(text):
    """Uses of the current device in source code, by name and line."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        name = called.rpartition(".")[2]
        if called.startswith("torch.cuda.") and name in NEED_A_DEVICE and not node.args and not node.keywords:
            yield name, node.lineno
        if called.startswith("torch.cuda.") and name in NEVER:
            yield name, node.lineno
        if name == "cuda" and called != "torch.cuda" and not node.args:
            yield ".cuda()", node.lineno
        for argument in [*(k.value for k in node.keywords if k.arg == "device"), *(node.args if name == "to" else [])]:
            if isinstance(argument, ast.Constant) and str(argument.value).startswith("cuda"):
                yield f"device={argument.value!r}", node.lineno


def test_no_source_uses_the_current_device():
    assert len(sources()) > 200
    found = [
        (str(path.relative_to(ROOT)), name, line)
        for path in sources()
        for name, line in findings(path.read_text(encoding="utf-8"))
    ]
    assert not [entry for entry in found if entry[:2] not in MEANT]


def test_the_block_is_one_for_the_tensors_device(monkeypatch):
    entered = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: entered.append(device) or contextlib.nullcontext())
    config = _launch.LaunchConfig({}, {})
    with config.on_device(SimpleNamespace(is_cuda=True, device=ONE)), config.on_device(torch.zeros(1)):
        pass
    assert entered == [ONE]


def test_graphs_are_recorded_on_their_device(monkeypatch):
    """Inside a block for the device, on streams of it."""
    made, inside, ran = [], [], []

    @contextlib.contextmanager
    def device(which):
        inside.append(which)
        yield
        inside.pop()

    fakes = dict.fromkeys(("CUDAGraph", "graph", "graph_pool_handle", "stream", "current_stream"), MagicMock())
    for name, fake in {
        **fakes,
        "device": device,
        "Stream": lambda device, **_: made.append(device) or MagicMock(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    recorder = graphs.CudaGraphs(ONE)
    for _ in range(2):
        recorder.record(lambda: ran.append(list(inside)))()
    assert made == [ONE, ONE] and ran == [[ONE]] * 4 and not inside


def test_exported_programs_run_on_the_requested_device(monkeypatch):
    found: list[Any] = []
    model = object.__new__(loading.LoadedModel)
    model.device, model.metadata = ONE, SimpleNamespace(kind=loading.COMPILED)
    monkeypatch.setattr(loading, "load_artifact", lambda path, index: found.append((path.name, index)))
    model._load(Path("encoder.pt2"))
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),))
    model.device = torch.device("meta")
    assert model._moved_to_device(program) is program
    monkeypatch.setattr("torch.export.passes.move_to_device_pass", lambda p, device: found.append(device))
    model.device = ONE
    model._moved_to_device(program)
    assert found == [("encoder.pt2", 1), "cuda:1"]
