"""Times whole calls of the predictors beside the official package's, in turn, in one process.

    make bench                                         the plan of this machine's CPU
    cd bench && ../.venv/bin/python -m suite --list    every case, subject and micro-benchmark
    ... -m suite --only steady --size t --size b+ --dtype fp32 --dtype bf16 --objects 1 --objects 4 --runs 2
    ... -m suite --part "video t"                      on a CUDA machine: a step of the plan for GPUs
    ... -m suite --part "video t" --rehearse           the same calls on a CPU, with a small model; nothing is written

Any of the choices below, but --only, replaces the plan by every combination of them. Rows are merged into
``bench/results/suite-<device>-<date>.json``, where a row that is measured again replaces the one before.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from suite import plans
from suite.cases import CASES
from suite.machine import RESULTS, machine
from suite.results import Results
from suite.run import run
from suite.schema import DTYPES
from suite.subjects import SIZES, SUBJECTS


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="suite", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="say what there is to measure, and measure nothing")
    parser.add_argument(
        "--part", choices=plans.GPU_STEPS, metavar="NAME", help="a step of the plan for GPUs; see --list"
    )
    parser.add_argument("--rehearse", action="store_true", help="the step on a CPU, in seconds; nothing is written")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="cases with this in their names")
    parser.add_argument("--size", action="append", default=[], choices=SIZES)
    parser.add_argument("--dtype", action="append", default=[], choices=DTYPES)
    parser.add_argument("--image-size", action="append", default=[], type=_count, help="side of the model's input")
    parser.add_argument("--objects", action="append", default=[], type=_count, help="objects, or boxes")
    parser.add_argument("--history", action="append", default=[], type=_count, help="frames before the timed ones")
    parser.add_argument("--frames", type=_count, help="frames between two synchronisations, of throughput")
    parser.add_argument("--subject", action="append", default=[], choices=SUBJECTS)
    parser.add_argument("--runs", type=_count, help="calls to time")
    parser.add_argument("--device", help="cpu, or cuda, which is the default with --part")
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="begin no more after so many seconds")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    if given.list:
        print(listing())
        return
    if given.rehearse:
        if given.part is None:
            parser.error("--rehearse is for a step: give --part")
        raise SystemExit(0 if run(plans.rehearsal(given.part), None, given.limit_s) else 1)
    device = given.device or ("cuda" if given.part else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("there is no CUDA here; --device cpu measures on the CPU")
    groups = _groups(given, device)
    if not groups:
        raise SystemExit(
            f"nothing to measure: no case has {' or '.join(map(repr, given.only))} in its name; see --list"
        )
    results = Results(given.out, machine(device))
    right = run(groups, results, given.limit_s)
    print(f"written to {results.path}")
    raise SystemExit(0 if right else 1)


def _groups(given: argparse.Namespace, device: str) -> list[plans.Group]:
    combined = (given.size, given.dtype, given.image_size, given.objects, given.history, given.subject, given.runs)
    if given.part is None and any((*combined, given.frames)):
        return plans.asked_for(given.only, *combined, device, given.frames)
    planned = plans.GPU_STEPS[given.part](device) if given.part else plans.cpu()
    named = plans.chosen(CASES, given.only)
    return [group for group in planned if group.case in named]


def listing() -> str:
    """Cases, subjects, steps, and the ops that have micro-benchmarks."""
    from kernel_records import cases

    lines = ["cases:", *(f"  {case.name}: {case.note}" for case in CASES)]
    lines += ["subjects:", *(f"  {name}" for name in SUBJECTS)]
    lines += ["steps for a GPU:", *(f"  {name}" for name in plans.GPU_STEPS), "make bench-ops:"]
    return "\n".join([*lines, *(f"  {case.name}" for case in cases())])


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return count


if __name__ == "__main__":
    main()
