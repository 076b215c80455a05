"""Memories and pointers chosen by strategies of one's own: J&F on the same clips, of the same model.

    python examples/memory_selection.py            # other rules beside the model's own
    python examples/memory_selection.py --ablate   # fewer spatial memories, fewer object pointers

Slots are spatial memories: 1 is the conditioning frame alone, each further one a frame more before the current one, up
to the 7 that the model was trained with. Pointers are the conditioning frame's and then the nearest, 0 to 16.
"""

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from shared import arguments, finish, nano, synthetic_clips, variants

from sam2fast.tracking.strategies import Attended, History, Sam2, Strategy

SLOTS, POINTERS = (1, 2, 3, 4, 5, 6, 7), (0, 1, 2, 4, 8, 16)
FAR = 30  # frames that the most certain ones are taken from


@dataclass(frozen=True)
class Fewer(Strategy):
    """The model's own choice, cut to the nearest."""

    slots: int
    pointers: int

    def attend(self, history: History) -> Attended:
        usual = super().attend(history)
        prompted = [(t, row) for t, row in usual.memories if t in history.conditioning]
        recent = [(t, row) for t, row in usual.memories if t not in history.conditioning]  # the oldest first
        near = recent[len(recent) - min(len(recent), self.slots - 1) :]
        return Attended(prompted + near, usual.pointers[: self.pointers])


class Chosen(Strategy):
    """Memories of the frames that ``choose_frames`` names, the nearest with the encoding of the nearest."""

    def attend(self, history: History) -> Attended:
        memories = [(t, history.rules.num_maskmem - 1) for t in history.conditioning]
        nearest_first = sorted(self.choose_frames(history), key=lambda t: abs(history.distance(t)))
        memories += [(t, row) for row, t in enumerate(nearest_first)]
        return Attended(memories, super().attend(history).pointers)

    def choose_frames(self, history: History) -> Iterable[int]:
        """At most ``rules.recent`` tracked frames."""
        raise NotImplementedError


class EverySecond(Chosen):
    """The neighbour, and then every second frame, so that six memories span eleven frames."""

    def choose_frames(self, history: History) -> Iterable[int]:
        span = 2 * history.rules.recent
        return [t for t in history.tracked if 0 < history.distance(t) < span and history.distance(t) % 2]


class MostCertain(Chosen):
    """The neighbour, and of the last thirty frames the five with the highest predicted IoU."""

    def choose_frames(self, history: History) -> Iterable[int]:
        tracked = history.tracked
        near = [t for t in tracked if 1 < history.distance(t) <= FAR]
        best = sorted(near, key=lambda t: float(tracked[t].iou), reverse=True)[: history.rules.recent - 1]
        return [t for t in (history.neighbour,) if t in tracked] + best

    def keep(self, history: History) -> Collection[int]:
        return [t for t in history.tracked if history.distance(t) < FAR]


class PresentOnly(Strategy):
    """The model's rule, without the frames on which the object was not seen."""

    def attend(self, history: History) -> Attended:
        seen = {t: result for t, result in history.tracked.items() if float(result.score) > 0}
        return super().attend(history._replace(tracked=seen))


def main() -> None:
    parser = arguments(__doc__, clips=8, frames=24)
    parser.add_argument("--ablate", action="store_true", help="fewer memories and pointers, instead of other rules")
    args, start = parser.parse_args(), time.perf_counter()
    strategies: dict[str, Strategy] = {
        "the model's": Sam2(),
        "every second": EverySecond(),
        "most certain": MostCertain(),
        "present only": PresentOnly(),
    }
    if args.ablate:
        asked = [*((slots, POINTERS[-1]) for slots in SLOTS), *((SLOTS[-1], p) for p in POINTERS[:-1]), (1, 0)]
        strategies = {f"{slots} slots, {pointers} pointers": Fewer(slots, pointers) for slots, pointers in asked}
    found = variants(nano(args.device), synthetic_clips(args), strategies)
    finish(args, start, [{"selection": name, **measure} for name, measure in found])


if __name__ == "__main__":
    main()
