"""The campaign's processes. Each reads many files; if it ends, the current file is the finding."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "support"))

from killed import Ended, started

RUN = Path(__file__).with_name("run.py")
SECONDS = 10  # CPU time for one file
PATIENCE = 600  # timeout in seconds for a process
BATCH = 500  # files for one process
BEFORE_ALL = -1_000_000  # number of the first valid file; these are read first


def verdicts(asked: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Yields the verdicts of all files. If a process ends or hangs, its file is a finding; a new process continues."""
    place = BEFORE_ALL
    while place < asked.files:
        stop = min(max(place, 0) + BATCH, asked.files)
        for verdict in batch(asked, place, stop, folder):
            place = verdict["number"] + 1
            yield verdict


def batch(asked: argparse.Namespace, first: int, end: int, folder: Path) -> Iterator[dict[str, Any]]:
    """The verdicts of one process, until a file ends it."""
    work, said = folder / "work", folder / "verdicts"
    work.mkdir(exist_ok=True)
    arguments = [str(RUN), f"--seed={asked.seed}", f"--worker={first}:{end}:{folder / 'seeds'}:{work}:{said}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    # Files that torch writes on import go to an allowed folder.
    environment |= dict.fromkeys(("TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"), str(work))
    said.write_bytes(b"")
    try:
        why = _end_of(started(arguments, env=environment, seconds=PATIENCE))
    except TimeoutError as error:
        why = str(error)
    lines = [json.loads(line) for line in said.read_text().splitlines()]
    verdicts = [line for line in lines if "begins" not in line]
    yield from verdicts
    if not verdicts or verdicts[-1]["number"] + 1 < end:
        if not lines or "begins" not in lines[-1]:
            raise RuntimeError(f"the process ended between files: {why}")
        about = {"number": lines[-1]["begins"], "target": lines[-1]["target"], "seconds": 0.0}
        yield {**about, "outcome": "finding", "what": why}


def _end_of(ended: Ended) -> str:
    if ended.code == -signal.SIGPROF:
        return f"it took more than {SECONDS} s of processor time"
    name = signal.Signals(-ended.code).name if ended.code < 0 else f"exit code {ended.code}"
    said = ended.stderr[-2000:].strip().splitlines()
    return f"the process ended: {name}, {said[-1] if said else 'without a word'}"
