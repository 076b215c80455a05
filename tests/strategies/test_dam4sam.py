"""DAM4SAM against its plain implementation: on chosen histories, and on whole clips."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_distractors import PlainDam4sam
from plain_strategies import Decoded
from plain_tracker import run
from strategy_histories import disc_logits
from strategy_recordings import HEIGHT, RECIPES, WIDTH

from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.tracking.strategies import Dam4Sam, History, MaskCandidates
from sam2fast.utils.testing import relative_error

VIDEO = 45, 60
RULES = MemoryRules(7, 1, -1, True, 16, True, True)


class Result:
    """What a strategy reads of an earlier frame."""

    def __init__(self, mask, record):
        self.mask, self.record = mask[None, None], record[None]


def as_positions(attended):
    return sorted(attended.memories), sorted((t, d / attended.span) for t, d in attended.pointers)


def decided(strategy, histories, t, state):
    """Of all objects of a frame at once."""
    decoded = [history[t].present(0.0) for history in histories]
    masks, ious = (torch.from_numpy(np.stack([getattr(d, name) for d in decoded])) for name in ("masks", "ious"))
    scores = torch.tensor([[d.score] for d in decoded])
    return masks, strategy.choose(MaskCandidates(masks, ious, scores, False, False, 64, VIDEO), state)


@pytest.mark.parametrize("seed", range(12))
def test_plain_memories_with_many_distractors(seed):
    rng, strategy, plain = np.random.default_rng(seed), Dam4Sam(), PlainDam4sam(VIDEO)
    prompted, tracked, since = {0: Result(torch.ones(16, 16), torch.zeros(3))}, {}, 0
    for t in range(1, 90):
        expected = plain.attend(t)
        found = strategy.attend(History(t, False, 90, prompted, tracked, RULES, {}))
        assert as_positions(found) == (sorted(expected.memories), sorted(expected.pointers)), t
        visible, is_added = int(rng.random() < 0.8), rng.random() < 0.15
        since = 1 if is_added else since + (since > 0)
        plain.visible[t] = max(visible, int(is_added))
        plain.conditioning |= {t} if is_added else set()
        tracked[t] = Result(torch.zeros(16, 16), torch.tensor([plain.visible[t], since, t], dtype=torch.float32))
    assert len(plain.conditioning) > 6


@pytest.mark.parametrize("away", [298, 299])
def test_sizes_leave_the_window(away):
    """Of an object that returns with another size, beside a distractor."""
    small, large, other = (disc_logits(np.array(place), r) for place, r in (((4, 4), 2), ((4, 4), 3), ((12, 12), 2)))
    ious = np.array([0.9, 0.1, 0.1], np.float32)
    frames = [Decoded(np.stack([x, x, np.maximum(x, other)]).astype(np.float32), ious, 5.0) for x in (small, large)]
    history = [frames[0], *[replace(frames[0], score=-5.0)] * away, frames[1]]
    strategy, plain, added = Dam4Sam(), PlainDam4sam(VIDEO), []
    state = torch.zeros(1, strategy.state_size, dtype=torch.float64)
    for t, one in enumerate(history):
        made = decided(strategy, [history], t, state)[1]
        state = made.state
        assert bool(made.as_prompt) == plain.track(t + 1, one)[1], t
        added.append(bool(made.as_prompt))
    assert added[away + 1] == (away >= 299)


@pytest.mark.parametrize(("obj", "fast"), [(0, True), (1, False)])
def test_plain_implementation_on_a_clip(obj, fast, predictor, official, frames, track):
    recipe, count = RECIPES["d4sm"], 24
    recipe.weights(predictor)
    recipe.weights(official)
    plain = run(official, frames, PlainDam4sam((HEIGHT, WIDTH)), count, **recipe.prompt_of(obj))
    found = track("dam4sam", [recipe.prompt_of(obj)], count, fast)
    added = 0
    for t in range(1, count):
        assert sorted(found.attended[t, 0].memories) == sorted(plain.attended[t - 1].memories), t
        assert relative_error(plain.masks[t], found.logits[t][0, 0]) <= 1e-4, t
        assert (found.results[0][t].record[0, 1] == 1) == plain.decided[t - 1][1]
        added += plain.decided[t - 1][1]
    assert added > 0
