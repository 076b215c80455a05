"""What was measured of single kernels, and how near that is to the limit of the machine."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from figures.kernel_figures import number
from figures.results import Report, Results, read
from figures.text import model, table

# Whose time is compared with the limit: the kernel where it ran, else what the dispatcher takes, else the twin.
OURS = ("triton", "sam2fast", "torch")
TIMES = re.compile(r"(?<=\d)x(?=\d)")
PARTS = ("preprocess", "patch embedding", "norms", "qkv", "attention", "projections", "MLP", "neck and heads", "rest")


def measured(ops: Sequence[str], subjects: Mapping[str, str], step: str) -> Callable[[Results], str]:
    """A section of ops, with a table for each device.

    Args:
        subjects: those that are shown, as the files name them, and as the table does.
        step: of ``make gpu`` that measures these ops.
    """

    def section(results: Results) -> str:
        found = _newest_of_devices(results, ops)
        parts = [_device(results, report, ops, subjects) for report in found]
        command = f"`make gpu PART='micro {step}'`"
        if not any(_on_gpu(report) for report in found):
            where = "Not measured on a GPU" if found else "Not measured, neither on a GPU nor on a CPU"
            parts.append(results.paragraph(f"{where}; {command} does."))
        return "\n\n".join(parts)

    return section


def _newest_of_devices(results: Results, ops: Sequence[str]) -> list[Report]:
    """Of each device, the newest report of ``make gpu`` with one of these ops."""
    newest: dict[str, Report] = {}
    for path in sorted(results.folder.glob("*.json")):
        report = read(path)
        if any(row["op"] in ops for row in _micro(report)):
            device = report.data["machine"]["device"]
            if device not in newest or newest[device].data["date"] <= report.data["date"]:
                newest[device] = report
    return sorted(newest.values(), key=_on_gpu)


def _micro(report: Report) -> list[dict[str, Any]]:
    return report.data.get("parts", {}).get("micro", []) if "device" in report.data.get("machine", {}) else []


def _on_gpu(report: Report) -> bool:
    return not report.data["machine"]["device"].startswith("CPU")


def _device(results: Results, report: Report, ops: Sequence[str], subjects: Mapping[str, str]) -> str:
    cases: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for row in _micro(report):
        if row["op"] in ops and row["subject"] in subjects and "p50 ms" in row:
            cases.setdefault((row["op"], row["shape"], row["dtype"]), {})[row["subject"]] = row
    columns = list(dict.fromkeys(subjects[name] for name in subjects if any(name in case for case in cases.values())))
    rows = []
    for (op, shape, dtype), case in cases.items():
        shown = {subjects[name]: f"{number(row['p50 ms'])} ms" for name, row in case.items()}
        ours = next((case[name] for name in OURS if name in case), None)
        rows.append([f"`{op}`", TIMES.sub("×", shape), dtype, *(shown.get(name, "–") for name in columns),
                     "–" if ours is None else f"{number(100 * ours['of limit'])} %"])  # fmt: skip
    about = report.data["machine"]
    said = (
        f"Medians on {about['device'].replace('CPU ', 'a CPU: ')}, torch {about['torch'].split('+')[0]} "
        f"({results.link(report, 'every figure')}). The limit is the time that the FLOPs take at the rate of a large "
        "matrix product in that dtype, or the bytes at that of a large copy, both measured in the same run; the last "
        "column is that limit over our time. What stays in the cache may pass it."
    )
    header = ["op", "shape", "dtype", *columns, "of the limit"]
    return table(header, rows) + "\n\n" + results.paragraph(said)


def encoder_parts(results: Results) -> str:
    """Milliseconds of each part of the image encoder, and its floor."""
    report = results.newest("encoder-parts")
    cells = {(row["size"], row["dtype"], row["part"]): row for row in report.data["rows"]}
    kinds = list(dict.fromkeys((size, dtype) for size, dtype, _ in cells))
    rows = []
    for part in (*PARTS, "all"):
        shown = []
        for size, dtype in kinds:
            row = cells[size, dtype, part]
            floor = "" if part == "rest" else f" ({row['floor ms']:.0f})"
            shown.append(f"{row['ms']:.0f}{floor}")
        rows.append([part, *shown])
    about = report.data["machine"]
    said = (
        f"One picture at 1024 pixels on two threads of an {about['cpu']} with {about['capability']}, milliseconds, and "
        "in brackets the floor: FLOPs at the measured rate of a large matrix product, or bytes at that of a large copy "
        f"(`bench/encoder_parts.py`, {results.link(report, 'every figure')})."
    )
    header = ["part", *(f"{model(size)} {dtype}" for size, dtype in kinds)]
    return results.paragraph(said) + "\n\n" + table(header, rows)
