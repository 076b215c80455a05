"""Times one op beside torch and prints a table: ``python bench/kernels/layer_norm.py``.

    --device DEVICE   cuda if there is one, else cpu
    --all             every case; without it a CPU stops after twelve seconds, smallest cases first
    --list            names of the cases; runs nothing

A row has the median time, the bytes that must be moved, FLOPs of matrix products, the share of the device's measured
limit, and the speed relative to the first way, which is torch's. Results are compared before anything is timed.
"""

import argparse
import time
from typing import Any

import torch
from registry import Case, Record

SECONDS_ON_CPU = 12.0
COLUMNS = "{:<44}{:>10}{:>9}{:>9}{:>9}{:>9}"


def main(record: Record) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    cases = [case for case in record.cases if case.runs_on(arguments.device)]
    if arguments.list:
        print(*(case.name for case in cases), sep="\n")
        return
    from sam2fast.profiling.limits import measure_limits  # here, since a list needs none of it

    is_limited = arguments.device.type == "cpu" and not arguments.all
    if is_limited:
        cases.sort(key=lambda case: case.work.bytes + case.work.products)
    limits, start = measure_limits(arguments.device), time.monotonic()
    print(COLUMNS.format("", "ms", "MB", "GFLOP", "limit", "speed"))
    for done, case in enumerate(cases):
        if done and is_limited and time.monotonic() - start > SECONDS_ON_CPU:
            print(f"{len(cases) - done} larger cases are left out; --all times them")
            break
        _print_rows(case, limits, arguments.device)


def _print_rows(case: Case, limits: Any, device: torch.device) -> None:
    from measure import case_rows

    rows = case_rows(case, device, limits)
    for row in rows:
        ms = row["p50 ms"]
        print(
            COLUMNS.format(
                f"{case.name} {row['subject']}",
                f"{ms:.3f}",
                f"{row['bytes'] / 1e6:.1f}",
                f"{row['FLOP'] / 1e9:.1f}" if row["FLOP"] else "",
                f"{row['of limit']:.0%}",
                f"{rows[0]['p50 ms'] / ms:.2f}x",
            ),
            flush=True,
        )
