"""Judges candidates of ``tune.py`` in processes of their own, which also fills Triton's cache for the timing.

A candidate that ends its process, by an illegal access or because it takes too long, costs that candidate alone: the
next one is judged by a new process.
"""

import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection

import torch
from backend_calls import on_cpu, said
from registry import Search
from tuning_trials import Attempt, expectations, judge, subjects

# Seconds for a candidate, compiling included, and for starting and preparing the cases.
CANDIDATE_S, PREPARING_S = 120.0, 240.0
NO_TIME = "not judged: out of time"


class GoneError(RuntimeError):
    """A process that does not answer any more."""


class Worker:
    """One process."""

    def __init__(self, device: str, source: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(device, source, theirs))
        self._process.start()
        theirs.close()
        self.prepared = ""  # for which search

    def ask(self, search: Search, attempt: Attempt, seconds: float) -> tuple[str, bool]:
        """What is wrong with a candidate, or nothing, and whether the process is of use any more.

        Raises:
            GoneError: the process ended, or has not answered in time and was ended.
        """
        try:
            self._pipe.send((search._replace(candidates=[]), attempt))
            if self._pipe.poll(max(0.0, seconds)):
                answer: tuple[str, bool] = self._pipe.recv()
                self.prepared = search.name
                return answer
            why = f"no answer in {seconds:.0f} s"
        except (EOFError, OSError):
            self._process.join(10)
            why = f"the process ended with {self._process.exitcode}"
        self.close()
        raise GoneError(why)

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


class Judges:
    """So many processes; they stay for the next search."""

    def __init__(self, device: str, source: str, count: int | None = None, seconds: float = CANDIDATE_S) -> None:
        self._arguments, self._seconds = (device, source), seconds
        self._workers: list[Worker | None] = [None] * (count or max(1, min(8, (os.cpu_count() or 1) // 2)))

    def __enter__(self) -> "Judges":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in filter(None, self._workers):
            worker.close()

    def judge(self, search: Search, attempts: Sequence[Attempt], until: float = float("inf")) -> list[str]:
        """What is wrong with each candidate, or nothing, in their order. ``until``: by ``time.monotonic``."""
        found, left = [NO_TIME] * len(attempts), iter(range(len(attempts)))

        def work(place: int) -> None:
            while time.monotonic() < until and (index := next(left, None)) is not None:
                try:
                    found[index] = self._judged(place, search, attempts[index], until)
                except GoneError as error:
                    self._workers[place] = None
                    found[index] = NO_TIME if time.monotonic() >= until else str(error)

        with ThreadPoolExecutor(len(self._workers)) as pool:
            try:
                list(pool.map(work, range(len(self._workers))))
            finally:
                until = 0.0  # after an interrupt nothing more is begun
        return found

    def _judged(self, place: int, search: Search, attempt: Attempt, until: float) -> str:
        worker = self._workers[place] = self._workers[place] or Worker(*self._arguments)
        seconds = self._seconds + (0.0 if worker.prepared == search.name else PREPARING_S)
        problem, is_of_use = worker.ask(search, attempt, min(seconds, until - time.monotonic()))
        if not is_of_use:
            worker.close()
            self._workers[place] = None
        return problem


def serve(device_name: str, source: str, pipe: Connection) -> None:
    """Answers until nobody asks any more."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(2)
    device = torch.device(device_name)
    if device.type == "cpu":
        on_cpu()
    known, prepared, expected, failure = None, [], [], ""
    while True:
        try:
            search, attempt = pipe.recv()
        except EOFError:
            return
        if search != known:
            known, prepared, expected, failure = search, [], [], ""
            if device.type == "cuda":
                torch.cuda.empty_cache()
            try:
                prepared = subjects(search, device, source)
                expected = expectations(prepared, device)
            except Exception as error:
                failure = f"cases were not prepared: {said(error)}"
        problem = failure or judge(search, attempt, prepared, expected, device)
        pipe.send((problem, not problem or _is_alive(device)))


def _is_alive(device: torch.device) -> bool:
    """Whether the device computes: after an illegal access nothing works in this process."""
    try:
        return bool(torch.ones(2, device=device).sum().item() == 2)
    except RuntimeError:
        return False
