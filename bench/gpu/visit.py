"""Proof and figures from a CUDA machine: one command for a whole visit, which may be cut off at any moment.

    make gpu                      every step, most valuable first, until the budget of 570 seconds is spent
    make gpu GPU="--resume FILE"  goes on from an earlier visit's results.jsonl: first the steps that it did not reach,
                                  then those that failed
    make gpu PART=parity          the steps with this text in their names
    make gpu PART="call video t"  the step of this name
    make gpu GPU=--list           when each step runs, by the plan's own seconds; runs nothing
    python bench/gpu --collect DIR                takes the results of a visit into bench/results
    python bench/gpu --device cpu --rehearse --out DIR       tries all of it without a GPU, at small shapes

Needs this repository, torch, triton and numpy, for parity pytest, and no network. What else a step needs is carried
along in ``.carry`` (``make carry``); a step whose package is missing says so. Every step is a process with its own time
limit. Results are written into ``--out`` as they come.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from gpu.steps import MOST_JOBS, VISIT_S, listed, plan, timetable

if TYPE_CHECKING:
    from gpu.records import Records

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CARRIED = ROOT / ".carry" / "site"
OUT = ROOT / "out" / "gpu"


def main() -> int:
    arguments = _arguments()
    sys.path += [str(ROOT), str(CARRIED)]  # where sam2fast and packages that steps need may be
    if arguments.step:
        from gpu.work import main as work

        return work(arguments.step, arguments.device, arguments.rehearse, arguments.records)
    if arguments.collect:
        from gpu.collect import collect

        for path in collect(arguments.collect):
            print(f"written: {path}")
        return 0
    return visit(arguments)


def visit(arguments: argparse.Namespace) -> int:
    """Runs the steps, and writes the table; or lists them.

    Returns:
        The exit status: 1 if a step failed or results could not be written.
    """
    from gpu.records import Records, read_records, table
    from gpu.runner import PASSED, Log, Runner, is_failure

    start = time.monotonic()
    every = plan()
    names = {step.name for step in every}
    steps = [
        step
        for step in every
        if any(step.name == text or (text in step.name and text not in names) for text in arguments.only or [""])
    ]
    if not steps:
        raise SystemExit(f"no step has {arguments.only} in its name; the steps are {', '.join(s.name for s in every)}")
    if arguments.list:
        print(listed(timetable(steps)))
        return 0
    earlier = read_records(arguments.resume) if arguments.resume else []
    out = arguments.out.resolve()
    records = Records(out, earlier)
    verdicts = records.verdicts()
    to_run = [step for step in steps if verdicts.get(step.name, {}).get("verdict") != PASSED]
    to_run.sort(key=lambda step: step.name in verdicts and is_failure(verdicts[step.name]))  # failed ones last
    if arguments.rehearse:
        # Its times mean nothing, so steps run side by side, but for those that tune.
        to_run = [step._replace(alone=step.job[0] == "tune", seconds=0) for step in to_run]
    elif arguments.device == "cpu":  # the limits are those of GPUs
        to_run = [step._replace(limit_s=arguments.budget) for step in to_run]

    def summarise() -> None:
        with contextlib.suppress(OSError):  # which is printed at the end, too
            (out / "summary.md").write_text(table(steps, records))

    own = [sys.executable, str(HERE), "--device", arguments.device]
    own += ["--rehearse"] * arguments.rehearse
    jobs = min(MOST_JOBS, max(1, (os.cpu_count() or 2) // (1 if arguments.rehearse else 2)))
    log = Log(out / "log.txt")
    environment = _environment(out, records, arguments.rehearse)
    runner = Runner(own, environment, records, log, start + arguments.budget, jobs, summarise)

    def stop(number: int, _frame: FrameType | None) -> None:
        runner.kill()
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        runner.run(to_run)
    finally:
        records.write()
        summarise()
        print("\n" + table(steps, records), flush=True)
    failed = any(is_failure(record) for record in records.verdicts().values())
    return 1 if failed or records.problem else 0


def _environment(out: Path, records: "Records", rehearse: bool) -> dict[str, str]:
    """Of the steps' processes: where modules and tuned configurations are found."""
    from gpu.records import write_table

    table = out / "launch_table.json"
    path = [str(ROOT), *([str(CARRIED)] if CARRIED.is_dir() else []), os.environ.get("PYTHONPATH", "")]
    changed = {"PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONUNBUFFERED": "1"}
    if write_table(table, records.all):
        changed["SAM2FAST_LAUNCH_TABLE"] = str(table)
    if rehearse:
        changed |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **changed}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="TEXT", help="this step, or steps with this in their names")
    parser.add_argument("--list", action="store_true", help="when each step runs, by the plan's seconds; runs nothing")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", type=float, default=VISIT_S, metavar="SECONDS", help="all of it, at most")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="results.jsonl of an earlier visit to go on from")
    parser.add_argument("--out", type=Path, default=OUT, help="a flat folder for the results")
    parser.add_argument("--rehearse", action="store_true", help="small shapes in Triton's interpreter; no times")
    parser.add_argument("--collect", type=Path, metavar="DIR", help="take this visit's results into the repository")
    parser.add_argument("--step", help=argparse.SUPPRESS)  # one step, in this process
    parser.add_argument("--records", type=int, help=argparse.SUPPRESS)  # where it writes its rows
    return parser.parse_args()
