"""Measures candidate launch configurations on this GPU and writes the best of each op into the launch table.

    make tune [OP=connected_components]
    python bench/tune.py --op memory_attention --shape 256x64 --dtype bfloat16
    python bench/tune.py --list
    SAM2FAST_LAUNCH_TABLE=mine.json python bench/tune.py --seconds 600 --out tuning.jsonl
    python bench/tune.py --device cpu --small     # a rehearsal without a GPU, which stores nothing

Every candidate's result is checked before anything is timed, by processes of their own (``tuning_workers.py``), which
also compile. A row is written as soon as its candidates are through: into the file that ``SAM2FAST_LAUNCH_TABLE``
names, which begins as a copy of the packaged table, or else into that. The rows of other GPUs stay as they are. The row
that was there is always one of the candidates. ``--op``, ``--shape`` and ``--dtype`` choose rows, each may be
given several times, and what is left out means all. Rows of window_attention are "*", for which all windowed cases
decide together, and "global", the whole map, where the row may also name one of torch's own ways by ``SDPA``; that of
linear_gelu may leave it to torch by ``TORCH``.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from gpu_plan.launch_rows import merged, text_of
from kernel_records import SEARCHES
from measure import device_time
from tuning_candidates import Search
from tuning_trials import CASES, SMALL_CASES, Attempt, Subject, on_cpu, said, subjects, times
from tuning_workers import NO_TIME, Judges

from sam2fast.kernels import _launch
from sam2fast.kernels._launch import ANY, TABLE_VARIABLE, LaunchConfig, architecture

TABLE = Path(__file__).parents[1] / "kernels" / _launch.TABLE
Save = Callable[[dict[str, Any]], None]
# Seconds for each case: of the baseline, of all candidates, and of the best ones once more.
BASELINE_S, FIRST_S, FINAL_S = 0.2, 0.05, 0.3
FINALISTS = 5
# The row that is there stays if the best one is not this much faster; less is noise.
GAIN = 1.01


class Timed(NamedTuple):
    """A candidate that was timed."""

    attempt: Attempt
    relative: float  # mean over the cases of its time over the baseline's


def table_file() -> Path:
    """The launch table that results are stored in; a named one that is not there yet begins as a copy."""
    own = os.environ.get(TABLE_VARIABLE)
    if not own:
        return TABLE
    path = Path(own)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TABLE.read_text())
    return path


def stored_row(table: dict[str, Any], search: Search, arch: str) -> LaunchConfig:
    """The row that this GPU takes now for what the search is about."""
    asked = {"arch": arch, "dtype": search.dtype, "shape": search.shape}
    fitting = [row for row in table.get(search.op, []) if all(row[key] in (ANY, asked[key]) for key in asked)]
    if not fitting:
        raise LookupError(f"{table_file()} has no row of {search.name} for {arch}")
    best = max(fitting, key=lambda row: [row[key] != ANY for key in ("shape", "arch", "dtype")])
    return LaunchConfig(**best)


def attempts_of(search: Search, stored: LaunchConfig, small: bool = False) -> list[Attempt]:
    """The row that is stored, torch's own ways where the row may name one, and the candidates; each once."""
    blocks, name = dict(stored.meta), search.choice
    found = [Attempt(blocks, dict(stored.options), not (name and blocks.get(name)))]
    if name:
        blocks = {key: value for key, value in blocks.items() if key != name}
        found = [found[0]._replace(meta=blocks | {name: stored.meta.get(name, 0)})]
        found += [Attempt(blocks | {name: choice}, dict(stored.options), False) for choice in search.choices]
        found.append(Attempt(blocks | {name: 0}, dict(stored.options)))
    kernels = [Attempt(meta | ({name: 0} if name else {}), options) for meta, options in search.candidates]
    distinct = list({json.dumps(each, sort_keys=True): each for each in (*found, *kernels)}.values())
    if small:  # one beside the stored row, by the kernel
        distinct = distinct[:1] + [each for each in distinct[1:] if each.by_kernel][:1]
    return distinct


def store(op: str, row: LaunchConfig) -> None:
    """Puts the row into the table's file, which is whole at any time."""
    path = table_file()
    partial = path.with_suffix(".part")
    partial.write_text(text_of(merged(json.loads(path.read_text()), [{"op": op, **row._asdict()}])))
    os.replace(partial, path)


class Timer:
    """Times candidates of one search until the deadline, and saves a row of each."""

    def __init__(
        self, search: Search, device: torch.device, source: str, save: Save, deadline: float | None, small: bool
    ) -> None:
        self._search, self._device, self._save = search, device, save
        self._scale, self._least = (0.0, 1) if small else (1.0, 5)
        self._deadline = float("inf") if deadline is None else deadline
        self._subjects: list[Subject] = [] if self.is_late else subjects(search, device, source)
        self._baselines: dict[str, float] = {}

    @property
    def is_late(self) -> bool:
        return time.monotonic() >= self._deadline

    def prepare(self) -> None:
        """Times the baselines."""
        budget_s = BASELINE_S * self._scale
        with torch.no_grad():
            for subject in self._subjects:
                if self.is_late:
                    return
                self._baselines[subject.case.name] = device_time(subject.baseline, self._device, budget_s, self._least)[
                    0
                ]

    def round(self, number: int, attempts: Sequence[Attempt], budget_s: float) -> list[Timed]:
        """Those that were timed, the first ones if there is no time for all."""
        found = []
        for attempt in attempts:
            if self.is_late:
                break
            row = row_of(self._search, attempt) | {"correct": True, "round": number}
            try:
                taken, ways = times(
                    self._search, attempt, self._subjects, self._device, budget_s * self._scale, self._least
                )
            except Exception as error:  # it was right before: the device has changed its mind, or is of no use any more
                self._save(row | {"correct": f"while it was timed: {said(error)}", "relative time": None})
                continue
            relative = sum(ms / self._baselines[case] for case, ms in taken.items()) / len(taken)
            found.append(Timed(attempt, relative))
            self._save(row | {"relative time": relative, "ms": taken, "timed by": sorted(ways)})
        return found


def row_of(search: Search, attempt: Attempt) -> dict[str, Any]:
    names = {"op": search.op, "dtype": search.dtype, "shape": search.shape}
    return names | {"meta": attempt.meta, "options": attempt.options}


def run(
    search: Search,
    device: torch.device,
    save: Save,
    small: bool = False,
    deadline: float | None = None,
    *,
    judges: Judges | None = None,
    source: str | None = None,
) -> bool:
    """Judges all candidates of a search, times the right ones, and stores the best.

    Args:
        save: is given a row per candidate as they come, those of the final a second one, and at last a row that says
            what was stored, and how much faster it is than the row before.
        small: a rehearsal with two candidates on small cases. It is stored only where ``SAM2FAST_LAUNCH_TABLE`` is set.
        deadline: by ``time.monotonic``; then the best of what was timed so far is stored.
        judges: processes that stay for several searches; else they are started and ended here.
        source: where cases come from, as "module:function", for this process and the others.

    Returns:
        Whether any candidate gives the right result; also true where there was no time to find out.
    """
    if device.type == "cpu":
        on_cpu()
    source = source or (SMALL_CASES if small else CASES)
    if judges is None:
        with Judges(device.type, source) as judges:
            return run(search, device, save, small, deadline, judges=judges, source=source)
    start, arch = time.perf_counter(), architecture(device)
    before = stored_row(json.loads(table_file().read_text()), search, arch)
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
    timed = timed_twice(Timer(search, device, source, save, deadline, small), right, attempts[0]) if right else []
    best = chosen(timed, attempts[0])
    row: LaunchConfig | None = None
    if best is not None:
        row = with_blocks(search, best, timed).config(search, arch)
        if not small or os.environ.get(TABLE_VARIABLE):
            store(search.op, row)
        else:
            row = None
    save(
        {
            "op": search.op,
            "dtype": search.dtype,
            "shape": search.shape,
            "candidates": len(attempts),
            "right": len(right),
            "not judged": unknown,
            "timed": len(timed),
            "stored": row and {"op": search.op, **row._asdict()},
            "before": {"meta": dict(before.meta), "options": dict(before.options)},
            "relative time": best and best.relative,
            "speedup": speedup(best, timed, attempts[0]),
            "judging s": judged,
            "seconds": time.perf_counter() - start,
            "out of time": deadline is not None and time.monotonic() >= deadline,
        }
    )
    return bool(right) or unknown > 0


def timed_twice(timer: Timer, right: list[Attempt], stored: Attempt) -> list[Timed]:
    """All, shortly; then the best ones and the stored one longer. Of each its last time, the final's before others."""
    timer.prepare()
    first = sorted(timer.round(1, right, FIRST_S), key=lambda timed: timed.relative)
    best = [timed.attempt for timed in first[:FINALISTS]]
    best += [timed.attempt for timed in first[FINALISTS:] if timed.attempt == stored]
    final = timer.round(2, best, FINAL_S) if len(best) > 1 else []
    known = [timed.attempt for timed in final]
    return sorted(final, key=lambda timed: timed.relative) + [t for t in first if t.attempt not in known]


def chosen(timed: list[Timed], stored: Attempt) -> Timed | None:
    """The best, or the stored one where that is about as fast."""
    if not timed:
        return None
    for own in timed:
        if own.attempt == stored and own.relative < timed[0].relative * GAIN:
            return own
    return timed[0]


def speedup(best: Timed | None, timed: list[Timed], stored: Attempt) -> float | None:
    """Over the row that was stored, where both were timed."""
    before = next((each.relative for each in timed if each.attempt == stored), None)
    return None if best is None or before is None else before / best.relative


def with_blocks(search: Search, best: Timed, timed: list[Timed]) -> Attempt:
    """The best; one of torch's own ways with the numbers of the best kernel, for whoever forces that."""
    if best.attempt.by_kernel:
        return best.attempt
    kernel = next((each.attempt for each in timed if each.attempt.by_kernel), best.attempt)
    return Attempt(kernel.meta | {search.choice: best.attempt.meta[search.choice]}, kernel.options, False)


def wanted_searches(arguments: argparse.Namespace) -> list[Search]:
    asked = {"op": arguments.op, "shape": arguments.shape, "dtype": arguments.dtype}
    return [s for s in SEARCHES if all(names is None or getattr(s, field) in names for field, names in asked.items())]


def run_all(searches: Sequence[Search], device: torch.device, save: Save, small: bool, deadline: float | None) -> bool:
    """One search after the other; whether all of them have a right candidate."""
    source, right = SMALL_CASES if small else CASES, True
    with Judges(device.type, source) as judges:
        for search in searches:
            if deadline is not None and time.monotonic() >= deadline:
                print(f"no time is left for {search.name} and what comes after it", flush=True)
                break
            try:
                own = run(search, device, save, small, deadline, judges=judges)
            except Exception as error:
                print(f"{search.name}: {said(error)}", file=sys.stderr, flush=True)
                own = False
            if not own:
                print(f"no candidate of {search.name} gives the right result; its row is unchanged", flush=True)
            right &= own
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--op", choices=sorted({search.op for search in SEARCHES}), action="append")
    parser.add_argument("--shape", choices=sorted({search.shape for search in SEARCHES}), action="append")
    parser.add_argument("--dtype", choices=sorted({search.dtype for search in SEARCHES}), action="append")
    parser.add_argument("--list", action="store_true", help="says what is searched, and how many candidates there are")
    parser.add_argument("--seconds", type=float, help="after so many nothing more is judged or timed")
    parser.add_argument("--out", type=Path, help="a line of JSON per candidate is added to this file")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="a rehearsal: two candidates, small cases")
    arguments = parser.parse_args()
    searches = wanted_searches(arguments)
    if arguments.list:
        for search in searches:
            print(f"{search.name}: {len(search.candidates) + len(search.choices)} candidates, and the stored row")
        return
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA here: tuning measures on the GPU it is for; --device cpu --small rehearses")
    if arguments.device == "cpu" and not arguments.small:
        raise SystemExit("on a CPU there is only a rehearsal: add --small")

    def save(row: dict[str, Any]) -> None:
        print(json.dumps(row), flush=True)
        if arguments.out:
            with arguments.out.open("a") as file:
                file.write(json.dumps(row) + "\n")

    deadline = None if arguments.seconds is None else time.monotonic() + arguments.seconds
    if not run_all(searches, torch.device(arguments.device), save, arguments.small, deadline):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
