"""What one candidate of ``tune.py`` is judged and timed by: the cases of records, and its row in the table's place."""

import contextlib
import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from backend_calls import OURS, by_triton, said
from measure import device_time
from registry import Calls, Case, Expected, Search, compare, expectation

from sam2fast.kernels import _launch
from sam2fast.kernels._dispatch import launches
from sam2fast.kernels._launch import ANY, LaunchConfig
from sam2fast.kernels.window_attention.sdpa import NAMES, refused

# Where cases come from, as "module:function": those that decide, and small ones for a rehearsal without a GPU.
CASES, SMALL_CASES = "kernel_records:cases", "kernel_records:small_cases"


class Attempt(NamedTuple):
    """A candidate: a row's numbers."""

    meta: dict[str, int]
    options: dict[str, int]
    by_kernel: bool = True  # else one of torch's own ways, which the row names

    def config(self, search: Search, arch: str) -> LaunchConfig:
        return LaunchConfig(arch, search.dtype, search.shape, self.meta, self.options)


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


@contextlib.contextmanager
def launched_as(op: str, config: LaunchConfig) -> Iterator[None]:
    """Inside, the op is launched with this configuration whatever the table says."""
    table, original = {**_launch.launch_table(), op: [config]}, _launch.launch_table
    _launch.launch_table = lambda: table  # type: ignore[assignment]
    try:
        yield
    finally:
        _launch.launch_table = original


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
    config = attempt.config(search, _launch.architecture(device))
    try:
        with torch.no_grad(), launched_as(search.op, config):
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
    with torch.no_grad(), launched_as(search.op, attempt.config(search, _launch.architecture(device))):
        for subject in prepared:
            found[subject.case.name], way = device_time(subject.ours(attempt.by_kernel), device, budget_s, least)
            ways.add(way)
    return found, ways
