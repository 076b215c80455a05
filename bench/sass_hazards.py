"""Finds three errors in machine code: of registers, of uniform registers, and of signals that free a tile.

The assembler of CUDA 12.8 computes some descriptors of tiles with rows of 32 or 64 bytes from a uniform register that
it never sets. The product then reads arbitrary shared memory. Results are wrong, or the access is illegal (seen on an
H100). The check does not find a register that an earlier instruction set to another value.

A wgmma with its left side in registers reads them while later instructions run. The assembler of CUDA 12 may reuse them
too early (triton-lang/triton#11781, fixed in CUDA 13.3), and then results are wrong now and then. The check reads from
the text which registers an instruction writes. If the text leaves this open, it assumes the larger range. A finding may
therefore be no hazard, but no hazard is missed for this reason.

In kernels with specialised warps one thread signals that its group has read a tile, which is then overwritten. The
other warps of the group may still wait for their part of the product, unless all meet at a barrier in between. The
check goes by the order of the text.
"""

import re
from collections.abc import Iterator

from sass_code import Code, Instruction

State = dict[int, int]  # registers still read, each with the number of groups committed since, its own included
# Instructions that only read their first register.
_NO_RESULT = re.compile(r"\w+SETP2?$|U?R2U?P$|BAR|BRX|JMX|RET|CALL|NANOSLEEP|WARPSYNC")
_REGISTER = re.compile(r"(?:!?U?P[\dRT]\w*, )*R(\d+)\b")
_LEFT = re.compile(r"R\d+, R(\d+)(?:\.\w+)?, gdesc")
_UNIFORM_RESULT = re.compile(r"(?:!?U?P[\dRT]\w*, )*UR(\d+)(?:,|$)")
_UNIFORM = re.compile(r"(?<!\w)(gdesc\[|desc\[)?UR(\d+)(\.64)?")
_FREES = re.compile(r"SYNCS\.ARRIVE\.\w+\.A[1R]T0")
LEFT_REGISTERS = 4  # 64 rows of 32 bytes, by 128 threads of 4 bytes a register


def hazards(code: Code) -> list[str]:
    """Returns a sentence for each instruction that overwrites a register too early or reads an unset one."""
    return (
        [f"a register that a wgmma still reads is overwritten by {x}" for x in overwritten(code)]
        + [f"a uniform register that is not set is read by {x}" for x in unset(code)]
        + [f"a tile that other warps may still read is freed by {x}" for x in freed(code)]
    )


def overwritten(code: Code) -> list[str]:
    """Returns the instructions that, on any path, write a register that a wgmma may still read."""
    entering: dict[int, State] = {0: {}}
    work, found = [0], set()
    while work:
        at = work.pop()
        x, state = code.instructions[at], dict(entering[at])
        reading = left_registers(x)
        state |= dict.fromkeys(reading, 0)
        if set(written(x)) & set(state) or (x.root == "CALL" and state):
            found.add(at)
        state = after(x, state)
        for following in _followers(code, at):
            known = entering.get(following)
            merged = _merged(known or {}, state)
            if merged != known:
                entering[following] = merged
                work.append(following)
    return [f"{code.instructions[i].name} {code.instructions[i].operands} (instruction {i})" for i in sorted(found)]


def freed(code: Code) -> list[str]:
    """Returns the signals without bytes that follow a wait for products without a barrier of all warps in between."""
    met, found = True, []
    for i, x in enumerate(code.instructions):
        if x.root == "BAR":
            met = True
        elif x.name.startswith("WARPGROUP.DEPBAR"):
            met = False
        elif not met and _FREES.match(x.name):
            found.append(f"{x.name} {x.operands} (instruction {i})")
    return found


def unset(code: Code) -> list[str]:
    """Returns the instructions that read a uniform register that no earlier instruction in the text writes."""
    known: set[int] = set()
    found = []
    for i, x in enumerate(code.instructions):
        result = None if _NO_RESULT.match(x.root) else _UNIFORM_RESULT.match(x.operands)
        reads = {r for read in _UNIFORM.finditer(x.operands, result.end() if result else 0) for r in _read(x, read)}
        if reads - known:
            found.append(f"{x.name} {x.operands} (instruction {i})")
        if result:
            known |= set(range(int(result[1]), int(result[1]) + _uniform_width(x)))
    return found


def _read(x: Instruction, read: re.Match[str]) -> range:
    """Returns the uniform registers of one operand."""
    first = int(read[2])
    if read[1] == "gdesc[" and x.kind == "wgmma":  # one operand for the descriptors of both sides, two registers each
        return range(first + (2 if left_registers(x) else 0), first + 4)
    if tile := re.match(r"UTMALDG\.(\d)D", x.name):  # [address, barrier and coordinates], [address of the descriptor]
        return range(first, first + (2 + int(tile[1]) if read.start() == 1 else 2))
    return range(first, first + (2 if read[1] or read[3] or (".64" in x.name and x.root.startswith("U")) else 1))


def _uniform_width(x: Instruction) -> int:
    return 2 if re.search(r"\.([FSU]?64|WIDE)\b", x.name) else 4 if ".128" in x.name else 1


def left_registers(x: Instruction) -> range:
    """Returns the registers of a wgmma's left side."""
    left = _LEFT.match(x.operands) if x.kind == "wgmma" else None
    return range(int(left[1]), int(left[1]) + LEFT_REGISTERS) if left else range(0)


def written(x: Instruction) -> range:
    """Returns the registers that an instruction writes."""
    result = None if x.predicate == "!PT" or _NO_RESULT.match(x.root) else _REGISTER.match(x.operands)
    return range(int(result[1]), int(result[1]) + _width(x)) if result else range(0)


def _width(x: Instruction) -> int:
    if x.kind == "wgmma":  # 64 x N numbers of 128 threads, which may be of 16 bits
        columns = re.search(r"\.64x(\d+)x", x.name)
        assert columns, x.name
        return int(columns[1]) // (4 if x.root == "HGMMA" and ".F32" not in x.name else 2)
    if x.kind == "mma" or ".128" in x.name or x.name.endswith("M88.4"):
        return 4
    is_double = x.root in ("DADD", "DMUL", "DFMA", "DMMA", "LEPC") or (x.root == "CS2R" and ".32" not in x.name)
    return 2 if is_double or re.search(r"\.([FSU]?64|WIDE|2)\b", x.name) else 1


def after(x: Instruction, state: State) -> State:
    """Returns the state after an instruction: a commit counts, and a wait for all groups but N removes older ones."""
    if x.kind == "wgmma" and "gsb0" in x.operands:
        return {register: groups + 1 for register, groups in state.items()}
    wait = re.match(r"gsb0, (0x[0-9a-f]+)", x.operands) if x.name.startswith("WARPGROUP.DEPBAR") else None
    return {r: groups for r, groups in state.items() if groups <= int(wait[1], 16)} if wait else state


def _followers(code: Code, at: int) -> Iterator[int]:
    x = code.instructions[at]
    ends = x.root in ("EXIT", "RET", "BRA", "JMP") and not x.predicate and not re.match(r"!?U?P", x.operands)
    if not ends and at + 1 < len(code.instructions):
        yield at + 1
    if at in code.jumps and x.root != "BSSY":  # the label of BSSY is where threads meet again
        yield code.jumps[at]


def _merged(one: State, other: State) -> State:
    return {r: min(one.get(r, 99), other.get(r, 99)) for r in one.keys() | other.keys()}
