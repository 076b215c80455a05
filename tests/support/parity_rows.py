"""How the tests marked ``gpu`` compare kernels with float64: on random inputs, twice each; a row says what was found.

``SAM2FAST_PARITY`` is how much they try: ``short``, ``full``, ``sanitizer`` for memory checkers, which take a hundred
times as long and want to see themselves what nobody wrote, or ``rehearsal``, in which they also run without a GPU, in
Triton's interpreter.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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
Plan = TypeVar("Plan")
Row = dict[str, Any]


def planned(full: Plan, short: Plan, sanitizer: Plan, rehearsal: Plan) -> Plan:
    """What is tried in this process."""
    return {"full": full, "short": short, "sanitizer": sanitizer, "rehearsal": rehearsal}[MODE]


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def seeded(seed: int | None = None) -> torch.Generator:
    """By the clock, so that each run sees other inputs; rows say the seed."""
    return torch.Generator().manual_seed(int(time.time()) if seed is None else seed)


def integer(low: int, high: int, generator: torch.Generator) -> int:
    """Both ends included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def finish(row: Row, record_property: Callable[[str, object], None]) -> None:
    """Hands on a row, and fails if a result in it is wrong or differs between two runs."""
    print(row)
    record_property("row", row)
    assert row["wrong"] == 0


def twice(op: str, call: Callable[[], Any]) -> Iterator[Any]:
    """Two results of the kernel.

    Raises:
        RuntimeError: the kernel was not launched once.
    """
    for _ in range(2):
        before = launches[op]
        with backend("triton"):
            result = call()
        if launches[op] != before + 1:
            raise RuntimeError(f"the kernel of {op} was not launched once")
        yield result


class Draw(NamedTuple):
    """One input of an op, and what is computed from it."""

    exact: Tensor  # float64
    reference: Tensor  # in the dtype that is checked
    kernel: Callable[[int | None], Tensor]  # by the number of splits, where the op has any
    shape: str


def allowed_error(dtype: str, reference: float) -> float:
    """How far a kernel may be from float64 where its reference is so far at most."""
    return FLOAT32 if dtype == "float32" else SLACK * reference


def new_row(op: str, dtype: torch.dtype, **about: Any) -> Row:
    row = {"op": op, "dtype": name_of(dtype), **about}
    return row | {"inputs": 0, "runs": 0, "wrong": 0, "largest error": 0.0, "of the reference's": 0.0}


def add_group(
    row: Row,
    op: str,
    draws: Iterable[Draw],
    splits: Sequence[int | None] = (None,),
    allowed_of: Callable[[str, float], float] = allowed_error,
) -> None:
    """Adds draws of like size to the row; the reference's largest error on any of them is the measure.

    The largest of one small input would be a matter of luck.
    """
    outcomes: list[tuple[str, int | None, float, bool]] = []
    reference = 0.0
    for draw in draws:
        reference = max(reference, relative_error(draw.exact, draw.reference), key=nan_last)
        for count in splits:
            first, second = twice(op, lambda draw=draw, count=count: draw.kernel(count))
            repeated = torch.equal(first, second) and first.dtype == draw.reference.dtype
            outcomes.append((draw.shape, count, relative_error(draw.exact, first), repeated))
        row["inputs"] += 1
    allowed = allowed_of(row["dtype"], reference)
    for shape, count, error, repeated in outcomes:
        row["runs"] += 2
        row["largest error"] = max(row["largest error"], error, key=nan_last)
        ratio = error / reference if reference else 0.0
        row["of the reference's"] = max(row["of the reference's"], ratio, key=nan_last)
        if not (repeated and error <= allowed):
            row["wrong"] += 1
            print(f"WRONG: {row['dtype']} {shape}, {count} splits: {error:.3g} of {allowed:.3g}, {repeated=}")


def nan_last(value: float) -> float:
    """A key by which NaN is the largest of all."""
    return value if value == value else float("inf")
