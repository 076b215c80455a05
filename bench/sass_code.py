"""Machine code of a kernel as ``nvdisasm`` prints it: instructions by kind, loops, and how early loads are issued."""

import functools
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# The first pattern that fits a name gives the kind.
KINDS = {
    "wgmma": r"[HQI]GMMA",
    "tcgen05": r"UTC\w*MMA",
    "mma": r"[HQI]MMA",
    "mufu": r"MUFU",
    "shared": r"LDSM?$|STSM?$|ATOMS",
    "global": r"LDG$|LDGSTS|STG|UTMA\w+|UBLKCP|ATOMG|RED$",
    "sync": r"BAR|DEPBAR|LDGDEPBAR|WARPGROUP|WARPSYNC|SYNCS|MEMBAR|FENCE|UTCBAR|NANOSLEEP",
    "tmem": r"LDTM|STTM",
    "local": r"LDL|STL",
    "fp32": r"F(ADD|MUL|FMA|MNMX|SEL|SETP|CHK|2F)|HFMA2",
    "uniform": r"U[A-Z]",
    "control": r"BRA|EXIT|NOP|B(SSY|SYNC|REAK|PT)|CALL|RET|ELECT|VOTE",
    "int": r"",
}
TENSOR = ("wgmma", "mma", "tcgen05")
_KINDS = [(kind, re.compile(pattern)) for kind, pattern in KINDS.items()]
_INSTRUCTION = re.compile(
    r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@(?P<predicate>!?U?P\w+)\s+)?(?P<name>[A-Z][\w.]*)\s*(?P<rest>.*?)\s*;"
)
_LABEL = re.compile(r"\s*(\.L_?\w+):")
_TARGET = re.compile(r"`\((\.L_?\w+)\)")


@functools.cache
def _kind_of(root: str) -> str:
    return next(kind for kind, pattern in _KINDS if pattern.match(root))


class Instruction(NamedTuple):
    """One instruction of a warp."""

    name: str  # with its modifiers, such as LDG.E.128
    operands: str
    predicate: str = ""

    @property
    def root(self) -> str:
        return self.name.partition(".")[0]

    @property
    def kind(self) -> str:
        return _kind_of(self.root)

    @property
    def bytes(self) -> int:
        """Moved by the 32 threads of a warp from or to memory; none where it never runs or copies a tile."""
        if self.predicate == "!PT" or self.root == "UTMALDG":
            return 0
        if self.root in ("LDSM", "STSM"):
            return 128 * int((re.search(r"M88\.(\d)", self.name) or "11")[1])
        size = re.search(r"\.[US]?(8|16|64|128)\b", self.name)
        return 4 * int(size[1]) if size else 128


class Code(NamedTuple):
    """A kernel."""

    instructions: list[Instruction]
    loops: list[tuple[int, int]]  # first and last instruction of each, the branch back
    jumps: dict[int, int]  # from an instruction that names a label to the one behind the label


def parse(text: str) -> Code:
    """Reads what ``nvdisasm -c`` prints of one kernel."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if found := _LABEL.match(line):
            labels[found[1]] = len(instructions)
        elif found := _INSTRUCTION.match(line):
            instructions.append(Instruction(found["name"], found["rest"], found["predicate"] or ""))
    named = ((i, _TARGET.search(x.operands)) for i, x in enumerate(instructions))
    jumps = {i: labels[target[1]] for i, target in named if target and target[1] in labels}
    # A branch back from behind the end belongs to code that was moved there, to wait, and one around a change of
    # registers to the loop in which specialised warps wait for their work.
    loops = [
        (first, last)
        for last, first in jumps.items()
        if first < last
        and instructions[last].root == "BRA"
        and all(x.root not in ("EXIT", "USETMAXREG") for x in instructions[first:last])
    ]
    return Code(instructions, loops, jumps)


def tensor_count(instructions: Iterable[Instruction]) -> int:
    return sum(x.kind in TENSOR for x in instructions)


def until_last_product(instructions: Sequence[Instruction]) -> Sequence[Instruction]:
    """Those up to the last tensor-core instruction."""
    found = [i for i, x in enumerate(instructions) if x.kind in TENSOR]
    return instructions[: found[-1] + 1] if found else []


def main_loop(code: Code) -> tuple[int, int] | None:
    """The loop with the most tensor-core instructions, the innermost of those; None where there is none."""
    counted = [(tensor_count(code.instructions[a : b + 1]), a - b, (a, b)) for a, b in code.loops]
    best = max(counted, default=(0, 0, (0, 0)))
    return best[2] if best[0] else None


def specialised(code: Code, loop: tuple[int, int] | None) -> int:
    """How many groups of warps run a main loop of their own."""
    if loop is None or all(x.root != "USETMAXREG" for x in code.instructions):
        return 1
    count = tensor_count(code.instructions[loop[0] : loop[1] + 1])
    return sum(tensor_count(code.instructions[a : b + 1]) == count for a, b in code.loops)


def of_other_groups(code: Code, loop: tuple[int, int] | None) -> set[int]:
    """The instructions of other specialised groups of warps that do the same as this main loop's, with other rows."""
    if loop is None or specialised(code, loop) == 1:
        return set()
    count = tensor_count(code.instructions[loop[0] : loop[1] + 1])
    edges = [0, *(i for i, x in enumerate(code.instructions) if x.root == "USETMAXREG"), len(code.instructions)]
    parts = [range(a, b) for a, b in itertools.pairwise(edges)]
    loops = [a for a, b in code.loops if a != loop[0] and tensor_count(code.instructions[a : b + 1]) == count]
    return {i for part in parts if any(first in part for first in loops) for i in part}


def weighted(
    code: Code, loop: tuple[int, int] | None, trips: int, inner: int = 1, copying: int | None = None
) -> Counter[Instruction]:
    """How often each instruction runs in one program, in each of several groups of warps that do the same.

    Args:
        trips: iterations of ``loop``.
        inner: iterations of a loop with tensor-core instructions inside of it.
        copying: iterations in which asynchronous copies run, as :func:`iterations_that_copy` has them; None for all.
    """
    ends = [i for i, x in enumerate(code.instructions) if x.root == "EXIT"]
    counts: Counter[Instruction] = Counter()
    nested = [(a, b) for a, b in code.loops if loop and loop[0] <= a and b < loop[1]]
    nested = [(a, b) for a, b in nested if tensor_count(code.instructions[a : b + 1])]
    others = of_other_groups(code, loop)
    for i, instruction in enumerate(code.instructions[: ends[-1] + 1 if ends else None]):
        if i in others:
            continue
        times = 1
        if loop and loop[0] <= i <= loop[1]:
            times = copying if copying is not None and instruction.root == "LDGSTS" else trips
        counts[instruction] += times * (inner if any(a <= i <= b for a, b in nested) else 1)
    return counts


def iterations_that_copy(code: Code, loop: tuple[int, int] | None, blocks: int) -> int:
    """Iterations of a loop in which its asynchronous copies are not masked.

    Some of all ``blocks`` are copied before the loop, and the last iterations would copy as many from behind the end.
    It matters where the iterations are few. Triton may run one before the loop, which is not among them.
    """
    if loop is None:
        return blocks
    parts = code.instructions[: loop[0]], code.instructions[loop[0] : loop[1] + 1]
    before, inside = (sum(x.root == "LDGSTS" for x in part) for part in parts)
    return max(0, blocks - before // max(1, inside))


def by_kind(counts: Counter[Instruction]) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for instruction, times in counts.items():
        kinds[instruction.kind] += times
    return kinds


def iterations_ahead(body: Sequence[Instruction]) -> float | None:
    """How early the loads of a loop are issued: iterations' worth of tensor-core work between a load and its wait.

    The least of all groups of asynchronous copies, once the loop is under way; 0 for loads into registers, which the
    same iteration uses, and None if the loop loads nothing (other warps may).
    """
    if not any(x.root == "LDGSTS" for x in body):  # or it is no loop
        return 0.0 if any(x.root == "LDG" for x in body) else None
    work, least = 0, float("inf")
    pending: list[int] = []
    for turn in range(8):
        for x in body:
            if x.kind in TENSOR:
                work += 1
            elif x.root == "LDGDEPBAR":
                pending.append(work)
            elif x.root == "DEPBAR" and (left := re.match(r"SB\d, (0x[0-9a-f]+)", x.operands)):
                kept = int(left[1], 16)
                done = pending[: max(0, len(pending) - kept)]
                pending = pending[len(done) :]
                if turn >= 4:
                    least = min([least, *(work - issued for issued in done)])
    return least / max(1, tensor_count(body))


def wgmma_groups(body: Sequence[Instruction]) -> int:
    """Groups of wgmma that are waited for together: one for each product, or more where the assembler adds waits."""
    return sum(x.kind == "wgmma" and "gsb0" in x.operands for x in body)


def exchanged(body: Sequence[Instruction]) -> int:
    """Bytes that a warp writes to shared memory in the loop beyond what it has loaded into registers for that."""
    written = sum(x.bytes for x in body if x.root in ("STS", "STSM"))
    loaded = sum(x.bytes for x in body if x.root == "LDG")
    return max(0, written - loaded)
