"""What one candidate of ``tune.py`` is judged and timed by: the cases of records, launched with its numbers.

Judging is done by processes of their own, which also fills Triton's cache for the timing. A candidate that ends its
process, by an illegal access or because it takes too long, costs that candidate alone: the next one is judged by a new
process.
"""

import contextlib
import importlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, NamedTuple
from unittest import mock

import torch
from backend_calls import OURS, Result, by_triton, on_cpu, said
from measure import device_time
from registry import Calls, Case, Expected, Search, compare, expectation

from sam2fast.kernels import _launch
from sam2fast.kernels._dispatch import launches
from sam2fast.kernels._launch import ANY, Row
from sam2fast.kernels._sdpa import NAMES, refused

# Where cases come from, as "module:function": those that decide, and small ones for a rehearsal without a GPU.
CASES, SMALL_CASES = "kernel_records:cases", "kernel_records:small_cases"
# Seconds for a candidate, compiling included, and for starting and preparing the cases.
CANDIDATE_S, PREPARING_S = 120.0, 240.0
NO_TIME = "not judged: out of time"


class Attempt(NamedTuple):
    """A candidate: the numbers of a configuration."""

    meta: dict[str, int]
    options: dict[str, int]
    by_kernel: bool = True  # else one of torch's own ways, which the meta names

    def row(self, search: Search, arch: str) -> Row:
        return Row(arch, search.dtype, search.shape, self.meta, self.options)


class Subject(NamedTuple):
    """A case, prepared once for all candidates."""

    case: Case
    calls: Calls

    def ours(self, by_kernel: bool) -> Callable[[], Any]:
        """The op by our kernel, or as the dispatcher has it."""
        if not by_kernel:
            return self.calls["sam2fast"]
        return self.calls["triton"] if "triton" in self.calls else by_triton(self.calls["sam2fast"])

    @property
    def baseline(self) -> Callable[[], Any]:
        return next(iter(self.calls.values()))


def cases_of(source: str) -> Iterable[Case]:
    module, _, function = source.partition(":")
    found: Iterable[Case] = getattr(importlib.import_module(module), function)()
    return found


def subjects(search: Search, device: torch.device, source: str) -> list[Subject]:
    """The cases that decide, without those whose baseline is our own kernel."""
    found = []
    for case in cases_of(source):
        fits = search.dtype in (ANY, case.dtype) and search.shape == case.launch
        if case.op in search.cases and fits and case.runs_on(device):
            calls = case.prepare(device)
            if next(iter(calls)) not in OURS and any(name in calls for name in OURS):
                found.append(Subject(case, calls))
    return found


def launched_as(op: str, row: Row) -> contextlib.AbstractContextManager[Any]:
    """Inside, the op is launched with this configuration."""
    rows = {**_launch.custom_rows(), op: [row]}
    return mock.patch.object(_launch, "custom_rows", lambda: rows)


def launched_by(call: Callable[[], Result], op: str, row: Row) -> Callable[[], Result]:
    """Returns ``call`` by our kernel with this configuration."""

    def run() -> Result:
        with launched_as(op, row):
            return by_triton(call)()

    return run


def expectations(prepared: Sequence[Subject], device: torch.device) -> list[Expected]:
    """What candidates have to compute.

    Raises:
        LookupError: there is no case.
    """
    if not prepared:
        raise LookupError("no case decides")
    with torch.no_grad():
        return [expectation(case, calls, device) for case, calls in prepared]


def judge(
    search: Search, attempt: Attempt, prepared: list[Subject], expected: list[Expected], device: torch.device
) -> str:
    """What is wrong with a candidate, or nothing."""
    before, refusals = sum(launches.values()), len(refused)
    row = attempt.row(search, _launch.architecture(device))
    try:
        with torch.no_grad(), launched_as(search.op, row):
            for subject, right in zip(prepared, expected, strict=True):
                compare(subject.case, "the candidate", subject.ours(attempt.by_kernel), right)
    except Exception as error:  # a wrong result, or whatever the compiler raises
        return said(error)
    if attempt.by_kernel and sum(launches.values()) == before:
        return f"the kernel of {search.op} was not launched"
    if len(refused) > refusals:
        return f"{NAMES[attempt.meta['SDPA']]} refused, and torch chose another way"
    return ""


def times(
    search: Search, attempt: Attempt, prepared: list[Subject], device: torch.device, budget_s: float, least: int
) -> tuple[dict[str, float], set[str]]:
    """Milliseconds by the case's name, and what they were timed by."""
    found, ways = {}, set()
    with torch.no_grad(), launched_as(search.op, attempt.row(search, _launch.architecture(device))):
        for subject in prepared:
            found[subject.case.name], way = device_time(subject.ours(attempt.by_kernel), device, budget_s, least)
            ways.add(way)
    return found, ways


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
