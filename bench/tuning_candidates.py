"""What ``tune.py`` tries for a row of the launch table.

Candidates that cannot be launched cost minutes on a rented GPU, so that lists leave out what does not fit, by the
formulas of the records.
"""

from collections.abc import Iterable
from typing import NamedTuple

from sam2fast.kernels._launch import ANY

Candidate = tuple[dict[str, int], dict[str, int]]  # meta and options of a row
OPTIONS = ("num_warps", "num_stages")
# Of a multiprocessor of sm_90: registers, and shared memory in bytes, of which every program takes some for itself.
REGISTERS, SHARED, SHARED_PER_PROGRAM = 65536, 233472, 1024


class Search(NamedTuple):
    """What is tried for one row of the table."""

    op: str
    dtype: str
    shape: str
    candidates: list[Candidate]
    cases: tuple[str, ...]  # ops whose cases decide: those of this dtype and shape class
    # If given, the row says under this name which of torch's own ways is taken instead of the kernel; 0 is the kernel.
    choice: str = ""
    choices: tuple[int, ...] = ()
    order: int = 3  # rows with a smaller number are searched first

    @property
    def name(self) -> str:
        return f"{self.op} {self.dtype} {self.shape}"


def search(
    op: str,
    names: str,
    values: Iterable[tuple[int, ...]],
    dtype: str = ANY,
    shape: str = ANY,
    cases: tuple[str, ...] = (),
    choice: str = "",
    choices: tuple[int, ...] = (),
    order: int = 3,
) -> Search:
    """The search of a row, decided by cases of the ops ``cases``, by default of ``op``.

    Args:
        names: of a candidate's numbers: of its meta, and ``num_warps`` and ``num_stages``.
        values: the numbers of each candidate, in the order of the names; the last ones may be left out.
    """
    candidates = []
    for each in values:
        named = dict(zip(names.split(), each, strict=False))
        options = {name: named.pop(name) for name in OPTIONS if name in named}
        candidates.append((named, options))
    return Search(op, dtype, shape, candidates, cases or (op,), choice, choices, order)


def programs_at_once(shared: int, registers: int, warps: int) -> int:
    """How many programs of so much shared memory, registers of each thread, and warps a multiprocessor runs at once."""
    by_registers = REGISTERS // (-(-registers // 8) * 8 * 32 * warps)
    return min(SHARED // (shared + SHARED_PER_PROGRAM), by_registers, 64 // warps)
