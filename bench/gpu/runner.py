"""Runs steps, each in a process group of its own, so that the others run if one fails."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import IO, Any

from gpu.records import PASSED, UNFINISHED, Record, Records
from gpu.steps import CHECKS, FAILED, Step, failed_ops

NO_TIME = "not run: no time left"


class Log:
    """Prints the lines of the steps, and writes them into a file as far as there is room."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()

    def say(self, step: str, line: str) -> None:
        with self._lock:
            print(f"{step}: {line}", flush=True)
            with suppress(OSError), open(self._path, "a", encoding="utf-8") as file:
                file.write(f"{step}: {line}\n")


@dataclass
class Runner:
    """Runs the plan of one visit.

    Attributes:
        command: command that runs a step; its name is added, and its time limit.
        environment: environment of its process.
        records: where rows and verdicts go.
        deadline: value of ``time.monotonic``. No step begins that would take longer, and none goes on.
        jobs: number of steps that run side by side if they need not have the machine for themselves.
        after: called after each verdict.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    records: Records
    log: Log
    deadline: float
    jobs: int
    after: Callable[[], None]
    lock: threading.Lock = field(default_factory=threading.Lock)
    running: set[Any] = field(default_factory=set)

    def run(self, steps: Sequence[Step]) -> None:
        """Runs them in order; neighbours that are not ``alone`` side by side."""
        for alone, some in groupby(steps, key=lambda step: step.alone):
            if alone:
                for step in some:
                    self._one(step)
            else:
                with ThreadPoolExecutor(self.jobs) as pool:
                    list(pool.map(self._one, some))

    def kill(self) -> None:
        """Ends the processes that are running, and begins no others."""
        self.deadline = 0.0
        for process in list(self.running):
            _kill_group(process)

    def _one(self, step: Step) -> None:
        missing = [name for name in step.needs if find_spec(name) is None]
        if missing:
            self._end(step, f"not run: {missing[0]} is missing", 0.0)
            return
        left = self.deadline - time.monotonic()
        if left < step.seconds:
            self._end(step, NO_TIME, 0.0)
            return
        named = os.environ.get("SAM2FAST_TORCH_OPS", "")
        failed = failed_ops(self.records.verdicts(), fills_holes=step.job[0] == "real_files")
        by_torch = "" if step.job[0] in CHECKS else ",".join(filter(None, [named, *failed]))
        self.log.say(step.name, f"begins, with {by_torch} by torch" if by_torch else "begins")
        start = time.monotonic()
        end: Record = {"last line": ""}  # what the process says of itself
        verdict = self._process(step, min(step.limit_s, left), end, {"SAM2FAST_TORCH_OPS": by_torch})
        self._end(step, verdict, time.monotonic() - start, str(end.get("figure", "")))

    def _process(self, step: Step, limit_s: float, end: Record, more: Mapping[str, str]) -> str:
        reader, writer = os.pipe()
        command = [*self.command, "--step", step.name, "--records", str(writer), "--limit", str(limit_s)]
        try:
            process = subprocess.Popen(
                [*command, "--earlier", str(self.records.paths[0])],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**self.environment, **more},
                pass_fds=[writer],
                start_new_session=True,
            )
        except OSError as error:
            os.close(reader)
            return f"FAILED: {error}"
        finally:
            os.close(writer)
        self.running.add(process)
        assert process.stdout is not None
        threads = [
            threading.Thread(target=self._read_records, args=(step, os.fdopen(reader, "rb"), end), daemon=True),
            threading.Thread(target=self._read_output, args=(step, process.stdout, end), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        _kill_group(process)  # and what it has started
        process.wait()
        self.running.discard(process)
        for thread in threads:
            thread.join(10)
        return _verdict(code, limit_s, end)

    def _read_records(self, step: Step, pipe: IO[bytes], end: Record) -> None:
        with pipe:
            for line in pipe:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue  # cut off
                if record["kind"] == "end":
                    end.update(record)
                else:
                    with self.lock:
                        self.records.add({"step": step.name, **record})

    def _read_output(self, step: Step, pipe: IO[bytes], end: Record) -> None:
        with pipe:
            for line in pipe:
                text = line.decode(errors="replace").rstrip()
                end["last line"] = text or end["last line"]
                self.log.say(step.name, text)

    def _end(self, step: Step, verdict: str, seconds: float, figure: str = "") -> None:
        with self.lock:
            found = {"verdict": verdict, "figure": figure, "seconds": round(seconds, 1)}
            self.records.add({"step": step.name, "kind": "verdict", **found})
            self.log.say(step.name, f"{verdict} after {seconds:.0f} s {figure}")
            self.after()


def _verdict(code: int | None, limit_s: float, end: Record) -> str:
    if code is None:
        return f"FAILED: timed out after {limit_s:.0f} s"
    if code < 0:
        return f"FAILED: killed by {signal.Signals(-code).name}"
    if missing := end.get("missing"):
        return f"not run: {missing} is missing"
    if code or "right" not in end:
        return f"FAILED: {end.get('why') or end['last line'][:200] or f'exit code {code}'}"
    if end["right"] and (left := end.get("unfinished")):
        return f"{UNFINISHED}: {left}"
    return PASSED if end["right"] else f"FAILED: {end.get('why') or 'a result is wrong'}"


def is_failure(record: Record) -> bool:
    """Returns True if a verdict is a failure."""
    return bool(record["verdict"].startswith(FAILED))


def timed_out(record: Record) -> bool:
    """Returns True if the verdict of a step, or of a row's step, is a time-out."""
    return "FAILED: timed out" in record.get("verdict", "")


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
