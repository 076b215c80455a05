"""At which of many places something is disturbed: few, the same each time, or as many as ``make inject`` asks."""

import os
import random

SEED = int(os.environ.get("SAM2FAST_INJECT_SEED", "0"))
# Of each call and kind of failure: a number, or ``all``; empty for the few of a usual run.
POINTS = os.environ.get("SAM2FAST_INJECT_POINTS", "")


def some(rng: random.Random, count: int, most: int) -> list[int]:
    """So many of the numbers below ``most``, all of them if there are no more."""
    return sorted(rng.sample(range(most), min(count, most)))


def some_asked(few: int, most: int, of: str = "") -> list[int]:
    """As many as are asked for of the numbers below ``most``, ``few`` if nobody asks; others for another name."""
    return some(random.Random(f"{SEED} {of}"), most if POINTS == "all" else int(POINTS or few), most)
