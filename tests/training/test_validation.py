"""Validation measures what was predicted."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sam2fast.evaluation.j_and_f import boundary_f, jaccard
from sam2fast.training.data.batch import ClipBatch
from sam2fast.training.validation import validate


def test_the_measures_are_those_of_the_predicted_masks():
    truth, answer = np.random.default_rng(0).random((2, 3, 2, 16, 16)) > 0.5
    batch = ClipBatch(torch.zeros(3, 1, 16, 16, 3, dtype=torch.uint8), torch.from_numpy(truth), torch.zeros(2), (0,))
    logits = [torch.from_numpy(mask)[:, None] * 2.0 - 1 for mask in answer]
    worse = -torch.ones(2, 1, 16, 16)
    frames = [SimpleNamespace(masks_high_res=[worse, x] if t == 0 else [x]) for t, x in enumerate(logits)]
    model: Any = lambda batch: SimpleNamespace(frames=frames)  # noqa: E731
    loader: Any = SimpleNamespace(epoch=lambda epoch: [batch])
    j, f = (
        100 * np.mean([measure(answer[t, o], truth[t, o]) for o in range(2) for t in (1, 2)])
        for measure in (jaccard, boundary_f)
    )
    expected = {"J&F": (j + f) / 2, "J": j, "F": f, "first": 0.0, "objects": 2}
    assert validate(model, loader, torch.device("cpu")) == pytest.approx(expected)
