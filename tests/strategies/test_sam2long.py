"""SAM2Long against its plain implementation, on random histories and on a clip; and what its pathways take."""

import numpy as np
import pytest
import torch
from hypothesis_profiles import FACTOR
from plain_strategies import PlainSam2Long
from plain_tracker import run
from strategy_histories import random_batch
from strategy_recordings import FRAMES, RECIPES, strategy_clip

from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.research import attention_maps
from sam2fast.tracking.outputs import FrameResult, best_with_others
from sam2fast.tracking.page_pool import Page
from sam2fast.tracking.session import TrackedObject
from sam2fast.tracking.strategies import History, MaskCandidates, Sam2Long
from sam2fast.utils.testing import relative_error


class NoFactors(Sam2Long):
    def attend(self, history):
        return super().attend(history)._replace(factors=None)


RULES = MemoryRules(7, 1, -1, True, 16, True, True)
NOTHING = torch.zeros(1, 1, 2, 2)


def result_of(iou, score, record):
    numbers = (torch.tensor([[float(x)]]) for x in (iou, score, record))
    iou, score, record = numbers
    return FrameResult(NOTHING, iou, score, Page(), None, None, record)


def with_factors(entries, factors):
    """In any order."""
    return {one: pytest.approx(f) for one, f in zip(entries, factors or [1.0] * len(entries), strict=True)}


def found_on(strategy, frame, frames, tracked):
    history = History(frame, False, frames, tracked.conditioning, tracked.tracked, RULES, {})
    attended, span = strategy.attend(history), min(frames, 16) - 1
    of_memories, of_pointers = attended.factors or (None, None)
    pointers = [(t, d / span) for t, d in attended.pointers]
    return with_factors(attended.memories, of_memories), with_factors(pointers, of_pointers)


def expected_on(plain, frame, path):
    one = plain.attend(frame, path)
    return with_factors(one.memories, one.memory_factors), with_factors(one.pointers, one.pointer_factors)


def store(strategy, frame, frames, tracked, results, as_stream):
    tracked.keep_tracked(frame, best_with_others(results, len(results))[0], None)
    assert not results[0].others
    if as_stream:
        paths = tracked.hypotheses(len(results))
        histories = [History(frame, False, frames, o.conditioning, o.tracked, RULES, {}) for o in paths]
        needed = {t for one in histories for t in strategy.keep(one)}
        tracked.forget_unreachable(frame, RULES, needed)
        assert len(needed) <= 1 + 15 * len(paths) and all(one.tracked.keys() <= {*needed, frame} for one in paths)


@pytest.mark.parametrize("strategy", [Sam2Long(memory_iou=0.3, uncertainty=1.0), Sam2Long(paths=1)], ids=str)
def test_plain_decisions_and_memories_on_random_histories(strategy):
    """Of many objects at once, also with no more than what a stream keeps."""
    count, frames, paths, rng = 6 * FACTOR, 60, strategy.paths, np.random.default_rng(0)
    plain = [PlainSam2Long(frames, paths, strategy.memory_iou, strategy.uncertainty) for _ in range(count)]
    batch = random_batch(2, count * paths, frames)
    prompted, uncertain, differing = {0: result_of(0.9, 5, 0)}, 0, 0
    objects = [[TrackedObject(conditioning=dict(prompted)) for _ in range(2)] for _ in plain]
    state = torch.zeros(count * paths, strategy.state_size, dtype=torch.float64)
    for i, one in enumerate(plain):
        one.prompt(0)
        assert found_on(strategy, 1, frames, objects[i][0]) == expected_on(one, 1, 0)
    for t in range(1, frames):
        # Often the same of all pathways, which are equal at first.
        given = [
            [batch.decoded(t, i * paths + (p if rng.random() < 0.6 else 0)) for p in range(paths)] for i in range(count)
        ]
        rows = [decoded for one in given for decoded in one]
        ious = torch.from_numpy(np.stack([d.ious for d in rows]))
        scores, masks = torch.tensor([[d.score] for d in rows]), torch.zeros(len(rows), 3, 1, 1)
        made = strategy.choose(MaskCandidates(masks, ious, scores, False, False, 64, (1, 1)), state)
        state = made.state
        found = torch.cat([made.parent, made.candidate], dim=1).view(count, paths, 2).tolist()
        for i, one in enumerate(plain):
            kept = one.track(t, given[i]) if t > 1 else one.track(t, given[i][:1]) * paths
            assert found[i] == list(map(list, kept)), (i, t)
            assert state.view(count, paths, 2)[i, :, 0].tolist() == pytest.approx(one.totals, rel=1e-12)
            uncertain += t > 1 and max(abs(d.score) for d in given[i]) <= strategy.uncertainty
            differing += len({str(history) for history in one.histories}) > 1
            for tracked, as_stream in zip(objects[i], (False, True), strict=True):
                results = [result_of(given[i][p].ious[j], given[i][p].score, p) for p, j in kept]
                store(strategy, t, frames, tracked, results, as_stream)
                for p, path in enumerate(tracked.hypotheses(paths)):
                    assert found_on(strategy, t + 1, frames, path) == expected_on(one, t + 1, p), (i, t, p)
    for one, (tracked, _) in zip(plain, objects, strict=True):
        shown = [(t, *one.records[t][slot]) for t, slot in one.finish().items()]
        assert [(t, float(r.iou), float(r.score)) for t, r in tracked.tracked.items()] == shown
    assert uncertain > 2 * count and (differing > 6 * count or paths == 1)


@pytest.mark.parametrize(("weights", "obj", "fast"), [("d4sm", 0, False), ("samurai_click", 1, True)])
def test_plain_implementation_on_a_clip(weights, obj, fast, predictor, official, frames, track):
    recipe, prompt, count = RECIPES[weights], RECIPES["samurai_box"].prompt_of(obj), 16
    recipe.weights(predictor)
    recipe.weights(official)
    plain = run(official, frames, PlainSam2Long(FRAMES), count, **prompt)
    found = track("sam2long", [prompt], count, fast)
    for t in range(count):
        assert relative_error(plain.masks[t], found.logits[t][0, 0]) <= 1e-4, t
    for t, expected in enumerate(plain.attended, 1):
        assert sorted(found.attended[t, 0].memories) == sorted(expected[0].memories), t
        assert sorted(found.attended[t, 0].pointers) == sorted((f, round(15 * d)) for f, d in expected[0].pointers), t
    # The best pathway was often another one before.
    assert sum(kept[0][0] > 0 for kept in plain.decided) > 1


def test_memory_attention_of_ones_own(predictor, track):
    """Is called for each hypothesis, and sees factors in the encodings; attention maps are those of the best."""
    RECIPES["d4sm"].weights(predictor)
    prompts, calls = [RECIPES["samurai_box"].prompt_of(obj) for obj in (0, 1)], []
    expected = track("sam2long", prompts, 8)
    hook = predictor.memory_attention.register_forward_hook(lambda *args: calls.append(args))
    found = track("sam2long", prompts, 8)
    hook.remove()
    assert len(calls) == 7 * 2 * 3
    for t in expected.logits:
        assert relative_error(expected.logits[t], found.logits[t]) <= 1e-4
    plain = track(NoFactors(), prompts, 8)
    assert relative_error(expected.logits[7], plain.logits[7]) > 1e-3


def test_attention_maps_are_of_the_best_hypothesis(predictor, frames):
    RECIPES["d4sm"].weights(predictor)
    state = predictor.init_state(str(frames), strategy="sam2long")
    for obj in (0, 1):
        predictor.add_new_points_or_box(state, 0, obj, **RECIPES["samurai_box"].prompt_of(obj))
    with attention_maps(predictor, layers=[0], frames=[3], queries=[(0, 0)]) as maps:
        list(predictor.propagate_in_video(state, max_frame_num_to_track=4, progress=False))
    assert [one.obj_id for one in maps] == [0, 1]
    assert all([c.frame for c in one.columns] == [0, 2, 1, 0, 2] for one in maps)


@pytest.mark.parametrize("frames", [50, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_stream_keeps_few_pages(frames, predictor):
    """Those of pathways that ended are freed."""
    RECIPES["samurai_click"].weights(predictor)
    clip, seen = strategy_clip(), []
    with predictor.open_stream(strategy=Sam2Long(uncertainty=100.0)) as stream:
        for t in range(frames):
            stream.step(clip[t % len(clip)], output="bits")
            if t == 0:
                stream.add_new_points_or_box(0, **RECIPES["samurai_box"].prompt_of(0))
            state = stream._state
            (tracked,) = state.objects.values()
            kept = {id(r) for one in tracked.hypotheses(3) for r in one.tracked.values()}
            pools = [pool for pool in (state.bank.memories, state.bank.pointers, state.bank.states) if pool is not None]
            pages = [sum(owner is not None and owner() is not None for owner in pool._owners) for pool in pools]
            seen.append((len(kept), max(pages), max(len(pool.data) for pool in pools)))
    results, pages, rows = map(max, zip(*seen, strict=True))
    assert 17 < results <= 3 * 17 and pages <= results + 1 and rows <= 256


def test_hypotheses_share_results_and_are_saved_once(predictor, track, frames, tmp_path):
    """A later prompt continues the best one alone, and so does the removal of one."""
    RECIPES["d4sm"].weights(predictor)
    first = track(Sam2Long(uncertainty=100.0), [RECIPES["samurai_box"].prompt_of(0)], 12).session
    masks = [{t: r.mask.clone() for t, r in one.tracked.items()} for one in first.objects[0].hypotheses(3)]
    predictor.save_state(first, tmp_path / "state")
    for session in (first, predictor.load_state(tmp_path / "state", str(frames))):
        (tracked,) = session.objects.values()
        assert sorted(tracked.others) == [1, 2] and tracked.copy().others[1] is not tracked.others[1]
        for expected, one in zip(masks, tracked.hypotheses(3), strict=True):
            assert list(expected) == list(one.tracked)
            assert all(torch.equal(mask, one.tracked[t].mask) for t, mask in expected.items())
        every = [r for one in tracked.hypotheses(3) for r in one.tracked.values()]
        assert len(every) == 3 * 11 and len({id(r) for r in every}) < 2 * 11
        predictor.add_new_points_or_box(session, 9, 0, [[64, 40]], [1])
        predictor.propagate_in_video_preflight(session)
        assert not tracked.others
        track(None, [], 2, session=session, start_frame_idx=10)
        assert sorted(tracked.others) == [1, 2] and tracked.hypotheses(1) == [tracked]
        predictor.add_new_points_or_box(session, 20, 0, [[64, 40]], [1])
        predictor.propagate_in_video_preflight(session)
        track(None, [], 2, session=session, start_frame_idx=11)
        predictor.clear_all_prompts_in_frame(session, 20, 0)
        assert not tracked.others


def test_a_pass_is_yielded_when_it_is_tracked(predictor, frames):
    """Also what ``max_history`` forgot, with scores; an object that is removed meanwhile drops out."""
    RECIPES["d4sm"].weights(predictor)
    state, seen = predictor.init_state(str(frames), strategy=Sam2Long(uncertainty=100.0), max_history=15), []
    for obj in (0, 1):
        predictor.add_new_points_or_box(state, 0, obj, **RECIPES["samurai_box"].prompt_of(obj))

    def progress(order):
        for t in order:
            seen.append(t)
            yield t

    passed = predictor.propagate_in_video(
        state, max_frame_num_to_track=19, progress=progress, output="low_res", return_scores=True
    )
    first = next(passed)
    assert first[:2] == (0, [0, 1]) and seen == list(range(20))
    second = next(passed)
    assert torch.equal(second[2], second[3].low_res_logits) and second[3].iou.shape == (2,)
    predictor.remove_object(state, 0)
    rest = list(passed)
    assert [(t, ids, len(masks)) for t, ids, masks, _ in rest] == [(t, [1], 1) for t in range(2, 20)]
    assert torch.equal(rest[-1][2], state.objects[1].tracked[19].mask)
