"""Chooses the places where calls are disturbed: a few fixed ones, or as many as ``make inject`` asks for."""

import os
import random

SEED = int(os.environ.get("SAM2FAST_INJECT_SEED", "0"))
# Of each call and kind of failure: a number, or ``all``; empty for the few of a usual run.
POINTS = os.environ.get("SAM2FAST_INJECT_POINTS", "")


def some(rng: random.Random, count: int, most: int) -> list[int]:
    """``count`` random numbers below ``most``, or all of them."""
    return sorted(rng.sample(range(most), min(count, most)))


def some_asked(few: int, most: int, of: str = "") -> list[int]:
    """Random numbers below ``most``: ``few`` of them or as many as requested; they depend on the name ``of``."""
    return some(random.Random(f"{SEED} {of}"), most if POINTS == "all" else int(POINTS or few), most)
