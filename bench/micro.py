"""Rows of the micro benchmarks: a case of a record, every subject of it."""

from collections.abc import Sequence
from typing import Any

import torch
from backend_calls import OURS
from measure import measure
from registry import Case, check

from sam2fast.profiling.limits import Limits


def case_rows(case: Case, device: torch.device, limits: Limits) -> list[dict[str, Any]]:
    """A row for each subject that runs here, the baseline first.

    Raises:
        WrongResultError: a result differs by more than the case allows; nothing is timed then.
    """
    rows = []
    with torch.no_grad():
        for subject, call in check(case, case.prepare(device), device).items():
            row = {"op": case.op, "shape": case.shape, "dtype": case.dtype, "subject": subject}
            row |= measure(call, device) | {"FLOP": case.work.products, "bytes": case.work.bytes}
            row["of limit"] = limits.fraction(case.dtype, row["FLOP"], row["bytes"], row["p50 ms"])
            rows.append(row)
            print({key: f"{x:.3g}" if isinstance(x, float) else x for key, x in row.items()}, flush=True)
    return rows


def speed(rows: Sequence[dict[str, Any]]) -> str:
    """Our time, its share of the limit, and how much faster than the baseline it is."""
    ours = next((row for name in OURS for row in rows if row["subject"] == name), None)
    if ours is None:
        return ""
    ratio = rows[0]["p50 ms"] / ours["p50 ms"]
    share, baseline = ours["of limit"], rows[0]["subject"]
    return f"{ours['op']} {ours['shape']}: {ours['p50 ms']:.3g} ms, {share:.0%} of the limit, {ratio:.2f}x {baseline}"
