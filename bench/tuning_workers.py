"""Judges candidates of ``tune.py`` in processes of their own, which also fills Triton's cache for the timing.

A candidate that ends its process, by an illegal access or because it takes too long, costs that candidate alone: the
next one is judged by a new process. Run as a script this is such a process: it reads a line of JSON for each thing that
it is asked, and answers with one.
"""

import contextlib
import json
import os
import queue
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from tuning_candidates import Search

# Seconds for a candidate, compiling included, and for starting and preparing the cases.
CANDIDATE_S, PREPARING_S = 120.0, 240.0
NO_TIME = "not judged: out of time"


class GoneError(RuntimeError):
    """A process that does not answer any more."""


class Worker:
    """One process, and for which search it is prepared."""

    def __init__(self, device: str, source: str) -> None:
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process)
        # The same package as here, also where another one is installed.
        path = os.pathsep.join(filter(None, (str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH"))))
        own = {"PYTHONPATH": path} | ({"TRITON_INTERPRET": "1"} if device == "cpu" else {})
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), device, source],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={"OMP_NUM_THREADS": "2", **os.environ, **own},
        )
        self.prepared_for: str | None = None

    def ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        """
        Raises:
            GoneError: the process ended, or has not answered in time and was ended.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise GoneError(self._end()) from None
        if not select.select([self._process.stdout], [], [], max(0.0, seconds))[0]:
            self.close()
            raise GoneError(f"no answer in {seconds:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise GoneError(self._end())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _end(self) -> str:
        try:
            status: int | str = self._process.wait(10)
        except subprocess.TimeoutExpired:
            status = "no status"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        self.close()
        return f"the process ended with {status}: {lines[-1][:200] if lines else 'without a word'}"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._log):
            if file is not None:
                with contextlib.suppress(OSError):  # what was not sent any more
                    file.close()


class Judges:
    """So many processes; they stay for the next search."""

    def __init__(self, device: str, source: str, count: int | None = None, seconds: float = CANDIDATE_S) -> None:
        self._arguments, self._seconds = (device, source), seconds
        self._closed = False
        self._workers: list[Worker | None] = [None] * (count or max(1, min(8, (os.cpu_count() or 1) // 2)))

    def __enter__(self) -> "Judges":
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        for worker in self._workers:
            if worker is not None:
                worker.close()

    def judge(self, search: Search, attempts: Sequence[Any], deadline: float | None = None) -> list[str]:
        """What is wrong with each candidate, or nothing, in their order. ``deadline``: by ``time.monotonic``."""
        found = [NO_TIME] * len(attempts)
        left: queue.SimpleQueue[int] = queue.SimpleQueue()
        for index in range(len(attempts)):
            left.put(index)
        until = float("inf") if deadline is None else deadline
        threads = [
            threading.Thread(target=self._work, args=(place, search, attempts, left, found, until), daemon=True)
            for place in range(min(len(self._workers), len(attempts)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found

    def _work(
        self,
        place: int,
        search: Search,
        attempts: Sequence[Any],
        left: "queue.SimpleQueue[int]",
        found: list[str],
        until: float,
    ) -> None:
        failures = 0  # to prepare, one after the other
        while not self._closed and time.monotonic() < until:
            try:
                index = left.get_nowait()
            except queue.Empty:
                return
            try:
                worker = self._prepared(place, search, until)
                failures = 0
            except GoneError as error:
                self._workers[place] = None
                failures += 1
                found[index] = NO_TIME if time.monotonic() >= until else f"cases were not prepared: {error}"
                if failures == 2:
                    # It would be the same for the others.
                    while not left.empty():
                        try:
                            found[left.get_nowait()] = found[index]
                        except queue.Empty:
                            break
                    return
                continue
            try:
                attempt = attempts[index]._asdict()
                answer = worker.ask({"attempt": attempt}, min(self._seconds, until - time.monotonic()))
                found[index] = answer["error"]
                if answer.get("fatal"):
                    worker.close()
                    self._workers[place] = None
            except GoneError as error:
                self._workers[place] = None
                found[index] = NO_TIME if time.monotonic() >= until else str(error)

    def _prepared(self, place: int, search: Search, until: float) -> Worker:
        worker = self._workers[place]
        if worker is None:
            worker = self._workers[place] = Worker(*self._arguments)
        if worker.prepared_for != search.name:
            question = {"search": search._replace(candidates=[])._asdict()}
            answer = worker.ask(question, min(PREPARING_S, until - time.monotonic()))
            if answer["error"]:
                worker.close()
                raise GoneError(answer["error"])
            worker.prepared_for = search.name
        return worker


def serve(device_name: str, source: str, questions: IO[str], answers: IO[str]) -> None:
    """Answers until there is no question left, or the device is of no use any more."""
    import torch
    from tuning_trials import Attempt, expectations, judge, on_cpu, said, subjects

    device = torch.device(device_name)
    if device.type == "cpu":
        on_cpu()
    search, prepared, expected = None, [], []
    for line in questions:
        question = json.loads(line)
        answer: dict[str, Any] = {"error": ""}
        if "search" in question:
            search, prepared, expected = Search(**question["search"]), [], []
            if device.type == "cuda":
                torch.cuda.empty_cache()
            try:
                prepared = subjects(search, device, source)
                expected = expectations(prepared, device)
            except Exception as error:
                answer["error"] = said(error)
        else:
            assert search is not None
            answer["error"] = judge(search, Attempt(**question["attempt"]), prepared, expected, device)
            if answer["error"] and not _is_alive(device):
                answer["fatal"] = True
        print(json.dumps(answer), file=answers, flush=True)
        if answer.get("fatal"):
            return


def _is_alive(device: Any) -> bool:
    """Whether the device computes: after an illegal access nothing works in this process."""
    import torch

    try:
        return bool(torch.ones(2, device=device).sum().item() == 2)
    except RuntimeError:
        return False


if __name__ == "__main__":
    # What the cases print goes elsewhere.
    with os.fdopen(os.dup(1), "w") as output:
        os.dup2(2, 1)
        serve(sys.argv[1], sys.argv[2], sys.stdin, output)
        # Not through the interpreter's end, which may wait for a device that is of no use any more.
        output.flush()
        os._exit(0)
