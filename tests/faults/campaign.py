"""Runs commands that are killed, interrupted or run out of disk space at random: ``make kills RUNS=50 SEED=0``.

A subject is a class in tests/support, made once with an empty folder, where it prepares its inputs and an undisturbed
run. Its method ``disturb(rng, folder)`` does one disturbed run in another empty folder, checks the files it left, runs
again, compares, and gives a line on what it did; it raises AssertionError, or whatever else, if anything is wrong, and
has then left its files in that folder. A method ``close()``, if there is one, is called at the end.
"""

import argparse
import importlib
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

TESTS = Path(__file__).parents[1]
# By name, the module in tests/support and the class.
SUBJECTS = {
    "track": "command_kills:TrackKills",
    "vos": "command_kills:VosKills",
    "images": "command_kills:ImageKills",
    "train": "train_kills:TrainKills",
    "extract": "command_kills:ExtractKills",
}


def run(names: Sequence[str], runs: int, seed: int, folder: Path, verbose: bool) -> dict[str, list[str]]:
    """Runs each subject repeatedly. Prints each failure immediately; returns one line per failure, by subject."""
    failures: dict[str, list[str]] = {}
    for name in names:
        prepared = folder / name
        prepared.mkdir()
        module, _, kind = SUBJECTS[name].partition(":")
        subject, failures[name] = getattr(importlib.import_module(module), kind)(prepared), []
        try:
            for turn in range(runs):
                at = folder / f"{name}-{turn}"
                at.mkdir()
                try:
                    line = subject.disturb(random.Random(f"{name} {seed} {turn}"), at)
                    if verbose:
                        print(f"{name} {turn}: {line}", flush=True)
                    shutil.rmtree(at)
                except Exception as error:
                    failures[name].append(f"{name} {turn}: {type(error).__name__}: {str(error)[:200]}")
                    print(f"{name} {turn} FAILED, its files are in {at}:\n{traceback.format_exc()}", flush=True)
        finally:
            getattr(subject, "close", lambda: None)()
    return failures


def write(folder: Path, runs: int, seed: int, failures: Mapping[str, Sequence[str]], seconds: int) -> Path:
    """Writes today's report in the format of the benchmarks."""
    sys.path.append(str(TESTS.parent / "bench"))
    from reports import write_report
    from suite.machine import machine

    subjects = {name: {"runs": runs, "failed": len(told)} for name, told in failures.items()}
    findings = [line for told in failures.values() for line in told]
    facts = {"seed": seed, "runs": runs * len(subjects), "seconds": seconds, "findings": findings, "subjects": subjects}
    return write_report(folder, "kills-cpu", machine=machine(), **facts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("subjects", nargs="*", choices=[*SUBJECTS, []], help="by default all of them")
    parser.add_argument("--runs", type=int, default=50, help="of each subject")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true", help="a line for each run")
    parser.add_argument("--out", type=Path, help="a folder for a report, kills-cpu-DATE.json")
    options = parser.parse_args()
    sys.path.insert(0, str(TESTS / "support"))
    begun, folder = time.monotonic(), Path(tempfile.mkdtemp(prefix="kills-"))
    names = options.subjects or list(SUBJECTS)
    failures = run(names, options.runs, options.seed, folder, options.verbose)
    if not any(failures.values()):
        shutil.rmtree(folder)
    seconds = round(time.monotonic() - begun)
    told = ", ".join(f"{name} {len(lines)} of {options.runs} failed" for name, lines in failures.items())
    print(f"kills, seed {options.seed}: {told}; {seconds} s")
    if options.out:
        print(write(options.out, options.runs, options.seed, failures, seconds))
    return int(any(failures.values()))


if __name__ == "__main__":
    sys.exit(main())
