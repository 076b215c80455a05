"""Which frames show a distractor, on masks with several parts; gates and sizes are tested with the strategies."""

import numpy as np
import pytest
import torch
from plain_distractors import Introspection

from sam2fast.tracking.strategies.introspection import NEWEST, SIZES, Sizes, find_distractors

HEIGHT, WIDTH, KNOWN = 30, 40, 5


def random_masks(rng):
    """A chosen mask and two others with some rectangles beside it, of equal size now and then."""
    chosen = np.zeros((HEIGHT, WIDTH), bool)
    y, x = rng.integers(4, 8, 2)
    chosen[y : y + rng.integers(1, 18), x : x + rng.integers(1, 26)] = True
    masks = [chosen]
    for _ in range(2):
        other = chosen & (rng.random() < 0.9)
        for _ in range(rng.integers(0, 5)):
            top, left, size = rng.integers(0, HEIGHT - 3), rng.integers(0, WIDTH - 3), rng.integers(1, 4)
            other[top : top + size, left : left + size] = True
        masks.append(other)
    return masks


@pytest.mark.parametrize("last", [0, 1])
def test_plain_introspection_on_random_masks(last):
    rng, count = np.random.default_rng(last), 600
    cases = [random_masks(rng) for _ in range(count)]
    choices = rng.integers(0, 3, count)
    shown = np.stack(
        [np.insert(np.stack(others), j, chosen, axis=0) for (chosen, *others), j in zip(cases, choices, strict=True)]
    )
    sizes = np.array([chosen.sum() for chosen, *_ in cases], dtype=np.float64)[:, None]
    before = torch.zeros(count, SIZES, dtype=torch.float64)
    before[:, :KNOWN] = torch.from_numpy(sizes)
    before[:, NEWEST : NEWEST + KNOWN] = torch.arange(KNOWN)
    before[:, -1] = KNOWN
    ious = torch.full((count, 1), 0.9)
    found, after = find_distractors(
        torch.from_numpy(shown), torch.from_numpy(choices)[:, None], ious, Sizes.of(before), last
    )
    expected = []
    for chosen, *others in cases:
        plain = Introspection(last)
        plain.sizes = [int(chosen.sum())] * KNOWN
        expected.append(plain.add(KNOWN + 1, 0.9, chosen, others))
    assert found[:, 0].tolist() == expected
    assert 0.2 < np.mean(expected) < 0.9
    assert torch.equal(after.sizes[:, :1], torch.from_numpy(sizes)) and (after.frames == KNOWN + 1).all()
    assert torch.equal(after.since, found.double())
