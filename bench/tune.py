"""Measures candidate launch configurations on this GPU, keeps the best in a file, and prints what changes.

    make tune [OP=connected_components]
    python bench/tune.py --op memory_attention --shape 256x64 --dtype bfloat16
    python bench/tune.py --list
    SAM2FAST_LAUNCH_TABLE=mine.json python bench/tune.py --seconds 600
    python bench/tune.py --device cpu --small     # a rehearsal without a GPU

Every candidate's result is checked before anything is timed, by processes of their own (``tuning_trials.py``), which
also compile. The best is written as soon as its candidates are through, into the file that ``SAM2FAST_LAUNCH_TABLE``
names, by default ``out/launch_table.json``; with that variable the package uses it. For everybody, enter the printed
change into the op's ``config``, with the file of results that measured it. What is in force is always one of the
candidates. ``--op``, ``--shape`` and ``--dtype`` choose, each may be given several times, and what is left out means
all. Of window_attention, "*" are all windows, whose cases decide together, and "global" the whole map. That, and
256x256 of memory_attention, may also name one of torch's own ways by ``SDPA``; linear_gelu may be left to torch by
``TORCH``.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from backend_calls import on_cpu, said
from kernel_records import SEARCHES
from measure import device_time
from registry import Search, launch_module
from reports import write_text
from tuning_trials import CASES, NO_TIME, SMALL_CASES, Attempt, Judges, subjects, times

from sam2fast.kernels._launch import TABLE_VARIABLE, LaunchConfig, Row, architecture, fitting_row, parse_rows

TABLE = Path(__file__).resolve().parents[1] / "out" / "launch_table.json"
Save = Callable[[dict[str, Any]], None]
# Seconds for each case: of the baseline, of all candidates, and of the best ones once more.
BASELINE_S, FIRST_S, FINAL_S = 0.2, 0.05, 0.3
FINALISTS = 5
# The configuration in force stays if the best one is not this much faster; less is noise.
GAIN = 1.01


class Timed(NamedTuple):
    """A candidate that was timed."""

    attempt: Attempt
    relative: float  # mean over the cases of its time over the baseline's


def table_file() -> Path:
    """The file of the best configurations."""
    path = Path(os.environ.get(TABLE_VARIABLE) or TABLE)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n")
    return path


def change_of(row: Row, op: str, before: LaunchConfig) -> str:
    """Returns the change to enter into the op's ``config``."""
    where = f"{op}: config{row[:3]}"
    return f"{where}: {dict(before.meta)}, {dict(before.options)} -> {dict(row.meta)}, {dict(row.options)}"


def merged(table: dict[str, Any], rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The table with each row in place of the one for the same GPU, dtype and shape class."""
    result = dict(table)
    for row in rows:
        key = {name: row[name] for name in ("arch", "dtype", "shape")}
        others = [old for old in result.get(row["op"], ()) if any(old[name] != value for name, value in key.items())]
        result[row["op"]] = [*others, {**key, "meta": dict(row["meta"]), "options": dict(row["options"])}]
    return result


def text_of(table: dict[str, Any]) -> str:
    """JSON with a line per row."""
    ops = []
    for op, rows in table.items():
        lines = ",\n".join("    " + json.dumps(row) for row in rows)
        ops.append(f'  "{op}": [\n{lines}\n  ]')
    return "{\n" + ",\n".join(ops) + "\n}\n" if ops else "{}\n"


def attempts_of(search: Search, stored: LaunchConfig, small: bool = False) -> list[Attempt]:
    """The configuration in force, torch's own ways where it may name one, and the candidates; each once."""
    name, options = search.choice, dict(stored.options)
    chosen = [{name: choice} for choice in (stored.meta.get(name, 0), *search.choices, 0)] if name else [{}]
    found = [Attempt({**stored.meta, **choice}, options, not any(choice.values())) for choice in chosen]
    kernels = [Attempt(meta | ({name: 0} if name else {}), options) for meta, options in search.candidates]
    distinct = list({json.dumps(each, sort_keys=True): each for each in (*found, *kernels)}.values())
    if small:  # one beside that in force, by the kernel
        distinct = distinct[:1] + [each for each in distinct[1:] if each.by_kernel][:1]
    return distinct


def row_of(search: Search, attempt: Attempt) -> dict[str, Any]:
    names = {"op": search.op, "dtype": search.dtype, "shape": search.shape}
    return names | {"meta": attempt.meta, "options": attempt.options}


def run(
    search: Search,
    device: torch.device,
    save: Save,
    small: bool = False,
    deadline: float = float("inf"),
    judges: Judges | None = None,
) -> bool:
    """Judges all candidates of a search, times the right ones, and stores the best.

    Args:
        save: is given a row per candidate as they come, those of the final a second one, and at last a row that says
            what was stored, and how much faster it is than before.
        small: a rehearsal with two candidates on small cases. It is stored only where ``SAM2FAST_LAUNCH_TABLE`` is set.
        deadline: by ``time.monotonic``; then the best of what was timed so far is stored.
        judges: processes that stay for several searches; else they are started and ended here.

    Returns:
        Whether any candidate gives the right result; also true where there was no time to find out.
    """
    if device.type == "cpu":
        on_cpu()
    if judges is None:
        with Judges(device.type, SMALL_CASES if small else CASES) as judges:
            return run(search, device, save, small, deadline, judges)
    start, arch = time.perf_counter(), architecture(device)
    rows, wanted = parse_rows(table_file().read_text()).get(search.op, ()), (arch, search.dtype, search.shape)
    before = fitting_row(rows, *wanted) or launch_module(search.op).config(*wanted)
    attempts = attempts_of(search, before, small)
    right, unknown = [], 0
    for attempt, problem in zip(attempts, judges.judge(search, attempts, deadline), strict=True):
        if problem == NO_TIME:
            unknown += 1
        elif problem:
            save(row_of(search, attempt) | {"correct": problem, "relative time": None})
        else:
            right.append(attempt)
    judged = time.perf_counter() - start
    timed = timed_twice(search, right, attempts[0], device, save, deadline, small) if right else []
    best, own = next(iter(timed), None), next((each for each in timed if each.attempt == attempts[0]), None)
    if best and own and own.relative < best.relative * GAIN:
        best = own
    row = with_blocks(search, best, timed).row(search, arch) if best else None
    if row and small and not os.environ.get(TABLE_VARIABLE):
        row = None
    stored = row and {"op": search.op, **row._asdict()}
    if stored:
        write_text(table_file(), text_of(merged(json.loads(table_file().read_text()), [stored])))
        if row[3:] != before:
            print(change_of(row, search.op, before), flush=True)
    save(
        {
            "op": search.op,
            "dtype": search.dtype,
            "shape": search.shape,
            "candidates": len(attempts),
            "right": len(right),
            "not judged": unknown,
            "timed": len(timed),
            "stored": stored,
            "before": {"meta": dict(before.meta), "options": dict(before.options)},
            "relative time": best and best.relative,
            "speedup": best and own and own.relative / best.relative,
            "judging s": judged,
            "seconds": time.perf_counter() - start,
            "out of time": time.monotonic() >= deadline,
        }
    )
    return bool(right) or unknown > 0


def timed_twice(
    search: Search,
    right: list[Attempt],
    stored: Attempt,
    device: torch.device,
    save: Save,
    deadline: float,
    small: bool,
) -> list[Timed]:
    """All, shortly; then the best ones and the stored one longer. Of each its last time, the final's before others."""
    scale, least = (0.0, 1) if small else (1.0, 5)
    prepared = subjects(search, device, SMALL_CASES if small else CASES)
    with torch.no_grad():
        baselines = {s.case.name: device_time(s.baseline, device, BASELINE_S * scale, least)[0] for s in prepared}

    def round_of(number: int, attempts: Sequence[Attempt], budget_s: float) -> list[Timed]:
        found = []
        for attempt in attempts:
            if time.monotonic() >= deadline:
                break
            row = row_of(search, attempt) | {"correct": True, "round": number}
            try:
                taken, ways = times(search, attempt, prepared, device, budget_s * scale, least)
            except Exception as error:  # its result was right before: the device fails now and then, or for good
                save(row | {"correct": f"while it was timed: {said(error)}", "relative time": None})
                continue
            found.append(Timed(attempt, sum(ms / baselines[case] for case, ms in taken.items()) / len(taken)))
            save(row | {"relative time": found[-1].relative, "ms": taken, "timed by": sorted(ways)})
        return sorted(found, key=lambda timed: timed.relative)

    first = round_of(1, right, FIRST_S)
    best = [timed.attempt for n, timed in enumerate(first) if n < FINALISTS or timed.attempt == stored]
    final = round_of(2, best, FINAL_S) if len(best) > 1 else []
    known = [timed.attempt for timed in final]
    return final + [timed for timed in first if timed.attempt not in known]


def with_blocks(search: Search, best: Timed, timed: list[Timed]) -> Attempt:
    """The best; one of torch's own ways with the numbers of the best kernel, for whoever forces that."""
    if best.attempt.by_kernel:
        return best.attempt
    kernel = next((each.attempt for each in timed if each.attempt.by_kernel), best.attempt)
    return Attempt(kernel.meta | {search.choice: best.attempt.meta[search.choice]}, kernel.options, False)


def run_all(searches: Sequence[Search], device: torch.device, save: Save, small: bool, deadline: float) -> bool:
    """One search after the other; whether all of them have a right candidate."""
    right = True
    with Judges(device.type, SMALL_CASES if small else CASES) as judges:
        for search in searches:
            if time.monotonic() >= deadline:
                print(f"no time is left for {search.name} and what comes after it", flush=True)
                break
            try:
                own = run(search, device, save, small, deadline, judges)
            except Exception as error:
                print(f"{search.name}: {said(error)}", file=sys.stderr, flush=True)
                own = False
            if not own:
                print(f"no candidate of {search.name} gives the right result; nothing changes", flush=True)
            right &= own
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in ("op", "shape", "dtype"):
        parser.add_argument(f"--{field}", choices=sorted({getattr(s, field) for s in SEARCHES}), action="append")
    parser.add_argument("--list", action="store_true", help="says what is searched, and how many candidates there are")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="then nothing more is judged or timed")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="a rehearsal: two candidates, small cases")
    arguments = parser.parse_args()
    asked = {"op": arguments.op, "shape": arguments.shape, "dtype": arguments.dtype}
    searches = [s for s in SEARCHES if all(getattr(s, field) in (names or [getattr(s, field)])
                                           for field, names in asked.items())]  # fmt: skip
    if arguments.list:
        for search in searches:
            print(f"{search.name}: {len(search.candidates) + len(search.choices)} candidates, and what is in force")
        return
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA here: tuning measures on the GPU it is for; --device cpu --small rehearses")
    if arguments.device == "cpu" and not arguments.small:
        raise SystemExit("on a CPU there is only a rehearsal: add --small")
    deadline = time.monotonic() + arguments.seconds

    def save(row: dict[str, Any]) -> None:
        print(json.dumps(row), flush=True)

    if not run_all(searches, torch.device(arguments.device), save, arguments.small, deadline):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
