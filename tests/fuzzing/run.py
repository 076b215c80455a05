"""Passes mutated files to all readers: ``make fuzz FILES=10000 SEED=0``.

A file is a finding if its reader raises an undocumented exception, runs a command, accesses other files, takes more
than 1 GiB of memory or 10 s of CPU time, or ends the process. A valid file that is refused is a finding, too, and one
that is accepted although expected_refusals.py names it. ``--only NUMBER`` reads one file again.

Equal seeds make equal changes to equal valid files. The valid files depend on the versions of the libraries that write
them, on addresses in checkpoints of the old format, and on the order of metadata in safetensors. ``--keep`` keeps them,
and ``--seeds KEPT/seeds`` reuses them.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processes import SECONDS, verdicts

BENCH = Path(__file__).parents[2] / "bench"
OUTCOMES = ("accepted", "refused", "finding")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000, help="number of files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="only this file, in this process, with its traceback")
    parser.add_argument("--keep", type=Path, help="a folder for findings, findings.jsonl, and the valid files in seeds")
    parser.add_argument("--seeds", type=Path, help="kept valid files, instead of new ones")
    parser.add_argument("--out", type=Path, help="a folder for a report, fuzz-cpu-DATE.json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.worker:
        import importable_torchvision  # noqa: F401 (before peft)
        import peft  # noqa: F401 (its import makes a folder, which no file is to be blamed for)
        from cases import work
        from seeds import write_seeds

        first, end, seeds, folder, said = asked.worker.split(":")
        write_seeds(Path(seeds))
        with open(said, "a") as out:
            work(asked.seed, int(first), int(end), Path(seeds), Path(folder), SECONDS, out)
        return 0
    with tempfile.TemporaryDirectory(prefix="sam2fast-fuzz-") as name:
        if asked.seeds:
            shutil.copytree(asked.seeds, Path(name) / "seeds")
        if asked.only is not None:
            return read_one(asked, Path(name))
        return campaign(asked, Path(name))


def read_one(asked: argparse.Namespace, folder: Path) -> int:
    """Reads one file in this process, so that an exception shows its traceback."""
    from cases import make_case
    from seeds import write_seeds
    from targets import TARGETS

    write_seeds(folder / "seeds")
    case = make_case(asked.seed, asked.only, folder / "seeds")
    target = TARGETS[case.target]
    path = folder / "one" / target.file
    path.parent.mkdir(parents=True, exist_ok=True)
    target.prepare(folder / "one")
    path.write_bytes(case.data)
    if asked.keep:
        keep(asked.keep, asked.seed, case, folder / "seeds")
    os.chdir(folder / "one")
    print(f"{case.target}, {len(case.data)} bytes: {case.data[:120]!r}")
    target.read(path)
    return 0


def campaign(asked: argparse.Namespace, folder: Path) -> int:
    begun = time.monotonic()
    sound: Counter[str] = Counter()
    kinds: Counter[tuple[str, str]] = Counter()
    slowest: list[tuple[float, int, str]] = []
    findings = []
    for verdict in verdicts(asked, folder):
        if verdict["number"] < 0:
            sound[verdict["outcome"]] += 1
        else:
            kinds[verdict["target"], verdict["outcome"]] += 1
        slowest = sorted([*slowest, (round(verdict["seconds"], 2), verdict["number"], verdict["target"])])[-3:]
        if verdict["outcome"] == "finding":
            findings.append(verdict)
            print(f"file {verdict['number']}, {verdict['target']}: {verdict['what']}", flush=True)
            if asked.keep:
                from cases import make_case

                case = make_case(asked.seed, verdict["number"], folder / "seeds")
                keep(asked.keep, asked.seed, case, folder / "seeds", verdict)
    targets = {name: {outcome: kinds[name, outcome] for outcome in OUTCOMES} for name in sorted({n for n, _ in kinds})}
    for target, counts in targets.items():
        print(f"  {target}: {', '.join(f'{count} {outcome}' for outcome, count in counts.items())}")
    print(f"slowest: {slowest[::-1]}")
    totals = {outcome: sum(counts[outcome] for counts in targets.values()) for outcome in OUTCOMES}
    total, seconds = sum(totals.values()), round(time.monotonic() - begun)
    print(
        f"{total} files, seed {asked.seed}: {totals['accepted']} accepted, {totals['refused']} refused, "
        f"{len(findings)} findings, {seconds} s; sound: {sound['accepted']} accepted, {sound['refused']} refused"
    )
    for finding in findings:
        print(f"finding: {finding['target']}: {finding['what']}")
    if asked.out:
        sys.path.append(str(BENCH))
        from reports import write_report
        from suite.machine import machine

        facts = {"seed": asked.seed, "first": 0, "target": None, "files": total, "seconds": seconds}
        facts |= {"findings": findings, **totals, "sound": {outcome: sound[outcome] for outcome in OUTCOMES}}
        about = machine() | {"libraries": libraries()}
        print(write_report(asked.out, "fuzz-cpu", machine=about, **facts, targets=targets))
    return 1 if findings else 0


def keep(folder: Path, seed: int, case: Any, seeds: Path, verdict: dict[str, Any] | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(seeds, folder / "seeds", dirs_exist_ok=True)
    (folder / f"{seed}-{case.number}-{case.target.replace(' ', '_')}").write_bytes(case.data)
    if verdict is not None:
        with (folder / "findings.jsonl").open("a") as file:
            file.write(json.dumps({"seed": seed, **verdict}) + "\n")


def libraries() -> dict[str, str]:
    """Versions of the libraries that decode and encode files."""
    import av
    import numpy
    import omegaconf
    import PIL
    import safetensors
    import yaml

    found = {module.__name__: module.__version__ for module in (av, numpy, omegaconf, PIL, safetensors, yaml)}
    return {**found, **{name: ".".join(map(str, version)) for name, version in av.library_versions.items()}}


if __name__ == "__main__":
    sys.exit(main())
