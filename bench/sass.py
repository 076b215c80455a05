"""Reads the machine code of every kernel, without a GPU, and bounds the speed that its products can reach.

    python bench/sass.py [--target sm_90] [--op memory_attention] [--store | --candidates]

For each kernel and target it prints what one iteration of the main loop executes in each warp, or of a kernel
without products the whole code. Kernels with products have a bound on the fraction of the GPU's peak, by the model of
``sass_model.py``. In all dtypes except float32 it fails where

- a configuration for one shape class loads what it multiplies without anything to overlap: the loop waits for loads
  that were issued after its last product, and too few programs run at once to fill the gap;
- products by wgmma are waited for one by one;
- the loop passes numbers between threads through shared memory, beyond those that it loads;
- the configuration says more programs of a multiprocessor than fit;

and in all dtypes where

- a register that a wgmma multiplies from is overwritten before the wgmma is waited for, or a uniform register is read
  that is not set (``sass_hazards.py``);
- the bound is below the one stored in ``sass_bounds.json``.

``--store`` stores the bounds of today, after a change that is meant: a GPU may prefer a lower bound.
``--candidates`` looks at the candidates of ``make tune`` instead, on sm_90, and for those registers alone.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import aot
from kernel_records import RECORDS, SEARCHES
from recorded import PRODUCTS, Launch, launches_of
from sass_code import (
    iterations_ahead,
    iterations_that_copy,
    main_loop,
    parse,
    specialised,
    tensor_count,
    until_last_product,
    weighted,
)
from sass_hazards import hazards, left_registers
from sass_kernels import Report, problems, tile_of, variant
from sass_model import CHIPS, Tile, bound, clocks, programs_at_once

from sam2fast.kernels import _launch
from sam2fast.kernels._launch import ANY, CTAS_PER_SM, Row

BOUNDS = Path(__file__).with_name("sass_bounds.json")


def examine(stored: Mapping[str, float] | None, launch: Launch, target: str) -> Report:
    """Compiles one kernel and reads its code; without ``stored`` the bounds of the past do not matter."""
    name = f"{launch.op} {launch.dtype} {launch.shape} {variant(launch)} {target}"
    has_programs = launch.op == "memory_attention" and launch.name in PRODUCTS
    programs = launch.meta.get(CTAS_PER_SM, 1) if has_programs else None
    return read(aot.compiled_for(launch, target), name, launch, target, tile_of(launch), programs, stored)


def read(
    compiled: Any,
    name: str,
    launch: Launch,
    target: str,
    tile: Tile | None,
    programs: int | None,
    stored: Mapping[str, float] | None,
) -> Report:
    """Reads the code of one compiled kernel, of which so many programs run at once; None for as many as fit."""
    cubin = compiled.asm["cubin"]
    registers, _ = aot.resources(compiled.asm["ptx"], cubin, target, launch.options)
    code = parse(aot.read_by("nvdisasm", "-c", cubin))
    loop, chip, warps = main_loop(code), CHIPS[target], launch.options.get("num_warps", compiled.metadata.num_warps)
    body = code.instructions[loop[0] : loop[1] + 1] if loop else code.instructions
    groups = specialised(code, loop)
    fitting = programs_at_once(chip, registers, compiled.metadata.shared, compiled.metadata.num_warps)
    programs = programs or fitting
    ahead = iterations_ahead(body)
    found, reached = None, 0.0
    if tile is not None:
        # Triton peels iterations off a pipelined loop.
        peeled = tensor_count(code.instructions) / groups / max(1, tensor_count(body)) - 1 if loop else 0
        trips = max(0, round(tile.blocks - peeled))
        copying = iterations_that_copy(code, loop, round(tile.blocks))
        counts = weighted(code, loop, trips, tile.inner, copying)
        found = clocks(chip, tile, counts, warps * groups, ahead != 0)
        reached = bound(chip, tile, found, min(programs, fitting), groups)
    once = Counter(x.kind for x in body)
    kinds = [kind for kind in ("wgmma", "mma", "tcgen05") if once[kind]]
    report = Report(
        name,
        aot.shown(launch),
        warps,
        registers,
        compiled.metadata.shared,
        programs,
        " ".join(f"{once[kind]} {kind}" for kind in kinds) + (f" in each of {groups} groups" if groups > 1 else ""),
        tile,
        {kind: once[kind] for kind in ("mufu", "fp32", "int", "uniform", "shared", "global", "tmem", "local", "sync")},
        sum(
            x.root in ("BAR", "DEPBAR", "SYNCS", "UCGABAR_WAIT") or x.name.startswith("WARPGROUP.DEPBAR") for x in body
        ),
        ahead if loop else None,
        found,
        reached,
        sum(map(bool, map(left_registers, code.instructions))),
        hazards(code),
        "",
    )
    return report._replace(
        problem="; ".join(problems(report, launch, until_last_product(body) if loop is None else body, fitting, stored))
    )


class Scan(NamedTuple):
    """A candidate of ``make tune``."""

    name: str
    left: int
    hazards: list[str]

    @property
    def problem(self) -> str:
        return "; ".join(self.hazards)


def candidates(ops: list[str], without: list[str]) -> list[tuple[Launch, str]]:
    """Every candidate's kernels with products on sm_90, the first GPU with wgmma and the last."""
    target, found = "sm_90", []
    for search in SEARCHES:
        if search.op not in ops or search.dtype in without:
            continue
        calls = [
            call
            for call in RECORDS[search.op].launched()
            if call.shape == search.shape and search.dtype in (ANY, call.dtype)
        ]
        for each in search.candidates:
            rows = {search.op: [Row(target, search.dtype, search.shape, *each)]}
            with mock.patch.object(_launch, "custom_rows", lambda rows=rows: rows):
                found += launches_of(search.op, calls, target)
    return [(launch, target) for launch in found if launch.name in PRODUCTS]


def scan(launch: Launch, target: str) -> Scan:
    """Compiles a candidate and looks for wrong registers."""
    code = parse(aot.read_by("nvdisasm", "-c", aot.compiled_for(launch, target).asm["cubin"]))
    name = f"{launch.op} {launch.shape} {variant(launch)}: {aot.shown(launch)}"
    return Scan(name, sum(map(bool, map(left_registers, code.instructions))), hazards(code))


def show(report: Report | Scan | aot.Result) -> None:
    if isinstance(report, aot.Result):
        print(f"{report.op} {report.kernel} {report.config} {report.target}: {report.problem}", flush=True)
        return
    if isinstance(report, Scan):
        print(f"{report.name}: {report.left} wgmma from registers: {report.problem or 'ok'}", flush=True)
        return
    ahead = "-" if report.ahead is None else f"{report.ahead:.1f}"
    print(f"{report.name}: {report.config}: {report.problem or 'ok'}")
    counts = [report.tensor, *(f"{n} {kind}" for kind, n in report.counts.items() if n)]
    print(
        f"    {', '.join(filter(None, counts))}, {report.waits} waits, "
        f"loads {ahead} iterations ahead, {report.registers} registers, {report.shared} B shared, "
        f"{report.programs} programs at once"
    )
    if (found := report.clocks) is not None:
        print(
            f"    clocks of a program: tensor {found.tensor:,.0f}, shared {found.shared:,.0f}, "
            f"other {found.other:,.0f}, L2 {found.l2:,.0f}, latency {found.latency:,.0f}; "
            f"of peak at most {report.bound:.1%}"
        )
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", choices=list(CHIPS))
    parser.add_argument("--op", action="append", choices=sorted(RECORDS))
    parser.add_argument("--without", action="append", help="a dtype, as for bench/aot.py")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    does = parser.add_mutually_exclusive_group()
    does.add_argument("--store", action="store_true", help=f"write the bounds into {BOUNDS.name}")
    does.add_argument("--candidates", action="store_true", help="of make tune, for wrong registers alone")
    arguments = parser.parse_args()
    stored = json.loads(BOUNDS.read_text()) if BOUNDS.exists() else {}
    ops = arguments.op or sorted(RECORDS)
    if arguments.candidates:
        work, look = candidates(ops, arguments.without or []), scan
    else:
        work = aot.work_of(ops, arguments.target or list(CHIPS), arguments.without)
        look = partial(examine, None if arguments.store else stored)
    reports = []
    for report in aot.compile_all(work, arguments.jobs, look):
        reports.append(report)
        show(report)
    if arguments.store:
        whole = not (arguments.op or arguments.target or arguments.without)
        new = {report.name: round(report.bound, 3) for report in reports if isinstance(report, Report) and report.tile}
        BOUNDS.write_text(json.dumps(new if whole else {**stored, **new}, indent=1, sort_keys=True) + "\n")
    failed = [report for report in reports if report.problem]
    scanned = [report for report in reports if not isinstance(report, aot.Result)]
    print(
        f"{len(scanned)} kernels scanned, {sum(report.left > 0 for report in scanned)} with wgmma from registers; "
        f"{sum(len(report.hazards) for report in scanned)} hazards"
    )
    print(f"{len(reports) - len(failed)} passed, {len(failed)} failed")
    sys.exit(bool(failed) or not reports)


if __name__ == "__main__":
    main()
