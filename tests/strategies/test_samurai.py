"""SAMURAI against recordings of the published code, and parts of it against its plain implementation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_strategies import Kalman, PlainSamurai
from plain_tracker import run
from strategy_recordings import EVERY, FRAMES, IMAGE_SIZE, RECIPES, Recording

from sam2fast.tracking.strategies import Samurai
from sam2fast.tracking.strategies.boxes import boxes_of
from sam2fast.tracking.strategies.samurai import Motion
from sam2fast.utils.testing import relative_error


@pytest.mark.parametrize(("name", "fast"), [("samurai_box", False), ("samurai_click", True)])
def test_recorded_choices_memories_and_logits(name, fast, predictor, track):
    recipe, recording = RECIPES[name], Recording.load(name)
    recipe.weights(predictor)
    found, absent = track("samurai", [recipe.prompt_of(0)], FRAMES, fast), set()
    states = found.session.bank.states
    for t in range(1, FRAMES):
        expected, attended = recording.attended(t, 0), found.attended[t, 0]
        assert sorted(attended.memories) == expected.memories, t
        # Pointers of absent objects are equal: the recording has the last of their frames for all.
        pointers = sorted((max(absent) if f in absent else f, d / 15) for f, d in attended.pointers)
        assert [f for f, _ in pointers] == [f for f, _ in expected.pointers], t
        np.testing.assert_allclose([d for _, d in pointers], [d for _, d in expected.pointers], rtol=1e-6)
        assert float(found.results[0][t].iou) == pytest.approx(
            recording.ious[t, 0, recording.chosen[t, 0]], rel=1e-4
        ), t
        *known, stable = states.read(found.results[0][t].state).tolist()
        assert stable == recording.state[t, 0, 8], t
        np.testing.assert_allclose(known[:8], recording.state[t, 0, :8], rtol=1e-9, atol=1e-9)
        if recording.scores[t, 0] <= -1:
            absent.add(t)
        if t % EVERY == 0:
            logits = torch.from_numpy(recording.logits[t // EVERY, 0])
            assert relative_error(logits, found.logits[t][0, 0]) <= 1e-4, t


def test_a_mask_prompt_has_a_pointer_where_the_score_is_above_the_strategys_threshold(
    predictor, official, frames, track
):
    """As in the published code, whose only threshold is -1. The decoder's score of the prompt is moved to -0.5."""
    prompt, scores = {"mask": RECIPES["d4sm"].prompt_of(0)["mask"]}, []
    RECIPES["samurai_box"].weights(official)
    hook = official.sam_mask_decoder.register_forward_hook(lambda module, args, found: scores.append(found[3].item()))
    run(official, frames, PlainSamurai(IMAGE_SIZE, FRAMES), 1, **prompt)
    hook.remove()
    for model in (official, predictor):
        replace(RECIPES["samurai_box"], score=-0.5 - scores[0]).weights(model)
    plain, found = run(official, frames, PlainSamurai(IMAGE_SIZE, FRAMES), 4, **prompt), track("samurai", [prompt], 4)
    for t in range(4):
        assert relative_error(plain.masks[t], found.logits[t][0, 0]) <= 1e-4, t
    absent = track("sam2", [prompt], 4)
    assert relative_error(absent.logits[3], found.logits[3]) > 1e-3


def test_four_scalar_filters_are_the_published_one():
    rng = np.random.default_rng(0)
    boxes = np.abs(rng.normal(100, 20, (30, 4))) + np.array([0, 0, 1, 30])
    plain, motion = Kalman(boxes[0]), Motion.begin(torch.from_numpy(boxes[:1]))
    for box in boxes[1:]:
        plain.predict()
        motion = motion.predict()
        np.testing.assert_allclose(motion.box()[0], plain.box(), rtol=1e-10)
        plain.update(box)
        motion = motion.update(torch.from_numpy(box[None]))
    covariance = np.diag(plain.covariance), np.diag(plain.covariance, 4)
    np.testing.assert_allclose(torch.cat([motion.variance, motion.change_variance], 1)[0], covariance[0], rtol=1e-9)
    np.testing.assert_allclose(motion.covariance[0], covariance[1], rtol=1e-9)


def test_boxes_end_with_their_last_pixels():
    masks = torch.zeros(1, 3, 8, 8, dtype=torch.bool)
    masks[0, 1, 2:4, 5] = masks[0, 2] = True
    assert boxes_of(masks).tolist() == [[[0, 0, 0, 0], [5, 2, 5, 3], [0, 0, 7, 7]]]


def test_weight_is_the_published_one_of_the_model(predictor):
    assert Samurai().for_model(predictor).weight == 0.25
    assert Samurai(weight=0.4).for_model(predictor).weight == 0.4
