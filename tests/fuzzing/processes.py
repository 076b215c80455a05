"""The campaign's processes. Each reads many files; if it ends, the current file is the finding."""

import argparse
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RUN = Path(__file__).with_name("run.py")
SECONDS = 10  # CPU time for one file
PATIENCE = 60  # timeout in seconds for the output of a reader
IMPORTS = 300  # timeout in seconds for the start of a process
BATCH = 500  # files for one process
BEFORE_ALL = -1_000_000  # number of the first valid file; these are read first


def verdicts(asked: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Yields the verdicts of all files. If a process ends or hangs, its file is a finding; a new process continues."""
    place, end = asked.first or BEFORE_ALL, asked.first + asked.files
    while place < end:
        stop = min(max(place, 0) + BATCH, end)
        for verdict in batch(asked, place, stop, folder):
            place = verdict["number"] + 1
            yield verdict


def batch(asked: argparse.Namespace, first: int, end: int, folder: Path) -> Iterator[dict[str, Any]]:
    """The verdicts of one process, until a file ends it."""
    command = [sys.executable, str(RUN), "--seed", str(asked.seed)]
    command += ["--target", asked.target] if asked.target else []
    command += [f"--worker={first}:{end}:{folder / 'seeds'}:{folder / 'work'}"]
    (folder / "work").mkdir(exist_ok=True)
    errors = folder / "stderr"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    # Files that torch writes on import go to an allowed folder.
    environment |= dict.fromkeys(("TMPDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"), str(folder / "work"))
    with errors.open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment)
    current: dict[str, Any] = {"begins": BEFORE_ALL, "target": "?"}
    done = first
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
    """The lines that it prints; raises ``TimeoutError`` if there are none in time."""
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
