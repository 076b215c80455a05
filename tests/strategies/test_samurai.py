"""SAMURAI against recordings of the published code, and against its plain implementation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from plain_strategies import Kalman, PlainSamurai
from plain_tracker import run
from strategy_histories import random_history
from strategy_recordings import EVERY, FRAMES, IMAGE_SIZE, RECIPES, Recording

from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.tracking.strategies import History, MaskCandidates, Samurai
from sam2fast.tracking.strategies.boxes import boxes_of
from sam2fast.tracking.strategies.samurai import Motion
from sam2fast.utils.testing import relative_error

SAMURAI = [name for name, recipe in RECIPES.items() if recipe.tracker == "samurai"]


@pytest.mark.parametrize("name", SAMURAI)
def test_recorded_choices_memories_and_logits(name, predictor, track):
    recipe, recording = RECIPES[name], Recording.load(name)
    recipe.weights(predictor)
    found, absent = track("samurai", [recipe.prompt_of(0)], FRAMES), set()
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


@pytest.mark.parametrize("name", SAMURAI)
@pytest.mark.parametrize("fast", [False, True])
def test_plain_implementation_on_a_clip(name, fast, predictor, official, frames, track):
    recipe, count = RECIPES[name], 24
    recipe.weights(predictor)
    recipe.weights(official)
    plain = run(official, frames, PlainSamurai(IMAGE_SIZE, FRAMES), count, **recipe.prompt_of(0))
    found = track("samurai", [recipe.prompt_of(0)], count, fast)
    for t in range(1, count):
        assert sorted(found.attended[t, 0].memories) == sorted(plain.attended[t - 1].memories), t
        assert relative_error(plain.masks[t], found.logits[t][0, 0]) <= 1e-4, t


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


def test_plain_choices_on_random_histories():
    """Of many objects at once, each frame's state handed to the next."""
    count, frames, weight = 40, 60, 0.25
    strategy = Samurai(weight=weight)
    histories = [random_history(seed, frames) for seed in range(count)]
    plain = [PlainSamurai(64, frames + 1, weight) for _ in histories]
    state = torch.zeros(count, strategy.state_size, dtype=torch.float64)
    by_motion = 0
    for t in range(frames):
        decoded = [history[t].present(strategy.presence) for history in histories]
        masks, ious = (torch.from_numpy(np.stack([getattr(d, name) for d in decoded])) for name in ("masks", "ious"))
        scores = torch.tensor([[d.score] for d in decoded])
        decided = strategy.choose(MaskCandidates(masks, ious, scores, False, False, 64, (0, 0)), state)
        state = decided.state
        for i, one in enumerate(plain):
            assert int(decided.candidate[i]) == one.track(t + 1, histories[i][t]), (i, t)
            assert int(state[i, -1]) == one.stable
            np.testing.assert_allclose(state[i, :8], one.filter.mean, rtol=1e-9, atol=1e-9)
            motion, record = one.records[t + 1][2], decided.record[i].tolist()
            assert record == pytest.approx([motion or 0.0, float(motion is not None)], abs=1e-6)
            by_motion += int(decided.candidate[i]) != decoded[i].argmax()
    assert by_motion > 10


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


class Result:
    """What the strategy reads of an earlier frame."""

    def __init__(self, iou, score, motion):
        self.iou, self.score, self.record = torch.tensor([[iou]]), torch.tensor([[score]]), torch.tensor([motion])


def test_plain_memories_on_random_histories_without_the_last_frames_scores():
    """Which are not waited for. Also from no more than what a stream keeps."""
    strategy, frames, rules = Samurai(weight=0.25), 60, MemoryRules(7, 1, -1, True, 16, True, True)
    for seed in range(20):
        plain, prompted = PlainSamurai(64, frames + 1), {0: Result(1.0, 10.0, [0.0, 0.0])}
        plain.prompt(0)
        tracked, kept = {}, {}
        for t, decoded in enumerate(random_history(seed, frames), 1):
            expected = plain.attend(t)
            for remembered in (tracked, kept):
                known = {k: v if k < t - 1 else None for k, v in remembered.items()}
                found = strategy.attend(History(t, False, frames + 1, prompted, known, rules, {}))
                assert sorted(found.memories) == sorted(expected.memories), (seed, t)
                assert sorted((f, d / 15) for f, d in found.pointers) == sorted(expected.pointers), (seed, t)
            plain.track(t, decoded)
            iou, score, motion = plain.records[t]
            tracked[t] = kept[t] = Result(iou, score, [motion or 0.0, float(motion is not None)])
            unread = {**kept, t: None}
            needed = strategy.keep(History(t, False, frames + 1, prompted, unread, rules, {}))
            kept = {k: v for k, v in kept.items() if k in needed or k == t}
            assert len(kept) <= 15 + 1 + 7
