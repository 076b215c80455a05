"""Tables of the pages on kernels: work and limits by formula, and what was measured."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from kernel_records import RECORDS
from kernel_records.memory_attention import memory_work, published_flops
from registry import Work

from figures.results import Report, Results, mark, table

# Subjects of a file that are shown, and their names; the others are only in the file.
SHOWN = {
    "SDPA": "windows cut out, SDPA",
    "projected values, SDPA": "as published, SDPA",
    "rotated before, SDPA": "as published, SDPA",
    "projected values, torch.compile": "as published, torch.compile",
    "projected values, FlexAttention": "as published, FlexAttention",
    "scipy on the host": "scipy",
    "torch loop": "plain torch loop",
    "full-size logits": "torch",
    "one by one": "one by one",
    "full-size logits, one by one": "one by one",
    "torchvision": "torchvision",
    "torch": "torch",
    "torch twin": "torch",  # codespell:ignore
    "reference": "torch",
    "sam2fast": "sam2fast",
    "sam2fast in fp8": "sam2fast in fp8",
    "sam2fast, specialised": "specialised warps",
    "sam2fast, in Gluon": "in Gluon",
    "rotation, torch's choice": "rotated by us, SDPA",
    "rotation, cuDNN": "rotated by us, cuDNN",
    "triton": "kernel",
}
# The first of these subjects that was measured is compared with the limit.
OURS = ("triton", "sam2fast", "torch")


class Gpu(NamedTuple):
    """Peaks per second from data sheets: dense products, without sparsity."""

    name: str
    memory: float  # bytes
    products: dict[str, float]  # FLOPs on tensor cores by dtype; fp32 as three products in TF32
    vector: float  # FLOPs in fp32 outside of tensor cores
    exponentials: float  # 16 a clock and multiprocessor


# The card of which documents show the least times. 16 exponentials per clock and multiprocessor, of 128 lanes for fp32.
H100 = Gpu("H100", 3.35e12, {"bf16": 989e12, "fp32": 494e12 / 3, "int8": 1979e12}, 67e12, 67e12 / 16)


def floor(work: Work, gpu: Gpu, dtype: str) -> tuple[float, str]:
    """Seconds at the least, and what takes them: memory, products, arithmetic or exponentials."""
    rates = (gpu.memory, gpu.products[dtype], gpu.vector, gpu.exponentials)
    limits = ("memory", "products", "arithmetic", "exponentials")
    return max((amount / rate, what) for amount, rate, what in zip(work, rates, limits, strict=True))


def number(value: float) -> str:
    """Three digits, without a power of ten."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.3g}")
    digits = max(0, 2 - math.floor(math.log10(abs(rounded))))
    return f"{value if digits == 0 else rounded:,.{digits}f}"


def _time(seconds: float) -> str:
    return f"{number(seconds * 1e3)} ms" if seconds >= 1e-3 else f"{number(seconds * 1e6)} µs"


def work_table(lines: Iterable[tuple[str, str, Work]]) -> str:
    """GFLOP, MB, and the least time on an H100 with what takes it."""
    rows = []
    for what, dtype, done in lines:
        seconds, limit = floor(done, H100, dtype)
        rows.append([what, number(done.flops / 1e9), number(done.bytes / 1e6), f"{_time(seconds)}, {limit}"])
    return table(["", "GFLOP", "MB", f"{H100.name} at least"], rows)


def limits(results: Results) -> str:
    """A piece of a sentence: what the least times are computed from."""
    bf16, fp32, int8 = (f"{H100.products[dtype] / 1e12:.0f}" for dtype in ("bf16", "fp32", "int8"))
    return (
        f"{H100.memory / 1e12:g} TB/s; {bf16} TFLOP/s of matrix multiplications in bf16, {fp32} in fp32 by three in "
        f"TF32, {int8} in int8; {H100.vector / 1e12:g} TFLOP/s of other arithmetic; "
        f"{number(H100.exponentials / 1e12)}e12 exponentials per second"
    )


def triton_exceptions(results: Results) -> str:
    """Lists kernels that do not compile or spill, a row for each version of Triton, op and kind of problem."""
    report = results.newest("triton-versions")
    kinds: dict[tuple[str, str, str], list[tuple[str, int]]] = {}
    for row in report.data["failed"]:
        spilled = re.fullmatch(r"spills (\d+) bytes", row["problem"])
        problem = "spills" if spilled else "does not compile" if row["op"] == "all" else row["problem"]
        found = kinds.setdefault((row["triton"], row["op"], problem), [])
        found.append((row["target"], int(spilled[1]) if spilled else 0))
    lines = []
    for (triton, op, problem), found in kinds.items():
        most = max(size for _, size in found)
        said = f"{problem}, at most {most} bytes" if most else problem
        lines.append([triton, ", ".join(dict.fromkeys(target for target, _ in found)), op, said])
    link = results.link(report)
    return table(["Triton", "architectures", "op", "problem"], lines) + f"\n\n{link} lists every configuration."


def memory_folding(results: Results) -> str:
    """A piece of a sentence: FLOPs of a layer for one object, as published and ours."""
    published, ours = published_flops(1), memory_work(1, 2, 1).products
    return f"{number(published / 1e9)} GFLOP for one object become {number(ours / 1e9)}"


def measured(results: Results, ops: Sequence[str]) -> str:
    """Medians of ops, with a table for each device and file: of each op the newest that has it."""
    newest: dict[tuple[str, str], Report] = {}
    for report in results.reports(".+"):
        for op in {row["op"] for row in report.data.get("parts", {}).get("micro", [])} & {*ops}:
            newest.setdefault((report.data["machine"]["device"], op), report)
    found: dict[tuple[str, str], tuple[Report, list[str]]] = {}
    for (device, op), report in newest.items():
        found.setdefault((device, report.path), (report, []))[1].append(op)
    name_ops = len({op for _, op in newest}) > 1
    parts = [_on_device(results, *found[key], name_ops) for key in sorted(found)]
    return "\n\n".join(parts) or "This op was not timed on a GPU (`make gpu PART=micro`)."


def _on_device(results: Results, report: Report, ops: Sequence[str], name_ops: bool) -> str:
    cases: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for row in report.data["parts"]["micro"]:
        if row["op"] in ops and row["subject"] in SHOWN and "p50 ms" in row:
            cases.setdefault((row["op"], row["shape"], row["dtype"]), {})[row["subject"]] = row
    columns = dict.fromkeys(SHOWN[name] for name in SHOWN if any(name in case for case in cases.values()))
    lines = []
    for (op, shape, dtype), case in cases.items():
        times = {SHOWN[name]: number(row["p50 ms"]) for name, row in case.items()}
        ours = next((case[name] for name in OURS if name in case), None)
        share = "–" if ours is None else number(100 * ours["of limit"])
        what = f"`{op}`, " * name_ops + re.sub(r"(?<=\d)x(?=\d)", "×", shape) + f", {dtype}"
        what += mark(next(iter(case.values())), report)
        lines.append([what, *(times.get(name, "–") for name in columns), share])
    about = report.data["machine"]
    said = (
        f"Medians in ms on {about['device'].replace('CPU ', 'a CPU: ')}, torch {about['torch'].split('+')[0]} "
        f"({results.link(report, 'every figure')})."
    )
    return table(["", *columns, "% of the limit"], lines) + "\n\n" + said


def _sections() -> Iterable[tuple[str, Callable[[Results], str]]]:
    """Yields the sections of each record's page, and of other pages that show measurements of its ops."""
    for op, record in RECORDS.items():
        page = op.replace("_", "-")
        yield f"work-{page}", lambda results, record=record: work_table(record.work())
        for name, ops in (record.pages or {page: [case.op for case in record.cases]}).items():
            yield f"measured-{name}", lambda results, ops=ops: measured(results, ops)


SECTIONS = {
    "kernel-limits": limits,
    "memory-folding": memory_folding,
    "triton-exceptions": triton_exceptions,
    **dict(_sections()),
}
