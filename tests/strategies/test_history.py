"""Tests the earlier frames that a history yields."""

import random

from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.tracking.strategies import Dam4Sam, History
from sam2fast.tracking.strategies.base import NEAR

RULES = MemoryRules(7, 1, -1, True, 16, True, True)


class Absent:
    """Result of a frame without the object."""

    iou, score = 0.5, -5.0

    @property
    def record(self):
        return self

    def __getitem__(self, index):
        return self

    def tolist(self):
        return [0.0, 0.0, 0.0]

    def __ge__(self, other):
        return False


class Counted(dict):
    """Dict that counts lookups."""

    asked = 0

    def __contains__(self, key):
        self.asked += 1
        return super().__contains__(key)

    def get(self, key, default=None):
        self.asked += 1
        return super().get(key, default)


def test_past_has_the_nearest_frames_and_then_those_with_results():
    for seed in range(40):
        rng = random.Random(seed)
        length, reverse, step = rng.choice([50, 100, 1000]), bool(seed % 2), rng.choice([1, 1, 3])
        frame = rng.randrange(length)
        known = rng.sample(range(length), rng.choice([0, 5, 30, length // 2, length]))
        few = rng.randrange(len(known) + 1)
        history = History(frame, reverse, length, dict.fromkeys(known[:few]), dict.fromkeys(known[few:]), RULES, {})
        beyond = range(frame + 1, length, step) if reverse else range(frame - 1, -1, -step)
        expected = [t for rank, t in enumerate(beyond) if rank < NEAR or t in known]
        assert list(history.past(step)) == expected, seed


def test_a_long_absence_costs_no_more_than_a_short_one():
    """Tests a stream, since a stream keeps only few frames."""
    asked = []
    for frame in (500, 500_000):
        kept = Counted({t: Absent() for t in range(frame - 16, frame)})
        history = History(frame, False, frame + 1, {0: Absent()}, kept, RULES, {})
        strategy = Dam4Sam()
        strategy.attend(history)
        assert set(strategy.keep(history)) <= set(kept)
        asked.append(kept.asked)
    assert asked[0] == asked[1] < 1000
