"""The strategy ``together`` in the exported tracker: the library's decisions, without torch."""

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

import torch
from onnx_graphs import model_of_modules
from strategy_histories import random_batch
from video import compare, run

from sam2fast.deploy.onnx.runtime.together import separated
from sam2fast.deploy.onnx.runtime.videos import OnnxVideoPredictor
from sam2fast.tracking.strategies import MaskCandidates, Together

OBJECTS, FRAMES = 5, 60


@pytest.mark.parametrize("seed", range(3))
def test_random_histories(seed):
    rng, batch, valid = np.random.default_rng(seed), random_batch(seed, OBJECTS, FRAMES), torch.ones(OBJECTS, 1).bool()
    sharing = np.triu(rng.random((OBJECTS, OBJECTS)) < 0.7, 1)
    sharing |= sharing.T
    state, changed = np.zeros((OBJECTS, 8)), 0
    for t in range(1, FRAMES):
        masks, ious, scores = map(torch.from_numpy, (batch.masks[t], batch.ious[t], batch.scores[t, :, None]))
        masks = torch.where((scores > 0)[..., None, None], masks, -1024.0)
        given = MaskCandidates(masks, ious, scores, False, False, 64, (0, 0), valid, torch.from_numpy(sharing))
        expected = Together().choose(given, torch.from_numpy(state))
        logits = masks[torch.arange(OBJECTS), expected.candidate[:, 0]].numpy()
        found, state = separated(logits, state, sharing)
        assert found.dtype == np.float32 and np.array_equal(found, expected.masks[:, 0].numpy()), t
        np.testing.assert_allclose(state, expected.state.numpy(), rtol=1e-12, atol=1e-12)
        changed += (found != logits).sum()
    assert changed > 100


@pytest.fixture(scope="module")
def tracker(pair):
    return OnnxVideoPredictor(model_of_modules(pair[1]))


def crowded(s):
    """Prompts on several frames, one of them of a part of another object, corrections, removals, both directions."""
    rows, columns = np.mgrid[0:90, 0:120]
    s.mask(0, 1, (columns > 20) & (columns < 70) & (rows > 20) & (rows < 70))
    s.mask(0, 2, (columns > 60) & (columns < 110) & (rows > 20) & (rows < 70))
    s.mask(0, "part", (columns > 30) & (columns < 50) & (rows > 30) & (rows < 60))
    s.propagate(max_frame_num_to_track=3)
    s.points(2, 2, (65, 45, 0))
    s.points(2, "late", (60, 40, 1))
    s.propagate(start_frame_idx=2, max_frame_num_to_track=3)
    s.clear(2, 2)
    s.propagate(start_frame_idx=5, max_frame_num_to_track=3, reverse=True)
    s.remove("part")
    s.mask(4, "part", (columns > 70) & (rows > 50))
    s.propagate(start_frame_idx=4, max_frame_num_to_track=3)


def test_sessions(pair, tracker, video):
    expected, plain = (run(pair[1], video, crowded, strategy=name) for name in ("together", "sam2"))
    assert sum(((a.masks > 0) != (b.masks > 0)).sum() for a, b in zip(expected, plain, strict=True)) > 1000
    compare(expected, run(tracker, video, crowded, strategy="together"))
    compare(plain, run(tracker, video, crowded))


def test_the_model_names_the_strategy(pair, monkeypatch):
    monkeypatch.setattr(pair[1], "strategy", Together())
    predictor = OnnxVideoPredictor(model_of_modules(pair[1]))
    video = [np.zeros((9, 8), np.uint8)]
    assert predictor.init_state(video).strategy == "together"
    assert predictor.init_state(video, strategy="sam2").strategy == "sam2"
    with pytest.raises(ValueError, match="no strategy 'samurai'; expected sam2 or together"):
        predictor.init_state(video, strategy="samurai")


def test_removed_objects_share_no_pixels_later(tracker, video):
    state = tracker.init_state(video, strategy="together")
    whole = np.mgrid[0:90, 0:120][1] < 60

    def exempt():
        tracker.add_new_mask(state, 0, "whole", whole)
        tracker.add_new_mask(state, 0, "part", whole & (np.mgrid[0:90, 0:120][0] < 40))
        tracker.propagate_in_video_preflight(state)
        return state.exempt

    assert exempt() == {("whole", "part"), ("part", "whole")}
    tracker.remove_object(state, "part")
    assert not state.exempt
    assert exempt()
    tracker.reset_state(state)
    assert not state.exempt
