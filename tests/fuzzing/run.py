"""Mutated files, given to everything that reads files: ``make fuzz FILES=10000 SEED=0``.

A file is a finding where its reader raises what it does not document, runs something, reads or writes what it should
not, takes more than a GiB of memory or more than ten seconds of processor time, or ends the process. The same seed
makes the same files, with the same versions of the libraries that encode them. ``--only NUMBER`` reads one again.
"""

import argparse
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

SECONDS = 10  # of processor time for one file
PATIENCE = 60  # seconds in which a reader must say something, once it has begun
IMPORTS = 300  # seconds in which a process must begin
BATCH = 500  # files for one process
BEFORE_ALL = -1_000_000  # stands for the first of the sound files, which are read before those that are not


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000, help="how many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--only", type=int, help="this file alone, in this process, with its traceback")
    parser.add_argument("--target", help="files for this reader alone")
    parser.add_argument("--keep", type=Path, help="a folder for the files that are findings, and findings.jsonl")
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
        keep(asked.keep, asked.seed, case)
    os.chdir(folder / "one")
    print(f"{case.target}, {len(case.data)} bytes: {case.data[:120]!r}")
    target.read(path)
    return 0


def campaign(asked: argparse.Namespace, folder: Path) -> int:
    begun = time.monotonic()
    outcomes: Counter[str] = Counter()
    kinds: Counter[tuple[str, str]] = Counter()
    slowest: list[tuple[float, int, str]] = []
    findings = []
    sound: Counter[str] = Counter()
    for verdict in verdicts(asked, folder):
        if verdict["number"] < 0:
            sound[verdict["target"]] += verdict["outcome"] == "accepted"
        else:
            outcomes[verdict["outcome"]] += 1
            kinds[verdict["target"], verdict["outcome"]] += 1
        slowest = sorted([*slowest, (round(verdict["seconds"], 2), verdict["number"], verdict["target"])])[-3:]
        if verdict["outcome"] == "finding":
            findings.append(verdict)
            print(f"file {verdict['number']}, {verdict['target']}: {verdict['what']}", flush=True)
            if asked.keep:
                from cases import make_case

                case = make_case(asked.seed, verdict["number"], folder / "seeds", asked.target)
                keep(asked.keep, asked.seed, case, verdict)
    findings += [{"target": name, "what": "no sound file is accepted"} for name, count in sound.items() if not count]
    for target in sorted({target for target, _ in kinds}):
        counts = ", ".join(f"{kinds[target, outcome]} {outcome}" for outcome in ("accepted", "refused", "finding"))
        print(f"  {target}: {counts}")
    print(f"slowest: {slowest[::-1]}")
    total = sum(outcomes.values())
    print(
        f"{total} files, seed {asked.seed}: {outcomes['accepted']} accepted, {outcomes['refused']} refused, "
        f"{len(findings)} findings, {time.monotonic() - begun:.0f} s"
    )
    for finding in findings:
        print(f"finding: {finding['target']}: {finding['what']}")
    return 1 if findings else 0


def keep(folder: Path, seed: int, case: Any, verdict: dict[str, Any] | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{seed}-{case.number}-{case.target.replace(' ', '_')}").write_bytes(case.data)
    if verdict is not None:
        with (folder / "findings.jsonl").open("a") as file:
            file.write(json.dumps({"seed": seed, **verdict}) + "\n")


def verdicts(asked: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Of all files; where a process ends or says nothing, the file is a finding, and another goes on behind it."""
    place, end = asked.first or BEFORE_ALL, asked.first + asked.files
    while place < end:
        stop = min(max(place, 0) + BATCH, end)
        for verdict in batch(asked, place, stop, folder):
            place = verdict["number"] + 1
            yield verdict


def batch(asked: argparse.Namespace, first: int, end: int, folder: Path) -> Iterator[dict[str, Any]]:
    """The files of one process, up to one that ends it."""
    command = [sys.executable, __file__, "--seed", str(asked.seed)]
    command += ["--target", asked.target] if asked.target else []
    command += [f"--worker={first}:{end}:{folder / 'seeds'}:{folder / 'work'}"]
    (folder / "work").mkdir(exist_ok=True)
    errors = folder / "stderr"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    # What torch writes as it is imported is written where it may.
    environment |= dict.fromkeys(("TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"), str(folder / "work"))
    with errors.open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment)
    current, done = {"begins": BEFORE_ALL, "target": "?"}, first
    try:
        for line in lines_of(process):
            content = json.loads(line)
            if "begins" in content:
                current = content
            else:
                done = content["number"] + 1
                yield content
        process.wait(PATIENCE)
        why = _end_of(process, errors)
    except TimeoutError as error:
        why = str(error)
    except subprocess.TimeoutExpired:
        why = f"the process did not end within {PATIENCE} s after its last word"
    finally:
        process.kill()
        process.wait()
    if done < end:
        if current["begins"] < done or current["target"] == "?":
            raise RuntimeError(f"the process ended between files: {why}")
        number, target = current["begins"], current["target"]
        yield {"number": number, "target": target, "outcome": "finding", "what": why, "seconds": 0.0}


def lines_of(process: "subprocess.Popen[bytes]") -> Iterator[bytes]:
    """What it prints; raises ``TimeoutError`` where nothing comes."""
    assert process.stdout is not None
    waiting, patience = b"", IMPORTS
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(patience):
                raise TimeoutError(f"nothing happened for {patience} s")
            patience = PATIENCE
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                return
            *lines, waiting = (waiting + data).split(b"\n")
            yield from lines


def _end_of(process: "subprocess.Popen[bytes]", errors: Path) -> str:
    code = process.returncode
    said = errors.read_bytes()[-2000:].decode(errors="replace").strip().splitlines()
    if code == -signal.SIGPROF:
        return f"it took more than {SECONDS} s of processor time"
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"the process ended: {name}, {said[-1] if said else 'without a word'}"


if __name__ == "__main__":
    sys.exit(main())
