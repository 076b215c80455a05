"""Strategies against plain implementations on random histories, a row each, with all memories and a stream's."""

from typing import NamedTuple

import numpy as np
import torch
from hypothesis_profiles import FACTOR
from plain_distractors import PlainD4sm, PlainDam4sam
from plain_strategies import ABSENT, PlainSamurai
from strategy_histories import Batch, random_batch

from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.tracking.strategies import D4sm, Dam4Sam, History, MaskCandidates, Samurai

SIDE, VIDEO, FRAMES = 8, (10, 12), 60
RULES = MemoryRules(7, 1, -1, True, 16, True, True)
# What is attended to is compared on every fourth frame of a history, another one in each.
EVERY = 4
COUNT = 60 * FACTOR


class Result(NamedTuple):
    """What a strategy reads of an earlier frame."""

    iou: float
    score: float
    record: torch.Tensor
    mask: torch.Tensor = torch.ones(1, 1)


class Rows:
    """The engine's side of a batch: each row's first prompted frame, and the tracked frames that a stream keeps."""

    def __init__(self, strategy, start, num_frames, most):
        self.strategy, self.num_frames, self.most = strategy, num_frames, most
        self.state = torch.zeros(len(start), strategy.state_size, dtype=torch.float64)
        self.prompted = Result(1.0, 10.0, torch.zeros(1, strategy.record_size))
        self.conditioning = [{t: self.prompted} for t in start]
        self.tracked, self.kept = ([{} for _ in start] for _ in range(2))

    def prompt(self, row, frame):
        self.conditioning[row][frame] = self.prompted
        self.state[row] = 0

    def attend(self, row, frame, waits=True):
        """What a row attends to, also where the last frame's result is not there yet unless the strategy waits."""
        kept = self.kept[row] if waits else {t: one if t < frame - 1 else None for t, one in self.kept[row].items()}
        attended, from_kept = (
            self.strategy.attend(self.history(row, frame, known)) for known in (self.tracked[row], kept)
        )
        assert attended == from_kept
        span = attended.span or min(self.num_frames, RULES.max_pointers) - 1
        return sorted(attended.memories), sorted((t, d / span) for t, d in attended.pointers)

    def history(self, row, frame, known):
        return History(frame, False, self.num_frames, self.conditioning[row], known, RULES, {})

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
            if (frame := frames[row]) is not None:
                known, unread = self.kept[row], {**self.kept[row], frame: None}
                needed = self.strategy.keep(self.history(row, frame, unread))
                self.kept[row] = {t: known[t] for t in known if t in needed}
                self.tracked[row][frame] = self.kept[row][frame] = Result(*result)
                assert len(self.kept[row]) <= RULES.reach + 1 + self.most


def expected_of(attended):
    return sorted(attended.memories), sorted(attended.pointers)


def starts_and_prompts(rng, count):
    """The frame of each row's first prompt, and whether it is prompted again so many frames later: every second is."""
    return rng.integers(0, 4, count).tolist(), rng.random((FRAMES, count)) < 0.04 * (np.arange(count) % 2)


def test_samurai():
    rng, batch, weight = np.random.default_rng(1), random_batch(1, COUNT, FRAMES), 0.25
    starts, is_prompted = starts_and_prompts(rng, COUNT)
    rows, plain = Rows(Samurai(weight=weight), starts, 64, 7), [PlainSamurai(SIDE, 64, weight) for _ in starts]
    by_motion = 0
    for one, start in zip(plain, starts, strict=True):
        one.prompt(start)
    for t in range(1, FRAMES):
        for i in range(t % EVERY, COUNT, EVERY):
            found = rows.attend(i, starts[i] + t, waits=False)
            assert found == expected_of(plain[i].attend(starts[i] + t)), (i, t)
        made = rows.choose(batch, t)
        frames = [None if is_prompted[t, i] else start + t for i, start in enumerate(starts)]
        chosen = made.candidate[:, 0].tolist()
        for i, frame in enumerate(frames):
            if frame is None:
                rows.prompt(i, starts[i] + t)
                plain[i].prompt(starts[i] + t)
            else:
                assert chosen[i] == plain[i].track(frame, batch.decoded(t, i), first=chosen[i]), (i, t)
                by_motion += chosen[i] != batch.ious[t, i].argmax()
        rows.store(batch, t, frames, made, chosen)
    known, stable = rows.state[:, :8].numpy(), rows.state[:, -1].tolist()
    assert stable == [one.stable for one in plain]
    means = [np.zeros(8) if one.filter is None else one.filter.mean for one in plain]
    np.testing.assert_allclose(known, np.stack(means), rtol=1e-9, atol=1e-9)
    assert by_motion > COUNT / 100


def test_dam4sam():
    batch, rng = random_batch(3, COUNT, FRAMES), np.random.default_rng(3)
    _, is_prompted = starts_and_prompts(rng, COUNT)
    rows, plain, added = Rows(Dam4Sam(), [0] * COUNT, FRAMES, 12), [PlainDam4sam(VIDEO) for _ in range(COUNT)], 0
    for t in range(1, FRAMES):
        for i in range(t % EVERY, COUNT, EVERY):
            assert rows.attend(i, t) == expected_of(plain[i].attend(t)), (i, t)
        made = rows.choose(batch, t)
        chosen, is_added = made.candidate[:, 0].tolist(), made.as_prompt[:, 0].tolist()
        for i in range(COUNT):
            if is_prompted[t, i]:
                rows.prompt(i, t)
                plain[i].prompt(t)
            else:
                assert (chosen[i], is_added[i]) == plain[i].track(t, batch.decoded(t, i)), (i, t)
                added += is_added[i]
        rows.store(batch, t, [None if prompted else t for prompted in is_prompted[t]], made, chosen)
    assert added > COUNT / 2


def test_d4sm():
    batch, rng = random_batch(4, COUNT, FRAMES), np.random.default_rng(4)
    starts, is_prompted = starts_and_prompts(rng, COUNT)
    rows, plain, added = Rows(D4sm(), starts, 64, 22), [PlainD4sm(VIDEO) for _ in starts], 0
    first = list(starts)  # frame 0 of each plain implementation; a prompt begins another one
    for t in range(1, FRAMES):
        for i in range(t % EVERY, COUNT, EVERY):
            frame = starts[i] + t
            one = plain[i].attend(frame - first[i])
            span = max(1, len(one.pointers) - 1)
            earlier = [s for s in rows.conditioning[i] if s != first[i]]
            memories = [(s, 6) for s in earlier] + [(s + first[i], row) for s, row in one.memories]
            pointers = [(s, (frame - s) / span) for s in earlier] + [(s + first[i], p) for s, p in one.pointers]
            assert rows.attend(i, frame) == (sorted(memories), sorted(pointers)), (i, t)
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
    assert added > COUNT / 2
