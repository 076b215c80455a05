"""Defines the record of a kernel: measured cases, their work, and the comparison of results.

A case prepares its inputs on a device and returns callables by subject. The first subject is the baseline. Before
anything is timed, results of the other subjects are compared with the baseline's, and a wrong subject is not timed at
all. In bfloat16 the baseline's own rounding would hide that a kernel leaves out some keys. A case may therefore compare
with its result in fp32 instead.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

import torch
from backend_calls import RefusedError
from parity_rows import Check, tensors

from sam2fast.kernels._launch import ANY, LaunchConfig, configuration
from sam2fast.kernels._op import OPS
from sam2fast.utils.testing import relative_error

Calls = Mapping[str, Callable[[], Any]]
Candidate = tuple[dict[str, int], dict[str, int]]  # meta and options of a configuration
OPTIONS = ("num_warps", "num_stages")
# Of a multiprocessor of sm_90: registers, and shared memory in bytes, of which every program takes some for itself.
REGISTERS, SHARED, SHARED_PER_PROGRAM = 65536, 233472, 1024
# In bfloat16 a result may be SLACK times as far from the result in fp32 as the baseline or the reference, and FLOOR in
# any case.
SLACK, FLOOR = 2.0, 0.01
MOST = 0.1  # largest error of the baseline
TIMED = (torch.float32, torch.bfloat16)


class Work(NamedTuple):
    """What is computed and moved: inputs read once, results written once. A multiply-add is two FLOPs."""

    bytes: float = 0.0
    products: float = 0.0  # FLOPs (for masks: operations on int8) of matrix products
    vector: float = 0.0  # FLOPs outside of products
    exponentials: float = 0.0

    @property
    def flops(self) -> float:
        return self.products + self.vector


@dataclass(frozen=True)
class Case:
    """One op at one shape and dtype."""

    op: str
    shape: str
    dtype: str
    prepare: Callable[[torch.device], Calls]
    work: Work  # of which bytes and matrix products are compared with the limits of the device
    tolerance: float = 0.0  # of relative_error against the first subject; 0 for equality; with exact, the least allowed
    exact: Callable[[torch.device], torch.Tensor] | None = None  # the result in fp32, to be compared with instead
    device: str = ""  # the only type of device it is for, where others would take minutes
    launch: str = ANY  # shape class of its configuration

    @property
    def name(self) -> str:
        return f"{self.op} {self.shape} {self.dtype}"

    def runs_on(self, device: torch.device) -> bool:
        return self.device in ("", device.type)


class Search(NamedTuple):
    """What is tried for one configuration."""

    op: str
    dtype: str = ANY
    shape: str = ANY
    candidates: Sequence[Candidate] = ()
    cases: tuple[str, ...] = ()  # ops whose cases decide: those of this dtype and shape class
    # If given, the configuration says under this name which of torch's own ways is taken instead; 0 is the kernel.
    choice: str = ""
    choices: tuple[int, ...] = ()
    order: int = 3  # those with a smaller number come first

    @property
    def name(self) -> str:
        return f"{self.op} {self.dtype} {self.shape}"


def launch_module(op: str) -> ModuleType:
    """The module that launches the kernels of an op, and has their ``config``."""
    name = f"sam2fast.kernels.{op}"
    is_folder = find_spec(name).submodule_search_locations  # type: ignore[union-attr]
    return import_module(f"{name}.launch" if is_folder else f"{name}_triton")


def configured(op: str, arch: str, dtype: str, shape: str) -> LaunchConfig:
    """The configuration of an op by names."""
    return configuration(op, launch_module(op).config, arch, dtype, shape)


def search(op: str, names: str, values: Iterable[tuple[int, ...]], **more: Any) -> Search:
    """The search of a configuration, decided by cases of ``op`` unless other ``cases`` are named.

    Args:
        names: of a candidate's numbers: of its meta, and ``num_warps`` and ``num_stages``.
        values: the numbers of each candidate, in the order of the names; the last ones may be left out.
        more: fields of the search.
    """
    candidates = []
    for each in values:
        named = dict(zip(names.split(), each, strict=False))
        options = {name: named.pop(name) for name in OPTIONS if name in named}
        candidates.append((named, options))
    return Search(op, candidates=candidates, **{"cases": (op,), **more})


def programs_at_once(shared: int, registers: int, warps: int) -> int:
    """How many programs of so much shared memory, registers of each thread, and warps a multiprocessor runs at once."""
    by_registers = REGISTERS // (-(-registers // 8) * 8 * 32 * warps)
    return min(SHARED // (shared + SHARED_PER_PROGRAM), by_registers, 64 // warps)


class Sample(NamedTuple):
    """A call of an op on little input, for tests that every op has to pass.

    Attributes:
        function: the public function.
        arguments: of the function, on the CPU.
        launches: the name under which launches are counted, which the operator has, too, unless it is named.
        batched: so many leading arguments have the same first axis, which may be empty.
        has_gradient: whether results have a gradient.
        is_bounded: whether tracing with symbols as sizes would take too long.
    """

    function: Callable[..., Any]
    arguments: Callable[[], tuple[Any, ...]]
    launches: str
    operator: str = ""
    batched: int = 1
    has_gradient: bool = False
    is_bounded: bool = False


class Call(NamedTuple):
    """A call of an op's kernel on tensors without values; ``make aot`` compiles what it launches."""

    op: str  # name of the operator
    arguments: tuple[Any, ...]
    dtype: str  # of the computation: 16-bit kernels must not spill
    shape: str = ANY  # class of the configuration

    def run(self) -> None:
        OPS[self.op].kernel(*self.arguments)


class Record(NamedTuple):
    """What is measured, tuned and shown of the ops of one folder of ``kernels/``.

    Attributes:
        cases: everything there is to measure.
        small: a case of every op and shape class, for rehearsals in Triton's interpreter.
        searches: what is tried for each configuration.
        work: lines of the table of work on the op's page: what, the dtype of its products, the work.
        samples: small calls of every op with a kernel, by a name.
        launched: calls whose kernels are compiled ahead of time: every dtype, shape class and variant.
        parity: comparisons with the reference implementation on random inputs, by the op's name in rows.
        pages: the ops that each page shows measurements of; by default the page of the folder, with all ops.
    """

    cases: Sequence[Case]
    small: Sequence[Case]
    searches: Sequence[Search]
    work: Callable[[], Iterable[tuple[str, str, Work]]]
    samples: Mapping[str, Sample]
    launched: Callable[[], Iterable[Call]]
    parity: Mapping[str, Check]
    pages: Mapping[str, Sequence[str]] = {}


class WrongResultError(AssertionError):
    """A subject whose result differs from the baseline's; it gets no time."""


class Expected(NamedTuple):
    """What the results of a case are compared with."""

    source: str
    results: list[torch.Tensor]  # on the CPU
    tolerance: float  # of relative_error; 0 for equality


def expectation(case: Case, calls: Calls, device: torch.device) -> Expected:
    """Returns the expected results of a case: the baseline's, or the result in fp32 if the case has it.

    From the result in fp32, the subject ``reference`` may be ``SLACK`` times as far as the baseline. Others may be
    ``SLACK`` times as far as either.

    Raises:
        WrongResultError: If the baseline or the reference is far from the result in fp32.
    """
    first, call = next(iter(calls.items()))
    results = [x.cpu() for x in tensors(call())]
    if case.exact is None:
        return Expected(first, results, case.tolerance)
    exact = case.exact(device).cpu()
    error = relative_error(exact, results[0])
    if not error <= MOST:
        raise WrongResultError(f"{case.name}: {first} differs from itself in fp32 by {error:.2g}")
    expected = Expected(f"{first} in fp32", [exact], max(case.tolerance, SLACK * error))
    if "reference" in calls:
        with contextlib.suppress(RefusedError):
            reference = calls["reference"]()
            compare(case, "reference", lambda: reference, expected)
            error = max(error, relative_error(exact, tensors(reference)[0].cpu()))
    return expected._replace(tolerance=max(case.tolerance, SLACK * error))


def compare(case: Case, name: str, call: Callable[[], Any], expected: Expected) -> None:
    """Runs one subject.

    Raises:
        WrongResultError: its result differs by more than is allowed.
    """
    for right, actual in zip(expected.results, (x.cpu() for x in tensors(call())), strict=True):
        if expected.tolerance == 0:
            if not torch.equal(right, actual):
                raise WrongResultError(f"{case.name}: {name} differs from {expected.source}")
        elif not (error := relative_error(right, actual)) <= expected.tolerance:
            found = f"{error:.2g}, allowed {expected.tolerance:.2g}"
            raise WrongResultError(f"{case.name}: {name} differs from {expected.source} ({found})")


def check(case: Case, calls: Calls, device: torch.device) -> dict[str, Callable[[], Any]]:
    """Compares every subject's result with what is expected.

    Returns:
        The subjects that can run here; one that refuses is left out, with a line that says so.

    Raises:
        WrongResultError: one differs by more than the case allows.
    """
    (first, call), *others = calls.items()
    expected, able = expectation(case, calls, device), {first: call}
    for name, call in others:
        try:
            compare(case, name, call, expected)
        except RefusedError as error:
            print(f"{case.name}: {name} is left out: {error}", flush=True)
        else:
            able[name] = call
    return able
