"""Registers that a wgmma multiplies from and that the code overwrites before the wgmma is waited for.

A wgmma whose left side is in registers reads them while later instructions run. The assembler of CUDA 12 may reuse them
too early (triton-lang/triton#11781; CUDA 13.3 fixes it), and then results are wrong now and then. Which instruction
writes which registers is read from the text. Where that is open the larger range is assumed, so a finding may be no
hazard, but no hazard is missed for that.
"""

import re
from collections.abc import Iterator

from sass_code import Code, Instruction

State = dict[int, int]  # by register that is still read: the groups that were committed since, its own included
# Their first register is one that they read.
_NO_RESULT = re.compile(r"\w+SETP2?$|R2P$|BAR|BRX|JMX|RET|CALL|NANOSLEEP|WARPSYNC")
_REGISTER = re.compile(r"(?:!?U?P[\dRT]\w*, )*R(\d+)\b")
_LEFT = re.compile(r"R\d+, R(\d+)(?:\.\w+)?, gdesc")
LEFT_REGISTERS = 4  # 64 rows of 32 bytes, by 128 threads of 4 bytes a register


def overwritten(code: Code) -> list[str]:
    """What writes a register that a wgmma may still read, on any path, each instruction once."""
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


def left_registers(x: Instruction) -> range:
    """The registers of a wgmma's left side."""
    left = _LEFT.match(x.operands) if x.kind == "wgmma" else None
    return range(int(left[1]), int(left[1]) + LEFT_REGISTERS) if left else range(0)


def written(x: Instruction) -> range:
    """The registers that an instruction writes."""
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
    """What is still read after an instruction: commits count, and a wait for all groups but N ends older ones."""
    if x.kind == "wgmma" and "gsb0" in x.operands:
        return {register: groups + 1 for register, groups in state.items()}
    wait = re.match(r"gsb0, (0x[0-9a-f]+)", x.operands) if x.name.startswith("WARPGROUP.DEPBAR") else None
    return {r: groups for r, groups in state.items() if groups <= int(wait[1], 16)} if wait else state


def _followers(code: Code, at: int) -> Iterator[int]:
    x = code.instructions[at]
    ends = x.root in ("EXIT", "RET", "BRA", "JMP") and not x.predicate and not re.match(r"!?U?P", x.operands)
    if not ends and at + 1 < len(code.instructions):
        yield at + 1
    if at in code.jumps and x.root != "BSSY":  # which says where threads meet: behind the BSYNC before that label
        yield code.jumps[at]


def _merged(one: State, other: State) -> State:
    return {r: min(one.get(r, 99), other.get(r, 99)) for r in one.keys() | other.keys()}
