"""Compiles what ``tune.py`` tries ahead of time, without a GPU: ``python bench/aot.py --candidates``.

A candidate does not fit if one of its kernels has a problem that fails ``aot.py``, or if a multiprocessor cannot run as
many of its attention programs at once as its ``CTAS_PER_SM`` says.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

from kernel_records import SEARCHES
from tuning_candidates import Candidate, Search, programs_at_once

from sam2fast.kernels._launch import CTAS_PER_SM, Compilation, LaunchConfig


class Work(NamedTuple):
    """One kernel of a candidate."""

    search: Search
    candidate: Candidate
    config: LaunchConfig
    case: Compilation

    @property
    def key(self) -> Hashable:
        """Of kernels that are the same program, whatever row they are of."""
        options = self.case.options or self.config.options
        constants = tuple(sorted(self.case.constants.items()))
        return self.case.kernel.__name__, self.case.arguments, constants, tuple(sorted(options.items()))


class Verdict(NamedTuple):
    """What the compiler made of a candidate."""

    search: Search
    candidate: Candidate
    kernels: int
    registers: int  # the most of a thread
    shared: int  # the most, in bytes
    at_once: int  # programs of the attention itself on one multiprocessor; 0 for other ops
    problem: str = ""


def work_of(searches: Iterable[Search], arch: str) -> list[Work]:
    """Every kernel of every candidate."""
    found = []
    for search in searches:
        module = import_module(f"sam2fast.kernels.{search.op}.kernel")
        for candidate in search.candidates:
            config = LaunchConfig(arch, search.dtype, search.shape, *candidate)
            found += [Work(search, candidate, config, case) for case in module.compilations(config)]
    return found


def verdicts(work: list[Work], results: dict[Hashable, Any]) -> Iterator[Verdict]:
    """One per candidate, from what ``aot.py`` says of each kernel."""
    groups: dict[tuple[str, str], list[Work]] = {}
    for each in work:
        groups.setdefault((each.search.name, str(each.candidate)), []).append(each)
    for group in groups.values():
        search, candidate = group[0].search, group[0].candidate
        own = [(each, results[each.key]) for each in group]
        problems = [f"{result.kernel}: {result.problem}" for _, result in own if result.problem]
        attention = [(each, result) for each, result in own if "attend" in result.kernel and not result.problem]
        at_once = min(
            (programs_at_once(result.shared, result.registers, each.config.options["num_warps"])
             for each, result in attention),
            default=0,
        )  # fmt: skip
        wanted = candidate[0].get(CTAS_PER_SM, 1)
        if attention and at_once < wanted:
            problems.append(f"{at_once} programs at once instead of {wanted}")
        yield Verdict(
            search,
            candidate,
            len(own),
            max(result.registers for _, result in own),
            max(result.shared for _, result in own),
            at_once,
            "; ".join(dict.fromkeys(problems)),
        )


def compile_candidates(
    target: str,
    wanted: Callable[[Search], bool],
    compile_all: Callable[[list[tuple[str, LaunchConfig, Compilation, str]]], Iterable[Any]],
) -> list[Verdict]:
    """Compiles the kernels of all candidates, each program once, and prints a line per candidate."""
    work = work_of(filter(wanted, SEARCHES), target)
    distinct = {each.key: each for each in work}
    print(f"{len(work)} kernels of candidates, {len(distinct)} of them different", flush=True)
    jobs = [(each.search.op, each.config, each.case, target) for each in distinct.values()]
    found = list(verdicts(work, dict(zip(distinct, compile_all(jobs), strict=True))))
    for verdict in found:
        meta, options = verdict.candidate
        shown = " ".join(f"{key}={value}" for key, value in {**meta, **options}.items())
        print(
            f"{verdict.search.name:32} {shown:72} {verdict.registers:4} registers {verdict.shared:7} B shared "
            f"{verdict.at_once:2} at once  {verdict.problem or 'ok'}",
            flush=True,
        )
    return found
