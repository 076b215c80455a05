"""Memories and pointers chosen by custom rules: J&F on the same clips, of the same model.

    python examples/memory_selection.py            # other rules beside the model's own
    python examples/memory_selection.py --ablate   # fewer spatial memories, fewer object pointers

Slots are spatial memories: 1 is the conditioning frame alone, each further one a frame more before the current one, up
to the 7 that the model was trained with. Pointers are the conditioning frame's and then the nearest, 0 to 16.
"""

import time
from collections.abc import Mapping
from typing import Any

from shared import arguments, finish, nano, synthetic_clips, variants

from sam2fast.research import MemoryRules, MemorySelection, Selection, reaching, select_memories

SLOTS, POINTERS = (1, 2, 3, 4, 5, 6, 7), (0, 1, 2, 4, 8, 16)
FAR = 30  # frames that the long rules look back


def fewer(slots: int, pointers: int) -> MemorySelection:
    """The model's own choice, cut to the nearest."""

    def select(frame: int, conditioning: Any, *rest: Any) -> Selection:
        chosen = select_memories(frame, conditioning, *rest)
        prompted = [(t, row) for t, row in chosen.memories if t in conditioning]
        recent = [(t, row) for t, row in chosen.memories if t not in conditioning]  # the oldest first
        return Selection(prompted + recent[len(recent) - min(len(recent), slots - 1) :], chosen.pointers[:pointers])

    return select


def with_memories_of(
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
    return with_memories_of(chosen, frame, conditioning, (tracked, *others), rules)


@reaching(FAR)
def most_certain(frame: int, conditioning: Any, tracked: Mapping[int, Any], *rest: Any) -> Selection:
    """The neighbour, and of the last thirty frames the five with the highest predicted IoU."""
    *others, rules = rest
    near = [t for t in tracked if 1 < frame - t <= FAR]
    best = sorted(near, key=lambda t: float(tracked[t].iou), reverse=True)[: rules.num_maskmem - 2]
    chosen = [t for t in (frame - 1,) if t in tracked] + best
    return with_memories_of(chosen, frame, conditioning, (tracked, *others), rules)


def present_only(frame: int, conditioning: Any, tracked: Mapping[int, Any], *rest: Any) -> Selection:
    """The model's rule, without the frames on which the object was not seen."""
    seen = {t: result for t, result in tracked.items() if float(result.score) > 0}
    return select_memories(frame, conditioning, seen, *rest)


def main() -> None:
    parser = arguments(__doc__, clips=8, frames=24)
    parser.add_argument("--ablate", action="store_true", help="fewer memories and pointers, instead of other rules")
    args, start = parser.parse_args(), time.perf_counter()
    rules: dict[str, MemorySelection | None] = {
        "the model's": None,
        "every second": every_second,
        "most certain": most_certain,
        "present only": present_only,
    }
    if args.ablate:
        asked = [*((slots, POINTERS[-1]) for slots in SLOTS), *((SLOTS[-1], p) for p in POINTERS[:-1]), (1, 0)]
        rules = {f"{slots} slots, {pointers} pointers": fewer(slots, pointers) for slots, pointers in asked}
    chosen = {name: {"memory_selection": rule} for name, rule in rules.items()}
    found = variants(nano(args.device), synthetic_clips(args), chosen)
    finish(args, start, [{"selection": name, **measure} for name, measure in found])


if __name__ == "__main__":
    main()
