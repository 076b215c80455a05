import functools
import importlib.util
import logging
import os
import re
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch

from sam2fast.kernels import _dispatch, _launch
from sam2fast.kernels._dispatch import backend, count_launch, current_backend, launches, use_triton
from sam2fast.kernels._launch import LaunchConfig, Row
from sam2fast.kernels.connected_components import connected_components
from sam2fast.kernels.mask_ops import fill_holes_in_mask_scores, upsample_and_threshold, upsample_masks

MASK = torch.zeros(1, 1, 4, 4, dtype=torch.bool)


def test_environment_variable(monkeypatch):
    monkeypatch.delenv("SAM2FAST_BACKEND", raising=False)
    assert current_backend() == "auto" and not use_triton("connected_components", MASK)
    monkeypatch.setenv("SAM2FAST_BACKEND", "torch")
    assert current_backend() == "torch"
    with backend("auto"):
        assert current_backend() == "auto"
    assert current_backend() == "torch"


def test_a_mistyped_backend_is_an_error(monkeypatch):
    monkeypatch.setenv("SAM2FAST_BACKEND", "trition")
    with pytest.raises(ValueError, match="SAM2FAST_BACKEND is 'trition'; expected one of auto, torch, triton"):
        connected_components(MASK)
    with pytest.raises(ValueError, match="'cuda'"), backend("cuda"):
        pass


def test_what_a_kernel_does_not_support_is_named():
    with backend("triton"), pytest.raises(RuntimeError, match="connected_components has no legs"):
        use_triton("connected_components", MASK, unsupported_reason="has no legs")
    with backend("auto"):
        assert not use_triton("connected_components", MASK, unsupported_reason="has no legs")


def test_an_op_without_a_kernel_runs_its_reference():
    with backend("triton"):
        assert upsample_masks(torch.zeros(1, 1, 4, 4), (8, 8)).shape == (1, 1, 8, 8)


def test_the_interpreter_is_for_forced_triton_only(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert not use_triton("connected_components", MASK)
    with backend("triton"):
        assert use_triton("connected_components", MASK) or _dispatch._triton_version() is None


def test_the_unfixed_interpreter_is_refused_for_bfloat16(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(_dispatch, "_triton_version", lambda: (3, 7))
    x = torch.zeros(4, dtype=torch.bfloat16)
    monkeypatch.setattr(_dispatch, "interpreter_supports_bfloat16", False)
    with backend("triton"), pytest.raises(RuntimeError, match="does not support bfloat16"):
        use_triton("op", x)
    monkeypatch.setattr(_dispatch, "interpreter_supports_bfloat16", True)
    with backend("triton"):
        assert use_triton("op", x)


def test_the_first_launch_of_an_op_is_logged(monkeypatch, caplog):
    caplog.set_level(logging.INFO, "sam2fast")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.delitem(launches, "counted", raising=False)
    count_launch("counted")
    count_launch("counted")
    (line,) = [record.getMessage() for record in caplog.records]
    assert "compiles the kernel of counted" in line


def test_launches_are_counted_across_threads():
    before = launches["counted"]
    threads = [threading.Thread(target=lambda: [count_launch("counted") for _ in range(1000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert launches["counted"] == before + 4000


@pytest.mark.parametrize(
    ("version", "message"),
    [(None, "not installed"), ((3, 1), r"needs triton 3\.2 or newer, but 3\.1 is installed"), ((3, 2), "CUDA tensors")],
)
def test_unsupported_reasons_are_named(version, message, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(_dispatch, "_triton_version", lambda: version)
    with backend("triton"), pytest.raises(RuntimeError, match=message):
        use_triton("op", MASK)
    with backend("auto"):
        assert not use_triton("op", MASK)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Triton brings a compiler of its own")
@pytest.mark.parametrize(
    ("compilers", "variable", "headers", "builder", "reason"),
    [
        ((), None, True, None, "needs a C compiler, .* install gcc, or set CC to a compiler"),
        (("gcc",), None, True, None, None),
        (("clang",), None, True, None, None),
        ((), "/opt/cc", True, None, None),
        (("gcc",), None, False, None, "needs Python's headers, .* /.* has no Python.h"),
        ((), None, False, print, None),
    ],
    ids=["no compiler", "gcc", "clang", "CC", "no headers", "a builder of one's own"],
)
def test_what_triton_builds_launchers_with(compilers, variable, headers, builder, reason, monkeypatch, tmp_path):
    """On a GPU that is new enough."""
    knobs = pytest.importorskip("triton", "3.4").knobs
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(_dispatch.shutil, "which", lambda name: name if name in compilers else None)
    monkeypatch.setenv("CC", variable) if variable else monkeypatch.delenv("CC", raising=False)
    if headers:
        (tmp_path / "Python.h").touch()
    monkeypatch.setattr(_dispatch.sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    monkeypatch.setattr(knobs.build, "impl", builder)
    _dispatch._build_unsupported_reason.cache_clear()
    try:
        found = _dispatch._gpu_unsupported_reason(torch.device("cuda:0"))
    finally:
        _dispatch._build_unsupported_reason.cache_clear()
    assert found is None if reason is None else re.search(reason, found)


def test_a_triton_without_knobs_has_no_builder(monkeypatch):
    monkeypatch.delattr(pytest.importorskip("triton"), "knobs", raising=False)
    assert not _dispatch._has_builder()


@pytest.mark.parametrize("has_gpu", [True, False])
def test_a_triton_that_is_too_old_is_said_once_where_there_is_a_gpu(has_gpu, monkeypatch, caplog):
    monkeypatch.setattr(pytest.importorskip("triton"), "__version__", "3.1.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(_dispatch, "_triton_version", functools.cache(_dispatch._find_triton.__wrapped__))
    for _ in range(2):
        assert not use_triton("op", MASK)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == has_gpu
    if has_gpu:
        assert "need triton 3.2 or newer, but 3.1.0 is installed" in warnings[0] and "newer torch" in warnings[0]


@pytest.mark.parametrize(
    ("name", "reason"), [("gfx942:sramecc+:xnack-", None), ("gfx1100", "gfx942.*this GPU is gfx1100")]
)
def test_amd_gpus_that_are_compiled_for(name, reason, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(gcnArchName=name))
    monkeypatch.setattr(_dispatch, "_build_unsupported_reason", lambda: None)
    found = _dispatch._gpu_unsupported_reason(torch.device("cuda:0"))
    assert found is None if reason is None else re.search(reason, found)


@pytest.mark.parametrize("hip", [None, "6.4"])
def test_components_by_the_reference_on_amd_gpus(hip, monkeypatch, triton_device):
    """Kernels that do not scan still run."""
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(_dispatch, "_unsupported_reason", lambda tensors, interpreter: None)
    monkeypatch.setattr(_dispatch, "KERNEL_DEVICES", ("cpu", "cuda"))
    before = dict(launches)
    connected_components(MASK.to(triton_device))
    fill_holes_in_mask_scores(torch.zeros(1, 1, 4, 4, device=triton_device), 4)
    upsample_and_threshold(torch.zeros(1, 4, 4, device=triton_device), (4, 4))
    ran = {op for op in launches if launches[op] != before.get(op, 0)}
    scanning = set() if hip else {"connected_components", "fill_holes_in_mask_scores"}
    assert ran == {"upsample_and_threshold"} | scanning


def test_a_triton_that_cannot_be_imported_counts_as_absent(monkeypatch):
    monkeypatch.setattr(_dispatch, "_why_absent", "is not installed")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setattr(_dispatch, "_triton_version", _dispatch._find_triton.__wrapped__)
    with backend("auto"):
        assert not use_triton("op", MASK)
    with backend("triton"), pytest.raises(RuntimeError, match=r"triton, which cannot be imported \(ModuleNotFound"):
        use_triton("op", MASK)


def config(*names):
    return LaunchConfig({"n": names}, {})


def test_a_row_for_the_shape_wins_over_one_for_the_gpu(monkeypatch):
    """Where no row fits, the package's configuration is asked."""
    rows = [
        Row(*key, {"n": n}, {})
        for n, key in enumerate(
            [("*", "*", "*"), ("*", "float32", "*"), ("cpu", "*", "*"), ("*", "*", "8x8"), ("cpu", "*", "8x8")]
        )
    ]
    monkeypatch.setattr(_launch, "custom_rows", lambda: {"op": rows})
    x = torch.zeros(1)
    assert _launch.launch_config("op", config, x, "8x8").meta["n"] == 4
    assert _launch.launch_config("op", config, x, "4x4").meta["n"] == 2
    monkeypatch.setattr(_launch, "custom_rows", lambda: {"op": rows[:4]})
    assert _launch.launch_config("op", config, x, "8x8").meta["n"] == 3
    monkeypatch.setattr(_launch, "custom_rows", lambda: {"op": rows[3:4]})
    for op in ("op", "new"):
        assert _launch.launch_config(op, config, x, "4x4").meta["n"] == ("cpu", "float32", "4x4")


def test_a_configuration_is_looked_up_once(monkeypatch):
    """For each op, GPU, dtype and shape class, but again with other rows."""
    looked, find = [], _launch.fitting_row
    monkeypatch.setattr(_launch, "fitting_row", lambda rows, *asked: looked.append(asked) or find(rows, *asked))
    table = {op: [Row("*", "*", "*", {"n": n}, {})] for n, op in enumerate(("op", "other"))}
    monkeypatch.setattr(_launch, "custom_rows", lambda: table)
    x = torch.zeros(1)

    def number(op="op", given=x, shape="*"):
        return _launch.launch_config(op, config, given, shape).meta["n"]

    for _ in range(3):
        assert number() == 0 and number("other") == 1 and number("op", x, "8x8") == number("op", x.half()) == 0
    monkeypatch.setattr(_launch, "architecture", lambda device: "sm_90")
    number()
    cpu = [("cpu", "float32", "*")] * 2 + [("cpu", "float32", "8x8"), ("cpu", "float16", "*")]
    assert looked == [*cpu, ("sm_90", "float32", "*")]
    # Deleted rows may have had the same address.
    for n in range(10):
        monkeypatch.setattr(_launch, "custom_rows", lambda n=n: {"op": [Row("*", "*", "*", {"n": n}, {})]})
        assert number() == n
    monkeypatch.setattr(_launch, "custom_rows", lambda: table)
    assert number() == 0


SWITCHES = {
    "as it is": ("pass", "tf32x3"),
    "old switch": ("torch.backends.cuda.matmul.allow_tf32 = True", "tf32"),
    "precision": ("torch.set_float32_matmul_precision('high')", "tf32"),
    "new switch": ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", "tf32"),
    "new switch for everything": ("torch.backends.fp32_precision = 'tf32'", "tf32"),
    "new switch off": ("torch.backends.cuda.matmul.fp32_precision = 'ieee'", "tf32x3"),
    "switches at odds": (
        "matmul = torch.backends.cuda.matmul; matmul.allow_tf32 = True; matmul.fp32_precision = 'none'",
        "tf32x3",
    ),
}


# Each switch in a separate process, forked from one that has imported torch.
PROGRAM = """
import os, sys, torch
from sam2fast.kernels._launch import product_precision
for change in sys.argv[1:]:
    child = os.fork()
    if not child:
        try:
            exec(change)
            print(product_precision(torch.float32), product_precision(torch.bfloat16), flush=True)
        except Exception as error:
            print(repr(error), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def precisions():
    """What is printed after each change of a switch."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", PROGRAM, *(change for change, _ in SWITCHES.values())]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(SWITCHES, done.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("name", SWITCHES)
def test_fp32_products_follow_torchs_switches(name, precisions):
    """In separate processes: torch does not allow mixing its old and new switch."""
    change, expected = SWITCHES[name]
    if "fp32_precision" in change and not hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        pytest.skip("this version of torch has the old switch alone")
    assert precisions[name].split() == [expected, "ieee"]
