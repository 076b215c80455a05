"""What spatial memories and object pointers are worth: J&F with fewer of either.

    python bench/research/memory_ablation.py

Slots are spatial memories: 1 is the conditioning frame alone, each further one a frame more before the current one, up
to the 7 that the model was trained with. Pointers are the conditioning frame's and then the nearest, 0 to 16. The model
is the same throughout; only the choice of memories is.
"""

import time
from typing import Any

from research_run import arguments, factory_clips, finish, nano, table, variants

from sam2fast.research import MemorySelection, Selection, select_memories

SLOTS, POINTERS = (1, 2, 3, 4, 5, 6, 7), (0, 1, 2, 4, 8, 16)
ALL = SLOTS[-1], POINTERS[-1]


def fewer(slots: int, pointers: int) -> MemorySelection:
    """The model's own choice, cut to the nearest."""

    def select(frame: int, conditioning: Any, *rest: Any) -> Selection:
        chosen = select_memories(frame, conditioning, *rest)
        prompted = [(t, row) for t, row in chosen.memories if t in conditioning]
        recent = [(t, row) for t, row in chosen.memories if t not in conditioning]  # the oldest first
        return Selection(prompted + recent[len(recent) - min(len(recent), slots - 1) :], chosen.pointers[:pointers])

    return select


def main() -> None:
    args = arguments(__doc__, clips=6, frames=24).parse_args()
    start = time.perf_counter()
    asked = [*((slots, ALL[1]) for slots in SLOTS), *((ALL[0], p) for p in POINTERS[:-1]), (1, 0)]
    ways = {
        f"{slots} slots, {pointers} pointers": {"memory_selection": fewer(slots, pointers)} for slots, pointers in asked
    }
    results = variants(nano(args.device), factory_clips(args), ways)
    rows = [{"slots": s, "pointers": p, **measure} for (s, p), (_, measure) in zip(asked, results, strict=True)]
    print(table(("slots", "pointers", "J&F", "J", "F"), [list(row.values()) for row in rows]))
    finish("memory-ablation", args, start, rows)


if __name__ == "__main__":
    main()
