"""How kernels are compared with float64: on random inputs, twice each, with a row of what was found."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sam2fast.kernels._dispatch import backend, launches
from sam2fast.utils.testing import relative_error

# fp32 may be so far from float64; what has fewer bits, twice as far as the twin is on any input of its group.
FLOAT32, SLACK = 1e-4, 2.0
Rows = list[dict[str, Any]]
NOTHING_RUN = {"inputs": 0, "runs": 0, "wrong": 0, "largest error": 0.0, "of the twin's": 0.0}


class Draw(NamedTuple):
    """One input of an op, and what is computed from it."""

    exact: Tensor  # float64
    twin: Tensor  # the twin in the dtype that is checked
    kernel: Callable[[int | None], Tensor]  # by the number of splits, where the op has any
    shape: str


class Outcome(NamedTuple):
    """Of two runs on one input."""

    shape: str
    splits: int | None
    error: float  # relative_error of the first run
    repeated: bool  # the second run gave the same bits, and both the right dtype


def allowed_error(dtype: str, twin: float) -> float:
    """How far a kernel may be from float64 where its twin is so far at most."""
    return FLOAT32 if dtype == "float32" else SLACK * twin


def add_group(
    row: dict[str, Any],
    op: str,
    draws: Iterable[Draw],
    splits: Sequence[int | None],
    poison: bool,
    allowed_of: Callable[[str, float], float] = allowed_error,
) -> None:
    """Runs draws of like size and adds them to the row; the twin's largest error on any of them is the measure."""
    outcomes, twin = [], 0.0
    for draw in draws:
        # The largest of one small input would be a matter of luck.
        twin = max(twin, relative_error(draw.exact, draw.twin), key=nan_last)
        outcomes += [_two_runs(op, draw, count, poison) for count in splits]
        row["inputs"] += 1
    allowed = allowed_of(row["dtype"], twin)
    for outcome in outcomes:
        row["runs"] += 2
        row["largest error"] = max(row["largest error"], outcome.error, key=nan_last)
        row["of the twin's"] = max(row["of the twin's"], outcome.error / twin if twin else 0.0, key=nan_last)
        if not (outcome.repeated and outcome.error <= allowed):
            row["wrong"] += 1
            print(f"WRONG: {row['dtype']} {outcome}, allowed {allowed:.3g}", flush=True)


def nan_last(value: float) -> float:
    """A key by which NaN is the largest of all."""
    return value if value == value else float("inf")


def _two_runs(op: str, draw: Draw, splits: int | None, poison: bool) -> Outcome:
    """Runs the kernel twice on one input.

    Raises:
        RuntimeError: the kernel was not launched.
    """
    before = launches[op]
    with backend("triton"), poisoned() if poison else contextlib.nullcontext():
        runs = [draw.kernel(splits) for _ in range(2)]
    if launches[op] != before + 2:
        raise RuntimeError("the kernel was not launched")
    repeated = torch.equal(*runs) and runs[0].dtype == draw.twin.dtype
    return Outcome(draw.shape, splits, relative_error(draw.exact, runs[0]), repeated)


@contextlib.contextmanager
def poisoned() -> Iterator[None]:
    """Inside, memory that nobody wrote holds NaN."""
    before = torch.get_deterministic_debug_mode()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def integer(low: int, high: int, generator: torch.Generator) -> int:
    """Both ends included."""
    return int(torch.randint(low, high + 1, (), generator=generator))
