"""Ahead-of-time compilation: the record of what compiles by which version of Triton, and how kernels are described."""

import json

import pytest
from kernel_records import RECORDS
from registry import launch_module

triton = pytest.importorskip("triton")


@pytest.fixture
def aot(monkeypatch):
    for op in RECORDS:  # which other tests interpret
        launch_module(op)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    import aot

    return aot


def row_of(path, version):
    return next(row for row in json.loads(path.read_text())["rows"] if row["triton"] == version)


def test_versions_and_targets_are_kept_beside_each_other(aot, monkeypatch, tmp_path):
    path = tmp_path / "triton-versions-2026-01-02.json"

    def record(version, *results):
        monkeypatch.setattr(triton, "__version__", version)
        aot.record(path, [aot.Result("op", "kernel", "row", target, problem=problem) for target, problem in results])

    record("3.10.0", ("sm_90", ""), ("sm_90", ""), ("sm_80", "spills 8 bytes"), ("sm_80", ""))
    record("3.9.0", ("sm_90", "ValueError"), ("sm_90", ""))
    assert [row["triton"] for row in json.loads(path.read_text())["rows"]] == ["3.9.0", "3.10.0"]
    assert row_of(path, "3.10.0")["sm_90"] == "2" and row_of(path, "3.10.0")["sm_80"] == "1 of 2"
    assert row_of(path, "3.9.0")["sm_90"] == "1 of 2" and row_of(path, "3.9.0")["sm_80"] is None
    failed = [(each["triton"], each["target"], each["problem"]) for each in json.loads(path.read_text())["failed"]]
    assert failed == [("3.10.0", "sm_80", "spills 8 bytes"), ("3.9.0", "sm_90", "ValueError")]

    record("3.10.0", ("sm_80", ""))  # repaired
    assert row_of(path, "3.10.0")["sm_80"] == "1" and row_of(path, "3.10.0")["sm_90"] == "2"
    assert [each["triton"] for each in json.loads(path.read_text())["failed"]] == ["3.9.0"]


def test_a_target_that_triton_does_not_know_is_one_line_without_paths(aot, tmp_path):
    path = tmp_path / "triton-versions-2026-01-02.json"
    problem = "PTXASError: ptxas /home/someone/a.ptx -o /tmp/b.o: 'sm_103a' is not defined"
    aot.record(path, [aot.Result(op, "kernel", "row", "sm_103", problem=problem) for op in ("a", "b")])
    (failed,) = json.loads(path.read_text())["failed"]
    assert failed["op"] == "all" and failed["problem"] == "PTXASError: ptxas FILE -o FILE 'sm_103a' is not defined"


@pytest.mark.parametrize(
    ("version", "target", "expected"),
    [((3, 9), "sm_90", "ptxas-blackwell"), ((3, 8), "sm_90", "ptxas"), ((3, 8), "sm_100", "ptxas-blackwell"),
     ((3, 9), "sm_89", "ptxas")],
)  # fmt: skip
def test_spills_are_counted_by_the_assembler_that_triton_used(version, target, expected, aot, monkeypatch, tmp_path):
    commands = []

    def run(command, **_):
        commands.append(command)
        return type("Done", (), {"returncode": 0, "stderr": "8 bytes spill stores, 4 bytes spill loads"})

    tmp_path.joinpath("ptxas-blackwell").touch()
    monkeypatch.setattr(aot, "version", lambda: version)
    monkeypatch.setattr(aot, "TOOLS", tmp_path)
    monkeypatch.setattr(aot.subprocess, "run", run)
    assert aot.spilled("", target, {"enable_fp_fusion": False}) == 12
    assert commands[0][0] == str(tmp_path / expected) and "--fmad=false" in commands[0]
    aot.spilled("", target, {"enable_fp_fusion": True})
    assert "--fmad=false" not in commands[1]


def test_matrix_instructions_of_every_vendor_count(aot):
    names = "wgmma.mma_async.sync mma.sync.aligned tcgen05.mma v_mfma_f32_32x32x8 v_wmma_f32_16x16x16"
    assert all(map(aot.TENSOR_CORES.search, names.split()))


def test_launches_are_recorded_as_triton_specialises_them(aot):
    """Numbers that are 1 or multiples of 16, unless a kernel says otherwise; none runs, and each comes once."""
    import recorded

    found = recorded.launches(["memory_attention"], "sm_90")
    (attend,) = attention_of(found)
    assert attend.types["query"] == "*bf16:16" and attend.types["sums"] == "*fp32:16"
    assert attend.types["N"] == "i32:16" and attend.types["splits"] == "i32" and attend.constants["H"] == 1
    assert attend.constants["BLOCK_M"] == 128 and attend.options["num_warps"] == 8 and attend.meta["PEELED"] == 1
    assert len({repr((x.name, x.types, x.constants, x.options)) for x in found}) == len(found)
    (other,) = attention_of(recorded.launches(["memory_attention"], "sm_86"))
    assert other.constants["BLOCK_M"] == 64


def attention_of(launches):
    """To memory of tiny in bf16."""
    wanted = "attend_kernel", "256x64", "bfloat16"
    of_shape = [each for each in launches if (each.name, each.shape, each.dtype) == wanted and not each.is_fp8]
    return [each for each in of_shape if not each.constants["OFFSETS"]]
