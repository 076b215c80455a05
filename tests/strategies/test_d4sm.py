"""d4sm against recordings of the published code, and against its plain implementation."""

import numpy as np
import pytest
import torch
from plain_distractors import PlainD4sm
from plain_tracker import run
from strategy_histories import random_history
from strategy_recordings import EVERY, FRAMES, HEIGHT, RECIPES, WIDTH, Recording

from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.tracking.strategies import D4sm, History, MaskCandidates
from sam2fast.utils.testing import relative_error

VIDEO = 45, 60
RULES = MemoryRules(7, 1, -1, True, 16, True, True)


class Result:
    """What the strategy reads of an earlier frame."""

    def __init__(self, record):
        self.record = record[None]


def as_positions(attended):
    return sorted(attended.memories), sorted((t, d / attended.span) for t, d in attended.pointers)


def test_recorded_choices_memories_and_logits_of_two_objects(predictor, track):
    recipe, recording = RECIPES["d4sm"], Recording.load("d4sm")
    recipe.weights(predictor)
    found = track("d4sm", [recipe.prompt_of(obj) for obj in (0, 1)], FRAMES)
    added = 0
    for t in range(1, FRAMES):
        for obj in (0, 1):
            expected, attended = recording.attended(t, obj), found.attended[t, obj]
            assert sorted(attended.memories) == expected.memories, (t, obj)
            span = max(1, sum(f != 0 for f, _ in attended.pointers))
            pointers = sorted((f, d / span) for f, d in attended.pointers)
            assert [f for f, _ in pointers] == [f for f, _ in expected.pointers], (t, obj)
            np.testing.assert_allclose([d for _, d in pointers], [d for _, d in expected.pointers], rtol=1e-6)
            result = found.results[obj][t]
            chosen = recording.ious[t, obj, recording.chosen[t, obj]]
            assert float(result.iou) == pytest.approx(chosen, rel=1e-4), (t, obj)
            assert bool(result.record[0, -1]) == bool(recording.state[t, obj, 0]), (t, obj)
            added += bool(result.record[0, -1])
            if t % EVERY == 0:
                logits = torch.from_numpy(recording.logits[t // EVERY, obj])
                assert relative_error(logits, found.logits[t][obj, 0]) <= 1e-4, (t, obj)
    assert added > 2


@pytest.mark.parametrize("fast", [False, True])
def test_plain_implementation_on_a_clip(fast, predictor, official, frames, track):
    recipe, count = RECIPES["d4sm"], 24
    recipe.weights(predictor)
    recipe.weights(official)
    plain = run(official, frames, PlainD4sm((HEIGHT, WIDTH)), count, **recipe.prompt_of(1))
    found = track("d4sm", [recipe.prompt_of(1)], count, fast)
    for t in range(1, count):
        assert sorted(found.attended[t, 0].memories) == sorted(plain.attended[t - 1].memories), t
        assert relative_error(plain.masks[t], found.logits[t][0, 0]) <= 1e-4, t


def test_plain_decisions_and_memories_on_random_histories():
    """Of many objects at once, with no more than what a stream keeps."""
    count, frames, strategy = 40, 90, D4sm()
    histories = [random_history(seed, frames) for seed in range(count)]
    plain = [PlainD4sm(VIDEO) for _ in histories]
    state = torch.zeros(count, strategy.state_size, dtype=torch.float64)
    kept = [{} for _ in histories]
    prompted = {0: Result(torch.zeros(strategy.record_size))}
    added = 0
    for t in range(frames):
        for i, one in enumerate(plain):
            expected = one.attend(t + 1)
            found = strategy.attend(History(t + 1, False, frames + 1, prompted, kept[i], RULES, {}))
            assert as_positions(found) == (sorted(expected.memories), sorted(expected.pointers)), (i, t)
        decoded = [history[t].present(0.0) for history in histories]
        masks, ious = (torch.from_numpy(np.stack([getattr(d, name) for d in decoded])) for name in ("masks", "ious"))
        scores = torch.tensor([[d.score] for d in decoded])
        made = strategy.choose(MaskCandidates(masks, ious, scores, False, False, 64, VIDEO), state)
        state = made.state
        for i, one in enumerate(plain):
            candidate, is_added = one.track(t + 1, histories[i][t])
            assert (int(made.candidate[i]), bool(made.record[i, -1])) == (candidate, is_added), (i, t)
            kept[i][t + 1] = Result(made.record[i].float())
            unread = {**kept[i], t + 1: None}
            needed = strategy.keep(History(t + 1, False, frames + 1, prompted, unread, RULES, {}))
            kept[i] = {k: v for k, v in kept[i].items() if k in needed or k == t + 1}
            assert len(kept[i]) <= 15 + 1 + 15 + 7
            added += is_added
    assert added > 20
