"""A visit to a CUDA machine in two calls, each of which may be cut off at any moment.

    make gpu                      the first call: the steps in their order, as far as they fit into 570 seconds
    make gpu                      again, the second: the steps that were not reached, timed out or are unfinished, for
                                  250 seconds, and at last the steps that failed
    make gpu GPU="--out DIR"      writes the results into this folder, too
    make gpu PART=parity          the steps with this text in their names, also if they have passed
    make gpu GPU=--list           when each step runs, by the plan's own seconds, and its question; runs nothing
    python bench/gpu --collect DIR                takes the results of a visit into bench/results
    python bench/gpu --device cpu --rehearse --out DIR       tries all of it without a GPU, at small shapes

Needs this repository, torch, triton and numpy, for parity pytest, and no network. Other packages that a step needs are
carried along in ``.carry`` (``make carry``); a step whose package is missing says so. Every step is a process with its
own time limit. The ops of a parity step that fails or times out are left to torch in later steps that time something
(``SAM2FAST_TORCH_OPS``), and their rows say so. Results are written into ``out/gpu`` as they come, and compiled code
into ``.cache``. A visit to another kind of machine or of another commit begins with an empty ``out/gpu``. If the second
call runs on a fresh machine, ``out/gpu`` must travel with it.
"""

import argparse
import contextlib
import importlib
import os
import platform
import signal
import sys
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from gpu.steps import ATEN_ONLY, BUDGETS_S, MOST_JOBS, RETRY_S, listed, plan, timetable

if TYPE_CHECKING:
    from gpu.records import Records
    from gpu.steps import Step

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CARRIED = ROOT / ".carry" / "site"
KEPT, REHEARSED, CACHE = ROOT / "out" / "gpu", ROOT / "out" / "rehearsal", ROOT / ".cache"


def main() -> int:
    arguments = _arguments()
    sys.path += [str(ROOT), str(CARRIED)]  # where sam2fast and packages that steps need may be
    if arguments.step:
        from gpu.work import main as work

        given = arguments.records, arguments.limit, arguments.earlier
        return work(arguments.step, arguments.device, arguments.rehearse, *given)
    if arguments.collect:
        from gpu.collect import collect

        for path in collect(arguments.collect):
            print(f"written: {path}")
        return 0
    return visit(arguments)


def unpack() -> None:
    """Unpacks each wheel in ``.carry`` that is for this machine, if the machine lacks the package."""
    for wheel in CARRIED.parent.glob(f"*_{platform.machine()}.whl"):
        if find_spec(wheel.name.partition("-")[0]) is None:
            with zipfile.ZipFile(wheel) as file:
                file.extractall(CARRIED)
    importlib.invalidate_caches()


def visit(arguments: argparse.Namespace) -> int:
    """Runs the steps, and writes the table; or lists them.

    Returns:
        The exit status: 1 if a step failed or results could not be written.
    """
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
    from gpu.records import Records, table
    from gpu.runner import Log, Runner, is_failure

    # A rehearsal leaves the results of visits alone.
    folders = [arguments.out or REHEARSED] if arguments.rehearse else [KEPT, *filter(None, [arguments.out])]
    folders = [folder.resolve() for folder in folders]
    if arguments.device.startswith("cuda") and not arguments.rehearse:
        refuse_unknown_commit()
        unpack()
    records = Records(*folders)
    refuse_other_commits(records)
    budget_s = arguments.budget if arguments.budget is not None else BUDGETS_S[bool(records.all)]
    to_run = steps if arguments.only else remaining(steps, records)
    if arguments.rehearse:
        to_run = [step._replace(alone=False, seconds=0) for step in to_run]  # its times mean nothing
    if arguments.device == "cpu":  # the limits are those of GPUs
        to_run = [step._replace(limit_s=budget_s) for step in to_run]

    def summarise() -> None:
        for folder in folders:
            with contextlib.suppress(OSError):  # which is printed at the end, too
                (folder / "summary.md").write_text(table(steps, records))

    own = [sys.executable, str(HERE), "--device", arguments.device]
    own += ["--rehearse"] * arguments.rehearse
    jobs = min(MOST_JOBS, os.cpu_count() or 2)
    log = Log(folders[-1] / "log.txt")
    runner = Runner(own, _environment(arguments.rehearse), records, log, start + budget_s, jobs, summarise)

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


def refuse_unknown_commit() -> None:
    """Raises SystemExit if nothing says which commit is measured."""
    from suite.machine import commit

    if commit() is None:
        raise SystemExit(
            "the commit is not known, without which results do not count: run in a git checkout, or set "
            "SAM2FAST_COMMIT to the first twelve digits of the commit"
        )


def refuse_other_commits(records: "Records") -> None:
    """Raises SystemExit if earlier records are of another commit."""
    from suite.machine import commit

    now = commit()
    others = {r["row"]["machine"]["commit"] for r in records.all if r.get("part") == "environment"} - {now}
    if others:
        raise SystemExit(
            f"{records.paths[0]} is of {' and '.join(map(str, others))}, not of {now}: collect and move it"
        )
    if now and now.endswith("-dirty"):
        print("There are uncommitted changes: documents will mark the results.", flush=True)


def remaining(steps: "list[Step]", records: "Records") -> "list[Step]":
    """Returns the steps that have not passed, in their order; a step that failed comes last, unless it timed out.

    A step that timed out gets at most :data:`RETRY_S`, and a step that ended unfinished half of its seconds.
    """
    from gpu.records import PASSED, UNFINISHED
    from gpu.runner import is_failure, timed_out

    verdicts = records.verdicts()
    failed, found = [], []
    for step in steps:
        record = verdicts.get(step.name, {"verdict": ""})
        if timed_out(record):
            step = step._replace(seconds=min(step.seconds, RETRY_S), limit_s=min(step.limit_s, RETRY_S))
        elif record["verdict"].startswith(UNFINISHED):
            step = step._replace(seconds=step.seconds / 2, limit_s=step.limit_s / 2)
        elif is_failure(record):
            failed.append(step)
            continue
        if record["verdict"] != PASSED:
            found.append(step)
    return found + failed


def _environment(rehearse: bool) -> dict[str, str]:
    """Returns the environment of the steps: paths of modules, and folders that keep compiled code from call to call."""
    path = [str(ROOT), *([str(CARRIED)] if CARRIED.is_dir() else []), os.environ.get("PYTHONPATH", "")]
    changed = {"PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONUNBUFFERED": "1"}
    changed |= {
        "TRITON_CACHE_DIR": str(CACHE / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(CACHE / "inductor"),
    } | ATEN_ONLY
    if rehearse:
        changed |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **changed}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="TEXT", help="this step, or steps with this in their names")
    parser.add_argument("--list", action="store_true", help="when each step runs, and its question; runs nothing")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="all of it, at most; by default 570, then 250")
    parser.add_argument("--out", type=Path, help="a flat folder for the results, which out/gpu has, too")
    parser.add_argument("--rehearse", action="store_true", help="small shapes in Triton's interpreter; no times")
    parser.add_argument("--collect", type=Path, metavar="DIR", help="take this visit's results into the repository")
    parser.add_argument("--step", help=argparse.SUPPRESS)  # one step, in this process
    parser.add_argument("--records", type=int, help=argparse.SUPPRESS)  # where it writes its rows
    parser.add_argument("--earlier", type=Path, help=argparse.SUPPRESS)  # the records of earlier runs
    parser.add_argument("--limit", type=float, default=float("inf"), help=argparse.SUPPRESS)  # when it is killed
    return parser.parse_args()
