"""How kernels are compared with their reference implementations: on random inputs, twice each; a row says the result.

``SAM2FAST_PARITY`` is how much is tried: ``short``, ``full``, ``sanitizer`` for memory checkers, which take a hundred
times as long and want to see themselves what nobody wrote, or ``rehearsal``, which also runs without a GPU, in Triton's
interpreter.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from sam2fast.kernels._dispatch import backend, launches
from sam2fast.utils.testing import relative_error

MODE = os.environ.get("SAM2FAST_PARITY", "short")
# fp32 may be so far from float64; what has fewer bits, twice as far as the reference is on any input of its group.
FLOAT32, SLACK = 1e-4, 2.0
ALL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
FEW_DTYPES = ALL_DTYPES[:2]  # for a short visit to a GPU, where every combination is compiled first
AnyPlan = TypeVar("AnyPlan")
Row = dict[str, Any]
EXACT = {"dtypes": (None,), "is_exact": True}  # of an op that has one dtype, whose results have to be equal


def planned(full: AnyPlan, short: AnyPlan, sanitizer: AnyPlan, rehearsal: AnyPlan) -> AnyPlan:
    """What is tried in this process."""
    return {"full": full, "short": short, "sanitizer": sanitizer, "rehearsal": rehearsal}[MODE]


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def integer(low: int, high: int, generator: torch.Generator) -> int:
    """Both ends included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def sizes(most: Iterable[int], generator: torch.Generator) -> list[int]:
    """A random size up to each of the largest ones."""
    return [integer(1, each, generator) for each in most]


def tensors(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [x for x in result if isinstance(x, Tensor)]


class Draw(NamedTuple):
    """One input of an op: its result in float64 and that of the reference implementation, or what judges a result."""

    kernel: Callable[[int | None], Any]  # by the number of splits, where the op has any
    shape: str = ""
    exact: Tensor | None = None  # float64
    reference: Tensor | None = None  # in the dtype that is checked
    judge: Callable[[list[Tensor]], Mapping[str, int]] | None = None  # counts for the row, among them ``wrong``


def equal_to(expected: Any) -> Callable[[list[Tensor]], Mapping[str, int]]:
    """Judges results that have to be equal."""
    right = tensors(expected)
    return lambda found: {
        "wrong": int(not all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(right, found, strict=True)))
    }


class Check(NamedTuple):
    """The comparison of one op.

    Attributes:
        groups: draws of like size, by a plan, a dtype, a variant, a generator and a device.
        full, short, quick, tiny: plans, numbers that ``groups`` knows: for much and little time on a GPU, for memory
            checkers, and for rehearsals and tests of the comparison itself.
        ops: names whose launches are counted; each call launches each once.
        launchers: names of the functions that launch the kernels, after the module's below ``sam2fast.kernels``, and
            the results that tests falsify.
        dtypes: that the op is compared in; None is whatever it takes, and not in the row.
        is_exact: whether results have to be equal; then draws judge them.
        variants: of a plan.
        variant: what rows call them.
        allowed: the error that is allowed, by dtype and the error of the reference implementation.
        many: whether results are right for masks with more than 2**31 pixels together.
        unsupported: why a device cannot run the kernel.
    """

    groups: Callable[..., Iterable[Iterable[Draw]]]
    full: Any
    short: Any
    quick: Any
    tiny: Any
    ops: Sequence[str]
    launchers: Sequence[tuple[str, int]]
    dtypes: Sequence[torch.dtype | None] = ALL_DTYPES
    is_exact: bool = False
    variants: Callable[[Any], Sequence[Any]] = lambda plan: (None,)
    variant: str = ""
    splits: Callable[[Any], Sequence[int | None]] = lambda plan: (None,)
    allowed: Callable[[str, float], float] | None = None
    many: Callable[[torch.device], bool] | None = None
    unsupported: Callable[[torch.device], str | None] = lambda device: None

    @property
    def plan(self) -> Any:
        return planned(self.full, self.short, self.quick, self.tiny)

    @property
    def planned_dtypes(self) -> Sequence[torch.dtype | None]:
        wanted = planned(ALL_DTYPES, FEW_DTYPES, ALL_DTYPES, FEW_DTYPES[:1])
        return [dtype for dtype in self.dtypes if dtype is None or dtype in wanted] or self.dtypes[:1]


class Plan(NamedTuple):
    """So many random inputs, of sizes up to these."""

    draws: int
    most: tuple[int, ...]


def simple_check(draw: Callable[..., Draw], *plans: Plan, launchers: Sequence[str], **more: Any) -> Check:
    """A comparison whose inputs make one group.

    Args:
        draw: makes an input; is given the most that sizes may be, a dtype, a generator and a device.
        plans: full, short, quick and tiny.
        launchers: names, with ``:1`` where tests falsify the second result.
        more: fields of the check; its ``ops`` are by default the op whose module the launchers are in.
    """

    def groups(plan: Plan, dtype: torch.dtype | None, _: None, *on: Any) -> Iterator[Iterator[Draw]]:
        yield (draw(plan.most, dtype, *on) for _ in range(plan.draws))

    parts = [(name, int(part or 0)) for name, _, part in (each.partition(":") for each in launchers)]
    op = launchers[0].partition(".")[0].removesuffix("_triton")
    return Check(groups, *plans, **{"ops": (op,), "launchers": parts, **more})


@torch.no_grad()
def row_of(
    op: str,
    check: Check,
    plan: Any,
    dtype: torch.dtype | None,
    variant: Any,
    device: torch.device,
    seed: int | None = None,
) -> Row:
    """Compares an op on the inputs of a plan. Without a seed each run sees other inputs; rows say the seed."""
    generator = torch.Generator().manual_seed(int(time.time()) if seed is None else seed)
    row: Row = {"op": op} | ({} if dtype is None else {"dtype": name_of(dtype)})
    row |= ({check.variant: variant} if check.variant else {}) | {"inputs": 0, "runs": 0, "wrong": 0}
    for group in check.groups(plan, dtype, variant, generator, device):
        add_group(row, check, group, check.splits(plan))
    return {**row, "seed": generator.initial_seed()}


def add_group(row: Row, check: Check, draws: Iterable[Draw], splits: Sequence[int | None]) -> None:
    """Adds draws of like size to the row; the reference's largest error on any of them is the measure.

    The largest of one small input would be a matter of luck.
    """
    outcomes: list[tuple[str, int | None, float, bool]] = []
    reference = 0.0
    for draw in draws:
        row["inputs"] += 1
        if draw.judge is None:
            reference = max(reference, relative_error(draw.exact, draw.reference), key=nan_last)
        for count in splits:
            first, second = twice(check.ops, lambda draw=draw, count=count: draw.kernel(count))
            row["runs"] += 2
            repeated = all(map(torch.equal, first, second))
            if draw.judge is None:
                repeated &= first[0].dtype == draw.reference.dtype
                outcomes.append((draw.shape, count, relative_error(draw.exact, first[0]), repeated))
            else:
                counts = draw.judge(first)
                for name, number in counts.items():
                    row[name] = row.get(name, 0) + number
                row["wrong"] += not (repeated or counts["wrong"])
    allowed = (check.allowed or allowed_error)(row.get("dtype", ""), reference)
    for shape, count, error, repeated in outcomes:
        row["largest error"] = max(row.get("largest error", 0.0), error, key=nan_last)
        ratio = error / reference if reference else 0.0
        row["of the reference's"] = max(row.get("of the reference's", 0.0), ratio, key=nan_last)
        if not (repeated and error <= allowed):
            row["wrong"] += 1
            print(f"WRONG: {row['dtype']} {shape}, {count} splits: {error:.3g} of {allowed:.3g}, {repeated=}")


def twice(ops: Sequence[str], call: Callable[[], Any]) -> Iterator[list[Tensor]]:
    """Two results of the kernel.

    Raises:
        RuntimeError: one of the kernels was not launched once.
    """
    for _ in range(2):
        before = {op: launches[op] for op in ops}
        with backend("triton"):
            result = call()
        for op in ops:
            if launches[op] != before[op] + 1:
                raise RuntimeError(f"the kernel of {op} was not launched once")
        yield tensors(result)


def allowed_error(dtype: str, reference: float) -> float:
    """How far a kernel may be from float64 where its reference is so far at most.

    In fp32 the reference of an interpolation may be further than FLOAT32, since coordinates of large maps are rounded.
    """
    return max(FLOAT32 if dtype == "float32" else 0.0, SLACK * reference)


def nan_last(value: float) -> float:
    """The value, or a key, by which NaN is infinite."""
    return value if value == value else float("inf")
