"""Judges candidates of ``tune.py`` in processes of their own, which also fills Triton's cache for the timing.

A candidate that ends its process, by an illegal access or because it takes too long, costs that candidate alone: the
next one is judged by a new process.
"""

import multiprocessing
import os
import queue
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import NamedTuple

import torch
from backend_calls import on_cpu, said
from tuning_candidates import Search
from tuning_trials import Attempt, expectations, judge, subjects

# Seconds for a candidate, compiling included, and for starting and preparing the cases.
CANDIDATE_S, PREPARING_S = 120.0, 240.0
NO_TIME = "not judged: out of time"


class GoneError(RuntimeError):
    """A process that does not answer any more."""


class Answer(NamedTuple):
    """What a process says of a search or of a candidate."""

    error: str
    is_fatal: bool = False  # the process is of no use any more


class Worker:
    """One process."""

    def __init__(self, device: str, source: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(device, source, theirs))
        self._process.start()
        theirs.close()
        self.prepared = "", ""  # for which search, and what went wrong

    def ask(self, question: Search | Attempt, seconds: float) -> Answer:
        """
        Raises:
            GoneError: the process ended, or has not answered in time and was ended.
        """
        try:
            self._pipe.send(question)
            if self._pipe.poll(max(0.0, seconds)):
                answer: Answer = self._pipe.recv()
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
        found, left = [NO_TIME] * len(attempts), queue.SimpleQueue[int]()
        for index in range(len(attempts)):
            left.put(index)

        def work(place: int) -> None:
            while time.monotonic() < until:
                try:
                    index = left.get_nowait()
                except queue.Empty:
                    return
                try:
                    found[index] = self._judged(place, search, attempts[index], until)
                except GoneError as error:
                    self._workers[place] = None
                    found[index] = NO_TIME if time.monotonic() >= until else str(error)

        places = range(min(len(self._workers), len(attempts)))
        with ThreadPoolExecutor(len(self._workers)) as pool:
            try:
                list(pool.map(work, places))
            finally:
                until = 0.0  # after an interrupt nothing more is begun
        return found

    def _judged(self, place: int, search: Search, attempt: Attempt, until: float) -> str:
        worker = self._workers[place] = self._workers[place] or Worker(*self._arguments)
        if worker.prepared[0] != search.name:
            answer = worker.ask(search._replace(candidates=[]), min(PREPARING_S, until - time.monotonic()))
            worker.prepared = search.name, answer.error
        if worker.prepared[1]:
            return f"cases were not prepared: {worker.prepared[1]}"
        answer = worker.ask(attempt, min(self._seconds, until - time.monotonic()))
        if answer.is_fatal:
            worker.close()
            self._workers[place] = None
        return answer.error


def serve(device_name: str, source: str, pipe: Connection) -> None:
    """Answers until nobody asks any more."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(2)
    device = torch.device(device_name)
    if device.type == "cpu":
        on_cpu()
    search, prepared, expected = None, [], []
    while True:
        try:
            question = pipe.recv()
        except EOFError:
            return
        error = ""
        if isinstance(question, Search):
            search, prepared, expected = question, [], []
            if device.type == "cuda":
                torch.cuda.empty_cache()
            try:
                prepared = subjects(search, device, source)
                expected = expectations(prepared, device)
            except Exception as failure:
                error = said(failure)
        else:
            assert search is not None
            error = judge(search, question, prepared, expected, device)
        pipe.send(Answer(error, bool(error) and not _is_alive(device)))


def _is_alive(device: torch.device) -> bool:
    """Whether the device computes: after an illegal access nothing works in this process."""
    try:
        return bool(torch.ones(2, device=device).sum().item() == 2)
    except RuntimeError:
        return False
