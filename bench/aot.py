"""Compiles every kernel ahead of time, without a GPU, as the records' calls launch it, and prints what came out.

    python bench/aot.py [--target sm_90] [--op connected_components] [--without float16] [--record FILE]

Fails on an error, more shared memory than the target has, a spill in anything but fp32, and a bfloat16 or float16
attention kernel without tensor cores; kernels for fp8 are compiled for GPUs that have it, and their attention must
multiply in fp8. ``--record`` keeps how many compiled, and what did not, beside those of other versions of Triton.
"""

import argparse
import contextlib
import datetime
import importlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

if os.environ.get("TRITON_INTERPRET") == "1":
    raise SystemExit("ahead-of-time compilation needs the compiler: unset TRITON_INTERPRET")

import triton
from kernel_records import RECORDS
from recorded import PRODUCTS, Launch, launches
from reports import write_json
from suite.machine import machine
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend

from sam2fast.kernels._launch import FUSED

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


class Result(NamedTuple):
    """One kernel and target."""

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


def compile_one(launch: Launch, target: str) -> Result:
    """Compiles one kernel and reads registers, spills and shared memory."""
    result = Result(launch.op, launch.name, shown(launch), target)
    try:
        compiled = compiled_for(launch, target)
        assembly = compiled.asm["amdgcn" if target.startswith("gfx") else "ptx"]
        if target.startswith("gfx"):
            registers, in_memory = amd_resources(assembly)
        else:
            registers, in_memory = resources(assembly, compiled.asm["cubin"], target, launch.options)
    except Exception as error:  # whatever the compiler raises is a row of the table
        return result._replace(problem=f"{type(error).__name__}: {' '.join(str(error).split())[-200:]}")
    result = result._replace(
        registers=registers,
        spilled=in_memory,
        shared=compiled.metadata.shared,
        tensor_cores=len(TENSOR_CORES.findall(assembly)),
        fp8=len(FP8_PRODUCTS.findall(assembly)),
    )
    return result._replace(problem=problem_of(result, launch))


def compiled_for(launch: Launch, target: str) -> Any:
    """The kernel as Triton compiles it for this target."""
    return triton.compile(source(launch, target), target=gpu_target(target), options=dict(launch.options))


def shown(launch: Launch) -> str:
    """Dtype, constants and options that tell kernels apart."""
    options = {name: value for name, value in launch.options.items() if name not in FUSED}
    named = {name: value for name, value in {**launch.constants, **options}.items() if value}
    return f"{launch.dtype} " + " ".join(f"{k}={v}" if v is not True else k for k, v in named.items())


def problem_of(result: Result, launch: Launch) -> str:
    """What is wrong with a compiled kernel, or nothing."""
    if result.shared > SHARED_MEMORY[result.target]:
        return f"shared memory {result.shared} > {SHARED_MEMORY[result.target]}"
    if result.spilled and launch.dtype != "float32":
        return f"spills {result.spilled} bytes"
    if launch.name in PRODUCTS and not result.tensor_cores:
        return "no tensor cores"
    if launch.name in PRODUCTS and bool(result.fp8) != launch.is_fp8:
        return f"{result.fp8} products in fp8"
    return ""


def source(launch: Launch, target: str) -> ASTSource:
    """The kernel with the types of its arguments."""
    names, types = launch.kernel.arg_names, {name: each.removesuffix(":16") for name, each in launch.types.items()}
    constants = dict(launch.constants)
    if target.startswith("gfx"):  # they have no TF32
        constants = {name: "ieee" if value == "tf32x3" else value for name, value in constants.items()}
    aligned = [i for i, name in enumerate(names) if launch.types.get(name, "").endswith(":16")]
    if version() < (3, 3):
        from triton.backends.compiler import AttrsDescriptor

        return ASTSource(launch.kernel, types, constants, AttrsDescriptor.from_hints(dict.fromkeys(aligned, 16)))
    types = {name: types.get(name, "constexpr") for name in names}
    return ASTSource(launch.kernel, types, constants, {(i,): [["tt.divisibility", 16]] for i in aligned})


def gpu_target(target: str) -> GPUTarget:
    if target.startswith("gfx"):
        return GPUTarget("hip", target, 64)
    return GPUTarget("cuda", int(target.removeprefix("sm_")), 32)


def resources(ptx: str, cubin: bytes, target: str, options: Mapping[str, Any]) -> tuple[int, int]:
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


def spilled(ptx: str, target: str, options: Mapping[str, Any]) -> int:
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


def work_of(ops: list[str], wanted: list[str], without: list[str] | None = None) -> list[tuple[Launch, str]]:
    """Every kernel for each of the targets, but for kernels of some dtypes."""
    return [
        (launch, target)
        for target in wanted
        for launch in launches(ops, target)
        if (target in FP8_TARGETS or not launch.is_fp8) and launch.dtype not in (without or ())
    ]


def compile_all(
    work: list[tuple[Launch, str]], jobs: int, examine: Callable[[Launch, str], Any] = compile_one
) -> Iterator[Any]:
    """What ``examine`` returns for each kernel and target, in the order of the work, by so many processes.

    Where its process ends without a result, that is a ``Result`` with a problem.
    """
    _work[:] = [(examine, *each) for each in work]  # kernels cannot be sent to another process; a forked one has them
    # What Triton does once per process, such as hashing its own files, hundreds of megabytes, is done here for all.
    (triton.runtime.cache if version() >= (3, 5) else triton.compiler.compiler).triton_key()
    importlib.import_module("triton.compiler.code_generator")
    for target in {target for _, target in work}:
        make_backend(gpu_target(target)).hash()
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        yield from pool.imap(_compile_nth, range(len(work)))


_work: list[tuple[Callable[[Launch, str], Any], Launch, str]] = []


def _compile_nth(index: int) -> Any:
    """In a process of its own: LLVM ends the one that it is in where it finds itself wrong."""
    examine, launch, target = _work[index]
    reader, writer = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        try:
            writer.send(examine(launch, target))
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
    said = f"the compiler's process ended with {os.waitstatus_to_exitcode(status)}"
    return Result(launch.op, launch.name, shown(launch), target, problem=said)


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
    parser.add_argument("--op", action="append", choices=sorted(RECORDS))
    parser.add_argument("--without", action="append", help="a dtype; the kernels for float16 are those for bfloat16")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--record", type=Path, help="a result file, such as triton-versions-DATE.json")
    arguments = parser.parse_args()
    wanted = arguments.target or list(SHARED_MEMORY)
    print(f"triton {triton.__version__}")
    results = []
    work = work_of(arguments.op or sorted(RECORDS), wanted, arguments.without)
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
