"""d4sm against recordings of the published code."""

import numpy as np
import pytest
import torch
from strategy_recordings import EVERY, FRAMES, RECIPES, Recording

from sam2fast.utils.testing import relative_error


def test_recorded_choices_memories_and_logits_of_two_objects(predictor, track):
    recipe, recording = RECIPES["d4sm"], Recording.load("d4sm")
    recipe.weights(predictor)
    found = track("d4sm", [recipe.prompt_of(obj) for obj in (0, 1)], FRAMES, fast=True)
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
