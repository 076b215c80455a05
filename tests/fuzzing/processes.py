"""The campaign's processes: each reads many files, and what ends it is blamed on the file that it was reading."""

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
SECONDS = 10  # of processor time for one file
PATIENCE = 60  # seconds in which a reader must say something, once it has begun
IMPORTS = 300  # seconds in which a process must begin
BATCH = 500  # files for one process
BEFORE_ALL = -1_000_000  # stands for the first of the sound files, which are read before those that are not


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
    command = [sys.executable, str(RUN), "--seed", str(asked.seed)]
    command += ["--target", asked.target] if asked.target else []
    command += [f"--worker={first}:{end}:{folder / 'seeds'}:{folder / 'work'}"]
    (folder / "work").mkdir(exist_ok=True)
    errors = folder / "stderr"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    # What torch writes as it is imported is written where it may.
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
