"""Compiles every stored launch configuration ahead of time, without a GPU, and says what the compiler made of it.

    python bench/aot.py [--target sm_90] [--op connected_components] [--without float16] [--record FILE]

Fails on an error, more shared memory than the target has, a spill in anything but fp32, and a bfloat16 or float16
attention kernel without tensor cores; kernels for fp8 are compiled for GPUs that have it, and their attention must
multiply in fp8. ``--record`` keeps how many compiled, and what did not, beside those of other versions of Triton.
"""

import argparse
import contextlib
import datetime
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

if os.environ.get("TRITON_INTERPRET") == "1":
    raise SystemExit("ahead-of-time compilation needs the compiler: unset TRITON_INTERPRET")

import triton
from registry import triton_module
from reports import write_json
from suite.machine import machine
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sam2fast.kernels._launch import ANY, FUSED, Compilation, LaunchConfig, _fitting_row, launch_table

# Target -> shared memory that one block can have, in bytes.
SHARED_MEMORY = {
    "sm_80": 166912,
    "sm_86": 101376,
    "sm_89": 101376,
    "sm_90": 232448,
    "sm_100": 232448,
    "sm_103": 232448,
    "sm_120": 101376,
    "sm_121": 101376,
    "gfx942": 65536,
}
# Of those, the ones with products in fp8.
FP8_TARGETS = ("sm_89", "sm_90", "sm_100", "sm_103", "sm_120", "sm_121")
TENSOR_CORES = re.compile(r"wgmma\.mma_async|mma\.sync|tcgen05\.mma|v_mfma|v_wmma")
FP8_PRODUCTS = re.compile(r"(wgmma\.mma_async|mma\.sync)\S*\.e4m3\.e4m3|tcgen05\.mma\S*kind::f8f6f4")
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


# Op, row, kernel and target.
Work: TypeAlias = tuple[str, LaunchConfig, Compilation, str]


class Result(NamedTuple):
    """One kernel, configuration and target."""

    op: str
    kernel: str
    config: str
    target: str
    registers: int = 0
    spilled: int = 0  # bytes
    shared: int = 0  # bytes
    tensor_cores: int = 0  # instructions
    fp8: int = 0  # of those, in fp8
    problem: str = ""


def compile_one(op: str, config: LaunchConfig, case: Compilation, target: str) -> Result:
    """Compiles one kernel and reads registers, spills and shared memory."""
    result = Result(op, kernel_name(case), shown(config, case), target)
    try:
        compiled = compiled_for(config, case, target)
        assembly = compiled.asm["amdgcn" if target.startswith("gfx") else "ptx"]
        if target.startswith("gfx"):
            registers, in_memory = amd_resources(assembly)
        else:
            registers, in_memory = resources(assembly, compiled.asm["cubin"], target, options_of(config, case))
    except Exception as error:  # whatever the compiler raises is a row of the table
        return result._replace(problem=f"{type(error).__name__}: {' '.join(str(error).split())[-200:]}")
    result = result._replace(
        registers=registers,
        spilled=in_memory,
        shared=compiled.metadata.shared,
        tensor_cores=len(TENSOR_CORES.findall(assembly)),
        fp8=len(FP8_PRODUCTS.findall(assembly)),
    )
    return result._replace(problem=problem_of(result, case))


def compiled_for(config: LaunchConfig, case: Compilation, target: str) -> Any:
    """The kernel as Triton compiles it for this target."""
    if target.startswith("gfx"):  # they have no TF32
        case = case._replace(constants={k: "ieee" if v == "tf32x3" else v for k, v in case.constants.items()})
    return triton.compile(source(case), target=gpu_target(target), options=options_of(config, case))


def kernel_name(case: Compilation) -> str:
    name: str = case.kernel.__name__
    return name.strip("_")


def options_of(config: LaunchConfig, case: Compilation) -> dict[str, int]:
    return {**FUSED, **(config.options if case.options is None else case.options)}


def shown(config: LaunchConfig, case: Compilation) -> str:
    """The row's numbers that concern this kernel."""
    meta = {name: value for name, value in config.meta.items() if name in case.constants}
    return f"{case.dtype} " + " ".join(f"{k}={v}" for k, v in {**meta, **(case.options or config.options)}.items())


def problem_of(result: Result, case: Compilation) -> str:
    """What is wrong with a compiled kernel, or nothing."""
    if result.shared > SHARED_MEMORY[result.target]:
        return f"shared memory {result.shared} > {SHARED_MEMORY[result.target]}"
    if result.spilled and case.dtype != "float32":
        return f"spills {result.spilled} bytes"
    if case.uses_tensor_cores and not result.tensor_cores:
        return "no tensor cores"
    if case.uses_tensor_cores and bool(result.fp8) != case.is_fp8:
        return f"{result.fp8} products in fp8"
    return ""


def source(case: Compilation) -> ASTSource:
    """The kernel with its argument types; pointers are 16-byte aligned, as torch's allocations are.

    ``i32:16`` is an integer that is a multiple of 16, which Triton finds out at a launch.
    """
    names = case.kernel.arg_names
    runtime = [name for name in names if name not in case.constants]
    if len(runtime) != len(case.arguments):
        raise ValueError(f"{case.kernel.__name__} takes {runtime}, and its types are {case.arguments}")
    types = dict(zip(runtime, case.arguments, strict=True))
    aligned = [i for i, name in enumerate(names) if types.get(name, "").startswith("*") or ":16" in types.get(name, "")]
    types = {name: types[name].removesuffix(":16") if name in types else "constexpr" for name in names}
    if version() < (3, 3):
        from triton.backends.compiler import AttrsDescriptor

        types, hints = {name: types[name] for name in runtime}, dict.fromkeys(aligned, 16)
        return ASTSource(case.kernel, types, dict(case.constants), AttrsDescriptor.from_hints(hints))
    return ASTSource(case.kernel, types, dict(case.constants), {(i,): [["tt.divisibility", 16]] for i in aligned})


def gpu_target(target: str) -> GPUTarget:
    if target.startswith("gfx"):
        return GPUTarget("hip", target, 64)
    return GPUTarget("cuda", int(target.removeprefix("sm_")), 32)


def resources(ptx: str, cubin: bytes, target: str, options: Mapping[str, int] = FUSED) -> tuple[int, int]:
    """Registers and spilled bytes of what triton assembled.

    Without a stack nothing is spilled. Otherwise it is assembled once more, for the assembler's own count.
    """
    used = re.search(r"REG:(\d+) STACK:(\d+)", read_by("cuobjdump", "-res-usage", cubin))
    if used is None:
        raise RuntimeError("cuobjdump gives no registers")
    return int(used[1]), spilled(ptx, target, options) if int(used[2]) else 0


def read_by(tool: str, option: str, cubin: bytes) -> str:
    """What one of triton's tools prints of a compiled kernel."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(cubin)
        done = subprocess.run([str(TOOLS / tool), option, str(file)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{tool} says {done.stderr!r}")
    return done.stdout


def spilled(ptx: str, target: str, options: Mapping[str, int]) -> int:
    """Bytes spilled, from the assembler that triton uses, called as triton calls it."""
    number = int(target.removeprefix("sm_"))
    newer = TOOLS / "ptxas-blackwell"
    is_newer = newer.exists() and number >= (90 if version() >= (3, 9) else 100)
    flags = [] if options["enable_fp_fusion"] else ["--fmad=false"]
    flags += ["--regAllocOptLevel=2"] if version() >= (3, 7) else []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.ptx")
        file.write_text(ptx)
        arch = f"--gpu-name={target}{'a' if number >= 90 else ''}"
        tool = newer if is_newer else TOOLS / "ptxas"
        command = [str(tool), "-v", *flags, arch, str(file), "-o", str(file.with_suffix(".cubin"))]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return sum(map(int, re.findall(r"(\d+) bytes spill", done.stderr)))


def amd_resources(assembly: str) -> tuple[int, int]:
    registers, spilled = (re.search(rf"\.{name}:\s+(\d+)", assembly) for name in ("vgpr_count", "vgpr_spill_count"))
    return int(registers[1]) if registers else 0, 4 * int(spilled[1]) if spilled else 0


def version() -> tuple[int, ...]:
    return tuple(map(int, triton.__version__.split(".")[:2]))


def cases(ops: list[str]) -> Iterator[tuple[str, LaunchConfig, Compilation]]:
    """Every kernel of every row of the launch table."""
    for op in ops:
        module = triton_module(op)
        for config in launch_table()[op]:
            for case in module.compilations(config):
                yield op, config, case


def targets_of(config: LaunchConfig, rows: list[LaunchConfig], wanted: list[str]) -> list[str]:
    """The targets on which some shape and dtype is launched with this row.

    If any is, then the row's own; where the row says ``*``, one that no row names, for which fewer rows compete.
    """
    fitting = [target for target in wanted if config.arch in (ANY, target)]
    return [target for target in fitting if _fitting_row(rows, "", target, config.dtype, config.shape) == config]


def work_of(ops: list[str], wanted: list[str], without: list[str] | None = None) -> list[Work]:
    """Every kernel of every row for those of the targets that take it, but for kernels of some dtypes."""
    return [
        (op, config, case, target)
        for op, config, case in cases(ops)
        for target in targets_of(config, launch_table()[op], wanted)
        if (target in FP8_TARGETS or not case.is_fp8) and case.dtype not in (without or ())
    ]


def compile_all(work: list[Work], jobs: int, examine: Callable[..., Any] = compile_one) -> Iterator[Any]:
    """What ``examine`` returns for each row, kernel and target, in the order of the work, by so many processes.

    Where its process ends without a result, that is a ``Result`` with a problem.
    """
    _work[:] = [(examine, *each) for each in work]  # kernels cannot be sent to another process; a forked one has them
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap(_compile_nth, range(len(work)))


_work: list[tuple[Callable[..., Any], str, LaunchConfig, Compilation, str]] = []


def _compile_nth(index: int) -> Any:
    """In a process of its own: LLVM ends the one that it is in where it finds itself wrong."""
    examine, *each = _work[index]
    reader, writer = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        try:
            writer.send(examine(*each))
        finally:
            os._exit(0)
    writer.close()
    with reader:
        answer = []
        with contextlib.suppress(EOFError):
            answer.append(reader.recv())
    _, status = os.waitpid(child, 0)
    if answer:
        return answer[0]
    op, config, case, target = each
    said = f"the compiler's process ended with {os.waitstatus_to_exitcode(status)}"
    return Result(op, kernel_name(case), shown(config, case), target, problem=said)


def show(result: Result) -> None:
    print(
        f"{result.op:24} {result.kernel:24} {result.config:36} {result.target:7} {result.registers:4} registers "
        f"{result.spilled:5} B spilled {result.shared:7} B shared {result.tensor_cores:4} mma "
        f"{f'({result.fp8} fp8)' if result.fp8 else '':9} "
        f"{result.problem or 'ok'}",
        flush=True,
    )


def record(path: Path, results: list[Result]) -> None:
    """Writes how many kernels compiled for each target by this Triton; other versions and targets stay as they are."""
    content = json.loads(path.read_text()) if path.exists() else {"rows": [], "failed": []}
    name, targets = triton.__version__, dict.fromkeys(result.target for result in results)
    rows = {row["triton"]: row for row in content["rows"]}
    row = rows.setdefault(name, {"triton": name, **dict.fromkeys(SHARED_MEMORY)})
    failed = [each for each in content["failed"] if each["triton"] != name or each["target"] not in targets]
    for target in targets:
        of_target = [result for result in results if result.target == target]
        problems = [result for result in of_target if result.problem]
        row[target] = f"{len(of_target) - len(problems)} of {len(of_target)}" if problems else str(len(of_target))
        if len(problems) == len(of_target):  # this Triton does not know the target: one stands for all
            problems = [problems[0]._replace(op="all", kernel="", config="")]
        for result in problems:
            shown = {key: getattr(result, key) for key in ("op", "kernel", "config", "registers", "spilled")}
            problem = re.sub(r"\S*/\S+", "FILE", result.problem)
            failed.append({"triton": name, "target": target, **shown, "problem": problem})
    ordered = sorted(rows.values(), key=lambda row: [int(part) for part in row["triton"].split(".")])
    report = {"date": datetime.date.today().isoformat(), "machine": machine(), "rows": ordered, "failed": failed}
    write_json(path, report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", choices=list(SHARED_MEMORY))
    parser.add_argument("--op", action="append", choices=sorted(launch_table()))
    parser.add_argument("--without", action="append", help="a dtype; the kernels for float16 are those for bfloat16")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--record", type=Path, help="a result file, such as triton-versions-DATE.json")
    arguments = parser.parse_args()
    wanted = arguments.target or list(SHARED_MEMORY)
    print(f"triton {triton.__version__}")
    results = []
    work = work_of(arguments.op or sorted(launch_table()), wanted, arguments.without)
    for result in compile_all(work, arguments.jobs):
        results.append(result)
        show(result)
    failed = [result for result in results if result.problem]
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    if arguments.record:
        record(arguments.record, results)
    sys.exit(bool(failed) or not results)


if __name__ == "__main__":
    main()
