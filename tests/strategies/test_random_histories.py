"""Strategies against their plain implementations on thousands of random histories: choices, states and memories.

Each history is a row of a batch. Prompts are on different frames, some of them in the middle.
"""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from plain_distractors import PlainD4sm, PlainDam4sam
from plain_strategies import ABSENT, PlainConfident, PlainSam2Long, PlainSamurai
from strategy_histories import Batch, random_batch

from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.tracking.strategies import Confident, D4sm, Dam4Sam, History, MaskCandidates, Sam2Long, Samurai
from sam2fast.tracking.strategies.confident import confidence

SIDE, VIDEO, FRAMES = 8, (10, 12), 24
RULES = MemoryRules(7, 1, -1, True, 16, True, True)
NO_RECORD = torch.zeros(1, 100)
# What is attended to is compared on every fourth frame of a history, another one in each.
EVERY = 4
COUNTS = [200, pytest.param(2000, marks=pytest.mark.long)]


class Result(NamedTuple):
    """What a strategy reads of an earlier frame."""

    iou: float
    score: float
    record: torch.Tensor
    mask: torch.Tensor = torch.ones(1, 1)


PROMPTED = Result(1.0, 10.0, NO_RECORD)


class Rows:
    """The engine's side of a batch.

    Args:
        start: of each row, its first prompted frame.
    """

    def __init__(self, strategy, start, num_frames):
        self.strategy, self.num_frames = strategy, num_frames
        self.state = torch.zeros(len(start), strategy.state_size, dtype=torch.float64)
        self.conditioning = [{t: PROMPTED} for t in start]
        self.tracked = [{} for _ in start]

    def prompt(self, row, frame):
        self.conditioning[row][frame] = PROMPTED
        self.state[row] = 0

    def attend(self, row, frame):
        history = History(frame, False, self.num_frames, self.conditioning[row], self.tracked[row], RULES, {})
        attended = self.strategy.attend(history)
        span = attended.span or min(self.num_frames, RULES.max_pointers) - 1
        return sorted(attended.memories), sorted((t, d / span) for t, d in attended.pointers), attended.factors

    def choose(self, batch: Batch, t):
        """What is decided of all rows, whose states change."""
        is_present = batch.scores[t] > self.strategy.presence
        masks = np.where(is_present[:, None, None, None], batch.masks[t], np.float32(ABSENT))
        parts = map(torch.from_numpy, (masks, batch.ious[t], batch.scores[t, :, None]))
        made = self.strategy.choose(MaskCandidates(*parts, False, False, SIDE, VIDEO), self.state)
        self.state = made.state
        return made

    def store(self, batch: Batch, t, frames, made, chosen):
        """The results of all rows but those that are prompted, whose frame is None."""
        ious = np.take_along_axis(batch.ious[t], np.array(chosen)[:, None], 1)[:, 0].tolist()
        records = made.record.float().split(1)
        for row, result in enumerate(zip(ious, batch.scores[t].tolist(), records, strict=True)):
            if frames[row] is not None:
                self.tracked[row][frames[row]] = Result(*result)


def expected_of(attended):
    return sorted(attended.memories), sorted(attended.pointers)


def starts_and_prompts(rng, count):
    """The frame of each row's first prompt, and whether it is prompted again so many frames later."""
    return rng.integers(0, 4, count).tolist(), rng.random((FRAMES, count)) < 0.02


@pytest.mark.parametrize("count", COUNTS)
def test_samurai(count):
    rng, batch, weight = np.random.default_rng(1), random_batch(1, count, FRAMES), 0.25
    starts, is_prompted = starts_and_prompts(rng, count)
    rows, plain = Rows(Samurai(weight=weight), starts, 40), [PlainSamurai(SIDE, 40, weight) for _ in starts]
    by_motion = 0
    for one, start in zip(plain, starts, strict=True):
        one.prompt(start)
    for t in range(1, FRAMES):
        for i in range(t % EVERY, count, EVERY):
            found = rows.attend(i, starts[i] + t)
            assert found[:2] == expected_of(plain[i].attend(starts[i] + t)), (i, t)
        made = rows.choose(batch, t)
        frames = [None if is_prompted[t, i] else start + t for i, start in enumerate(starts)]
        chosen = made.candidate[:, 0].tolist()
        for i, frame in enumerate(frames):
            if frame is None:
                rows.prompt(i, starts[i] + t)
                plain[i].prompt(starts[i] + t)
            else:
                assert chosen[i] == plain[i].track(frame, batch.decoded(t, i)), (i, t)
                by_motion += chosen[i] != batch.ious[t, i].argmax()
        rows.store(batch, t, frames, made, chosen)
    known, stable = rows.state[:, :8].numpy(), rows.state[:, -1].tolist()
    assert stable == [one.stable for one in plain]
    means = [np.zeros(8) if one.filter is None else one.filter.mean for one in plain]
    np.testing.assert_allclose(known, np.stack(means), rtol=1e-9, atol=1e-9)
    assert by_motion > count / 100


@pytest.mark.parametrize("count", COUNTS)
def test_sam2long(count):
    rng, paths = np.random.default_rng(2), 3
    batch = random_batch(2, count * paths, FRAMES)
    for part in batch:  # often the same of all pathways, which are equal at first
        split = part.reshape(FRAMES, count, paths, *part.shape[2:])
        is_same = rng.random((FRAMES, count)) < 0.4
        split[is_same] = split[is_same][:, :1]
    starts = rng.integers(0, 4, count).tolist()
    rows = Rows(Sam2Long(), np.repeat(starts, paths).tolist(), 40)
    plain, parents = [PlainSam2Long(40) for _ in starts], 0
    for one, start in zip(plain, starts, strict=True):
        one.prompt(start)
    for t in range(1, FRAMES):
        for i in range(t % EVERY, count, EVERY):
            for path in range(paths):
                memories, pointers, factors = rows.attend(i * paths + path, starts[i] + t)
                expected = plain[i].attend(starts[i] + t, path)
                assert (memories, pointers) == expected_of(expected), (i, t)
                of_both = expected.memory_factors and (expected.memory_factors, expected.pointer_factors)
                assert (factors is None) == (of_both is None)
                for ours, theirs in zip(factors or (), of_both or (), strict=True):
                    assert sorted(ours) == pytest.approx(sorted(theirs), abs=1e-12)
        made = rows.choose(batch, t)
        found = torch.cat([made.parent, made.candidate], dim=1).view(count, paths, 2).tolist()
        before, sources, chosen = rows.tracked, [], []
        for i, start in enumerate(starts):
            decoded = [batch.decoded(t, i * paths + path) for path in range(paths)]
            kept = plain[i].track(start + t, decoded) if t > 1 else plain[i].track(start + t, decoded[:1]) * paths
            assert found[i] == list(map(list, kept)), (i, t)
            sources += [i * paths + parent for parent, _ in kept]
            chosen += [candidate for _, candidate in kept]
            parents += len({parent for parent, _ in kept}) < paths
        rows.tracked = [dict(before[source]) for source in sources]
        of_parents = Batch(*(part[:, sources] for part in batch))
        rows.store(of_parents, t, [start + t for start in starts for _ in range(paths)], made, chosen)
    totals = [total for one in plain for total in one.totals]
    np.testing.assert_allclose(rows.state[:, 0].numpy(), totals, rtol=1e-12)
    assert parents > count


@pytest.mark.parametrize("count", COUNTS)
def test_dam4sam(count):
    batch, rng = random_batch(3, count, FRAMES), np.random.default_rng(3)
    _, is_prompted = starts_and_prompts(rng, count)
    rows, plain, added = Rows(Dam4Sam(), [0] * count, FRAMES), [PlainDam4sam(VIDEO) for _ in range(count)], 0
    for t in range(1, FRAMES):
        for i in range(t % EVERY, count, EVERY):
            assert rows.attend(i, t)[:2] == expected_of(plain[i].attend(t)), (i, t)
        made = rows.choose(batch, t)
        chosen, is_added = made.candidate[:, 0].tolist(), made.as_prompt[:, 0].tolist()
        for i in range(count):
            if is_prompted[t, i]:
                rows.prompt(i, t)
                plain[i].prompt(t)
            else:
                assert (chosen[i], is_added[i]) == plain[i].track(t, batch.decoded(t, i)), (i, t)
                added += is_added[i]
        rows.store(batch, t, [None if prompted else t for prompted in is_prompted[t]], made, chosen)
    assert added > count / 2


@pytest.mark.parametrize("count", COUNTS)
def test_d4sm(count):
    batch, rng = random_batch(4, count, FRAMES), np.random.default_rng(4)
    starts, is_prompted = starts_and_prompts(rng, count)
    rows, plain, added = Rows(D4sm(), starts, 40), [PlainD4sm(VIDEO) for _ in starts], 0
    first = list(starts)  # frame 0 of each plain implementation; a prompt begins another one
    for t in range(1, FRAMES):
        for i in range(t % EVERY, count, EVERY):
            frame = starts[i] + t
            one = plain[i].attend(frame - first[i])
            span = max(1, len(one.pointers) - 1)
            earlier = [s for s in rows.conditioning[i] if s != first[i]]
            memories = [(s, 6) for s in earlier] + [(s + first[i], row) for s, row in one.memories]
            pointers = [(s, (frame - s) / span) for s in earlier] + [(s + first[i], p) for s, p in one.pointers]
            assert rows.attend(i, frame)[:2] == (sorted(memories), sorted(pointers)), (i, t)
        made = rows.choose(batch, t)
        chosen, is_added = made.candidate[:, 0].tolist(), made.record[:, -1].bool().tolist()
        for i, start in enumerate(starts):
            if is_prompted[t, i]:
                rows.prompt(i, start + t)
                plain[i], first[i] = PlainD4sm(VIDEO), start + t
            else:
                decided = plain[i].track(start + t - first[i], batch.decoded(t, i))
                assert (chosen[i], is_added[i]) == decided, (i, t)
                added += is_added[i]
        frames = [None if is_prompted[t, i] else start + t for i, start in enumerate(starts)]
        rows.store(batch, t, frames, made, chosen)
    assert added > count / 2


@pytest.mark.parametrize("count", COUNTS)
def test_confident(count):
    """Also backwards, once all is tracked."""
    batch, rng = random_batch(5, count, FRAMES), np.random.default_rng(5)
    starts, is_prompted = starts_and_prompts(rng, count)
    strategy, num_frames = Confident(), FRAMES + 4
    for i, start in enumerate(starts):
        conditioning, tracked, plain = {start: PROMPTED}, {}, PlainConfident(num_frames)
        plain.prompt(start)
        for frame in range(start):  # tracked backwards before
            decoded = batch.decoded(0, i)
            tracked[frame] = Result(float(decoded.ious[plain.track(frame, decoded)]), decoded.score, NO_RECORD)
        for t in range(1, FRAMES):
            frame, decoded = start + t, batch.decoded(t, i)
            if is_prompted[t, i]:
                conditioning[frame] = PROMPTED
                plain.prompt(frame)
                continue
            if t % EVERY == i % EVERY:
                compare(strategy, plain, History(frame, False, num_frames, conditioning, tracked, RULES, {}))
            tracked[frame] = Result(float(decoded.ious[plain.track(frame, decoded)]), decoded.score, NO_RECORD)
            assert confidence(tracked[frame]) == pytest.approx(plain.confidence[frame], rel=1e-6)
        back = dict.fromkeys(tracked, True)
        for frame in range(num_frames - 1 - i % EVERY, 0, -EVERY):
            if frame not in conditioning:
                compare(strategy, plain, History(frame, True, num_frames, conditioning, tracked, RULES, back))


def compare(strategy, plain, history):
    found = strategy.attend(history)
    pointers = sorted((t, d / (RULES.max_pointers - 1)) for t, d in found.pointers)
    assert (sorted(found.memories), pointers) == expected_of(plain.attend(history.frame, history.reverse))
