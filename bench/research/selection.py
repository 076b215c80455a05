"""Memories chosen by rules of one's own, beside the model's: J&F on the same clips.

python bench/research/selection.py
"""

import time
from collections.abc import Mapping
from typing import Any

from research_run import arguments, factory_clips, finish, nano, table, variants

from sam2fast.research import MemoryRules, Selection, reaching, select_memories

FAR = 30  # frames that the long rules look back


def with_pointers_of(
    chosen: list[int], frame: int, conditioning: Any, rest: tuple[Any, ...], rules: MemoryRules
) -> Selection:
    """Memories of these frames, the nearest getting the encoding of the nearest; pointers as the model has them."""
    usual = select_memories(frame, conditioning, *rest, rules)
    memories = [(t, rules.num_maskmem - 1) for t in conditioning]
    memories += [(t, row) for row, t in enumerate(sorted(chosen, key=lambda t: abs(frame - t)))]
    return Selection(memories, usual.pointers)


@reaching(FAR)
def every_second(frame: int, conditioning: Any, tracked: Any, *rest: Any) -> Selection:
    """The neighbour, and then every second frame, so that six memories span eleven frames."""
    *others, rules = rest
    chosen = [t for t in range(frame - 1, frame - 2 * rules.num_maskmem + 2, -2) if t in tracked]
    return with_pointers_of(chosen, frame, conditioning, (tracked, *others), rules)


@reaching(FAR)
def most_certain(frame: int, conditioning: Any, tracked: Mapping[int, Any], *rest: Any) -> Selection:
    """The neighbour, and of the last thirty frames the five with the highest predicted IoU."""
    *others, rules = rest
    near = [t for t in tracked if 1 < frame - t <= FAR]
    best = sorted(near, key=lambda t: float(tracked[t].iou), reverse=True)[: rules.num_maskmem - 2]
    chosen = [t for t in (frame - 1,) if t in tracked] + best
    return with_pointers_of(chosen, frame, conditioning, (tracked, *others), rules)


def present_only(frame: int, conditioning: Any, tracked: Mapping[int, Any], *rest: Any) -> Selection:
    """The model's rule, without the frames on which the object was not seen."""
    seen = {t: result for t, result in tracked.items() if float(result.score) > 0}
    return select_memories(frame, conditioning, seen, *rest)


def main() -> None:
    args = arguments(__doc__, clips=8, frames=24).parse_args()
    start = time.perf_counter()
    rules = {
        "the model's": None,
        "every second": every_second,
        "most certain": most_certain,
        "present only": present_only,
    }
    ways = {name: {"memory_selection": rule} for name, rule in rules.items()}
    rows = [{"selection": name, **m} for name, m in variants(nano(args.device), factory_clips(args), ways)]
    print(table(("selection", "J&F", "J", "F"), [list(row.values()) for row in rows]))
    finish("selection", args, start, rows)


if __name__ == "__main__":
    main()
