"""The confident rule against its plain implementation: on random histories, and whole clips."""

import numpy as np
import pytest
import torch
from plain_strategies import Decoded, PlainConfident
from plain_tracker import run
from strategy_histories import random_batch
from strategy_recordings import RECIPES

from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.tracking.strategies import Confident, History
from sam2fast.tracking.strategies.confident import confidence
from sam2fast.utils.testing import relative_error


class Result:
    """What a strategy reads of an earlier frame."""

    def __init__(self, iou, score):
        self.iou, self.score = torch.tensor([[iou]]), torch.tensor([[score]])


def rules_of(stride=1, pointers=16):
    return MemoryRules(7, stride, -1, True, pointers, True, True)


def as_positions(attended, longest):
    return sorted(attended.memories), sorted((t, d / longest) for t, d in attended.pointers)


@pytest.mark.parametrize("seed", range(12))
def test_plain_selection_on_random_histories(seed):
    """Forward, backward, with prompts on the way, and from what a stream keeps."""
    rng = np.random.default_rng(seed)
    num_frames, stride = int(rng.choice([8, 40, 60])), int(rng.choice([1, 1, 2, 3]))
    strategy, rules = Confident(), rules_of(stride)
    longest = min(num_frames, 16) - 1
    plain = PlainConfident(num_frames, stride=stride)
    start = seed % 3  # earlier frames were tracked backwards
    prompted = set(rng.choice(num_frames, 1 + seed % 6, replace=False).tolist()) - {0, 1} | {start}
    conditioning, tracked, kept = {start: Result(1.0, 10.0)}, {}, {}
    plain.prompt(start)
    for t in range(start):
        plain.track(t, Decoded(np.zeros((3, 4, 4)), np.full(3, 0.9, np.float32), 5.0))
        tracked[t] = kept[t] = Result(0.9, 5.0)
    for t, decoded in enumerate(random_batch(seed, 1, num_frames - 1 - start).history(0), start + 1):
        if t in prompted:
            conditioning[t] = Result(1.0, 10.0)
            plain.prompt(t)
            continue
        expected = plain.attend(t)
        for remembered in (tracked, kept):
            found = strategy.attend(History(t, False, num_frames, conditioning, remembered, rules, {}))
            assert as_positions(found, longest) == (sorted(expected.memories), sorted(expected.pointers)), t
        plain.track(t, decoded)
        result = Result(float(max(decoded.ious)), decoded.score)
        assert confidence(result) == pytest.approx(plain.confidence[t], rel=1e-6)
        tracked[t] = kept[t] = result
        unread = {**kept, t: None}
        frames = strategy.keep(History(t, False, num_frames, conditioning, unread, rules, {}))
        kept = {i: one for i, one in kept.items() if i in frames or i == t}
        assert len(kept) <= 16 * stride + rules.reach + 1
    for t in range(num_frames - 1, 0, -1):
        if t not in prompted:
            found = strategy.attend(
                History(t, True, num_frames, conditioning, tracked, rules, dict.fromkeys(tracked, True))
            )
            expected = plain.attend(t, reverse=True)
            assert as_positions(found, longest) == (sorted(expected.memories), sorted(expected.pointers)), t


@pytest.mark.parametrize("fast", [False, True])
def test_plain_implementation_on_a_clip(fast, predictor, official, frames, track):
    recipe, count, total = RECIPES["samurai_click"], 24, 40
    recipe.weights(predictor)
    recipe.weights(official)
    prompt = {"mask": RECIPES["d4sm"].prompt_of(0)["mask"]}
    plain = run(official, frames, PlainConfident(total), count, **prompt)
    found = track("confident", [prompt], count, fast)
    for t in range(1, count):
        assert sorted(found.attended[t, 0].memories) == sorted(plain.attended[t - 1].memories), t
        assert relative_error(plain.masks[t], found.logits[t][0, 0]) <= 1e-4, t


def test_the_last_frame_is_waited_for_only_if_a_pointer_depends_on_it():
    class Unread(Result):
        def __init__(self):
            pass

        @property
        def score(self):
            raise AssertionError("the last frame's score was asked for")

    results = {t: Result(0.9, 5.0) for t in range(1, 40)}
    for t in (2, 8, 15):
        history = {**{i: results[i] for i in range(1, t - 1)}, t - 1: Unread()}
        Confident().attend(History(t, False, 60, {0: Result(1.0, 10.0)}, history, rules_of(), {}))
    with pytest.raises(AssertionError, match="was asked for"):
        history = {**{i: results[i] for i in range(1, 18)}, 18: Unread()}
        Confident().attend(History(19, False, 60, {0: Result(1.0, 10.0)}, history, rules_of(), {}))
