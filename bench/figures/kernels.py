"""Tables of the pages on kernels: work and limits by formula, stored launches, and what was measured."""

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kernel_records import RECORDS
from kernel_records.memory_attention import memory_work, published_flops
from registry import Work

from figures.results import Report, Results, table

LAUNCH_TABLE = Path(__file__).resolve().parents[2] / "kernels" / "launch_table.json"
# What is shown of a file, and under which name; the rest is in the file alone.
SHOWN = {
    "SDPA": "windows cut out, SDPA",
    "projected values, SDPA": "as published, SDPA",
    "rotated before, SDPA": "as published, SDPA",
    "projected values, torch.compile": "as published, torch.compile",
    "projected values, FlexAttention": "as published, FlexAttention",
    "scipy on the host": "scipy",
    "torch loop": "plain torch loop",
    "full-size logits": "full-size logits",
    "one by one": "one by one",
    "full-size logits, one by one": "one by one",
    "torchvision": "torchvision",
    "torch": "torch",
    "torch twin": "torch",  # codespell:ignore
    "reference": "torch",
    "sam2fast": "sam2fast",
    "sam2fast in fp8": "sam2fast in fp8",
    "triton": "kernel",
}
# Whose time is compared with the limit, the first that was measured.
OURS = ("triton", "sam2fast", "torch")


class Gpu(NamedTuple):
    """Peaks per second from data sheets: dense products, without sparsity."""

    name: str
    memory: float  # bytes
    products: dict[str, float]  # FLOPs on tensor cores by dtype; fp32 as three products in TF32
    vector: float  # FLOPs in fp32 outside of tensor cores
    exponentials: float  # 16 a clock and multiprocessor


_HOPPER = {"bf16": 989e12, "fp32": 494e12 / 3, "int8": 1979e12}
GPUS = (
    # 64 fp32 lanes a multiprocessor: an eighth as many exponentials as FLOPs; of 128, a sixteenth.
    Gpu("A100", 2.04e12, {"bf16": 312e12, "fp32": 156e12 / 3, "int8": 624e12}, 19.5e12, 19.5e12 / 8),
    Gpu("H100", 3.35e12, _HOPPER, 67e12, 67e12 / 16),
    Gpu("H200", 4.8e12, _HOPPER, 67e12, 67e12 / 16),
)


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
    """GFLOP, MB, FLOPs for each byte, and the least time on each GPU with what takes it."""
    rows = []
    for what, dtype, done in lines:
        floors = (floor(done, gpu, dtype) for gpu in GPUS)
        cells = [number(done.flops / 1e9), number(done.bytes / 1e6), number(done.flops / done.bytes)]
        rows.append([what, *cells, *(f"{_time(seconds)}, {limit}" for seconds, limit in floors)])
    return table(["", "GFLOP", "MB", "FLOP per byte", *(f"{gpu.name} at least" for gpu in GPUS)], rows)


def limits(results: Results) -> str:
    """What the least times are computed from."""
    rows = [
        [gpu.name, f"{gpu.memory / 1e12:g} TB/s"]
        + [f"{gpu.products[dtype] / 1e12:.0f}" for dtype in ("bf16", "fp32", "int8")]
        + [f"{gpu.vector / 1e12:g}", number(gpu.exponentials / 1e12)]
        + [number(gpu.products["bf16"] / gpu.memory), number(gpu.vector / gpu.memory)]
        for gpu in GPUS
    ]
    header = ["", "memory", "products in bf16", "in fp32, by three in TF32", "in int8", "other arithmetic in fp32"]
    header += ["exponentials", "FLOP per byte where products take over", "where other arithmetic does"]
    return table(header, rows)


def memory_folding(results: Results) -> str:
    """A piece of a sentence: FLOPs of a layer for one object, as published and ours."""
    published, ours = published_flops(1), memory_work(1, 2, 1).products
    return f"{number(published / 1e9)} GFLOP for one object become {number(ours / 1e9)}"


def launches(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of one op in the launch table; those that differ in the dtype alone are one."""
    merged: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for row in rows:
        key = json.dumps([row["arch"], row["shape"], row["meta"], row["options"]])
        merged.setdefault(key, (row, []))[1].append(row["dtype"])
    names = list(dict.fromkeys(name for row in rows for name in row["meta"]))
    lines = [
        [row["arch"], ", ".join(dtypes), row["shape"], *(str(row["meta"].get(name, "")) for name in names)]
        + [str(row["options"]["num_warps"]), str(row["options"].get("num_stages", "Triton's"))]
        for row, dtypes in merged.values()
    ]
    lines = [["any" if cell == "*" else cell for cell in line] for line in lines]
    return table(["GPU", "dtype", "shape", *(f"`{name}`" for name in names), "warps", "stages"], lines)


def measured(results: Results, ops: Sequence[str]) -> str:
    """Medians of ops, with a table for each device; the newest file of each that has one of the ops."""
    newest: dict[str, Report] = {}
    for report in results.reports(".+"):
        if any(row["op"] in ops for row in report.data.get("parts", {}).get("micro", [])):
            newest.setdefault(report.data["machine"]["device"], report)
    parts = [_on_device(results, report, ops) for _, report in sorted(newest.items())]
    if all(device.startswith("CPU") for device in newest):
        parts.append("Not measured on a GPU; `make gpu PART=micro` does.")
    return "\n\n".join(parts)


def _on_device(results: Results, report: Report, ops: Sequence[str]) -> str:
    cases: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for row in report.data["parts"]["micro"]:
        if row["op"] in ops and row["subject"] in SHOWN and "p50 ms" in row:
            cases.setdefault((row["op"], row["shape"], row["dtype"]), {})[row["subject"]] = row
    columns = dict.fromkeys(SHOWN[name] for name in SHOWN if any(name in case for case in cases.values()))
    lines = []
    for (op, shape, dtype), case in cases.items():
        times = {SHOWN[name]: f"{number(row['p50 ms'])} ms" for name, row in case.items()}
        ours = next((case[name] for name in OURS if name in case), None)
        share = "–" if ours is None else f"{number(100 * ours['of limit'])} %"
        what = [f"`{op}`", re.sub(r"(?<=\d)x(?=\d)", "×", shape), dtype]
        lines.append([*what, *(times.get(name, "–") for name in columns), share])
    about = report.data["machine"]
    said = (
        f"Medians on {about['device'].replace('CPU ', 'a CPU: ')}, torch {about['torch'].split('+')[0]} "
        f"({results.link(report, 'every figure')})."
    )
    return table(["op", "shape", "dtype", *columns, "of the limit"], lines) + "\n\n" + said


def _sections() -> Iterable[tuple[str, Callable[[Results], str]]]:
    """Of the page of each record, and of the other pages that show measurements of its ops."""
    rows = json.loads(LAUNCH_TABLE.read_text(encoding="utf-8"))
    for op, record in RECORDS.items():
        page = op.replace("_", "-")
        yield f"work-{page}", lambda results, record=record: work_table(record.work())
        yield f"launch-{page}", lambda results, rows=rows[op]: launches(rows)
        for name, ops in (record.pages or {page: [case.op for case in record.cases]}).items():
            yield f"measured-{name}", lambda results, ops=ops: measured(results, ops)


SECTIONS = {"kernel-limits": limits, "memory-folding": memory_folding, **dict(_sections())}
