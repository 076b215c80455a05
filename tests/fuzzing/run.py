"""Mutated files, given to everything that reads files: ``make fuzz FILES=10000 SEED=0``.

A file is a finding where its reader raises what it does not document, runs something, reads or writes what it should
not, takes more than a GiB of memory or more than ten seconds of processor time, or ends the process; and so is a sound
file that is refused, and one that must be refused and is not (sound.py). ``--only NUMBER`` reads one again.

The same seed makes the same changes to the same sound files. These are the same with the same versions of the libraries
that write them, but for addresses in checkpoints of the old format, and the order of metadata in safetensors.
``--keep`` keeps them, too, and ``--seeds KEPT/seeds`` takes those.
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

import campaign_report
from processes import SECONDS, verdicts


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000, help="how many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--only", type=int, help="this file alone, in this process, with its traceback")
    parser.add_argument("--target", help="files for this reader alone")
    parser.add_argument(
        "--keep",
        type=Path,
        help="a folder for the files that are findings, findings.jsonl, and the sound files in seeds",
    )
    parser.add_argument("--seeds", type=Path, help="sound files that were kept, in place of new ones")
    parser.add_argument("--out", type=Path, help="a folder for a report, fuzz-cpu-DATE.json")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.worker:
        from cases import work
        from seeds import write_seeds

        first, end, seeds, folder = asked.worker.split(":")
        write_seeds(Path(seeds))
        work(asked.seed, int(first), int(end), Path(seeds), Path(folder), SECONDS, asked.target)
        return 0
    with tempfile.TemporaryDirectory(prefix="sam2fast-fuzz-") as name:
        if asked.seeds:
            shutil.copytree(asked.seeds, Path(name) / "seeds")
        if asked.only is not None:
            return read_one(asked, Path(name))
        return campaign(asked, Path(name))


def read_one(asked: argparse.Namespace, folder: Path) -> int:
    """Reads one file with nothing around it, so that an exception is seen as it comes."""
    from cases import make_case
    from seeds import write_seeds
    from targets import TARGETS

    write_seeds(folder / "seeds")
    case = make_case(asked.seed, asked.only, folder / "seeds", asked.target)
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

                case = make_case(asked.seed, verdict["number"], folder / "seeds", asked.target)
                keep(asked.keep, asked.seed, case, folder / "seeds", verdict)
    outcomes: Counter[str] = Counter()
    for target in sorted({target for target, _ in kinds}):
        counts = {outcome: kinds[target, outcome] for outcome in campaign_report.OUTCOMES}
        outcomes.update(counts)
        print(f"  {target}: {', '.join(f'{count} {outcome}' for outcome, count in counts.items())}")
    print(f"slowest: {slowest[::-1]}")
    total, seconds = sum(outcomes.values()), round(time.monotonic() - begun)
    print(
        f"{total} files, seed {asked.seed}: {outcomes['accepted']} accepted, {outcomes['refused']} refused, "
        f"{len(findings)} findings, {seconds} s; sound: {sound['accepted']} accepted, {sound['refused']} refused"
    )
    for finding in findings:
        print(f"finding: {finding['target']}: {finding['what']}")
    if asked.out:
        facts = {"seed": asked.seed, "first": asked.first, "target": asked.target, "files": total, "seconds": seconds}
        print(campaign_report.write(asked.out, kinds, sound, **facts, findings=findings))
    return 1 if findings else 0


def keep(folder: Path, seed: int, case: Any, seeds: Path, verdict: dict[str, Any] | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(seeds, folder / "seeds", dirs_exist_ok=True)
    (folder / f"{seed}-{case.number}-{case.target.replace(' ', '_')}").write_bytes(case.data)
    if verdict is not None:
        with (folder / "findings.jsonl").open("a") as file:
            file.write(json.dumps({"seed": seed, **verdict}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
