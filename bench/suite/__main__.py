"""Times whole calls of the predictors beside the official package's, in turn, in one process.

    make bench                                         the plan of this machine's CPU
    cd bench && ../.venv/bin/python -m suite --list    every case and subject
    ... -m suite --only steady --size t --size b+ --dtype fp32 --dtype bf16 --objects 1 --objects 4 --runs 2

Any of the choices below, but --only, replaces the plan by every combination of them. The plan for GPUs is that of
``make gpu``. Rows are merged into
``bench/results/<year>/calls/suite-<device>-<date>.json``, where a row that is measured again replaces the one before.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from suite import plans
from suite.machine import RESULTS, machine
from suite.plans import CASES
from suite.results import DTYPES, Results
from suite.subjects import SIZES, SUBJECTS
from suite.timing import run


def main(arguments: Sequence[str] | None = None) -> None:
    given = parsed(arguments)
    if given.list:
        print("cases:", *(f"  {case.name}: {case.note}" for case in CASES), sep="\n")
        print("subjects:", *(f"  {name}" for name in SUBJECTS), sep="\n")
        return
    groups = _groups(given)
    if not groups:
        raise SystemExit(
            f"nothing to measure: no case has {' or '.join(map(repr, given.only))} in its name; see --list"
        )
    results = Results(given.out, machine(given.device))
    right = run(groups, results.add)
    print(f"written to {results.path}")
    raise SystemExit(0 if right else 1)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="suite", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    several = {"action": "append", "default": []}
    parser.add_argument("--list", action="store_true", help="say what there is to measure, and measure nothing")
    parser.add_argument("--only", **several, metavar="TEXT", help="cases with this in their names")
    parser.add_argument("--size", **several, choices=SIZES)
    parser.add_argument("--dtype", **several, choices=DTYPES)
    parser.add_argument("--image-size", **several, type=_count, help="side of the model's input")
    parser.add_argument("--objects", **several, type=_count, help="objects, or boxes")
    parser.add_argument("--history", **several, type=_count, help="frames before the timed ones")
    parser.add_argument("--frames", type=_count, help="frames between two synchronisations, of throughput")
    parser.add_argument("--subject", **several, choices=SUBJECTS)
    parser.add_argument("--runs", type=_count, help="calls to time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS / "calls")
    return parser.parse_args(arguments)


def _groups(given: argparse.Namespace) -> list[plans.Group]:
    choices = ("size", "dtype", "image_size", "objects", "history", "subject", "runs", "frames")
    if any(getattr(given, name) for name in choices) or given.device != "cpu":
        return plans.asked_for(given)
    named = plans.chosen(CASES, given.only)
    return [group for group in plans.cpu() if group.case in named]


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return count


if __name__ == "__main__":
    main()
