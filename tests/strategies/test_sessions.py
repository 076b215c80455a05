"""Every strategy in sessions: several objects, streams, saved states, corrections, both directions, recorded steps."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from recorded_ops import RecordedOps, as_on_a_gpu, recorded_by
from strategy_recordings import RECIPES, strategy_clip

from sam2fast.sam2_video_predictor import SAM2VideoPredictor
from sam2fast.tracking.saved_state import StateError
from sam2fast.tracking.strategies import STRATEGIES, Attended, Confident, Dam4Sam, Decided, Sam2Long, Samurai, Strategy
from sam2fast.utils.testing import relative_error

PROMPTS = [RECIPES["samurai_box"].prompt_of(obj) for obj in (0, 1)]
# The plain one is what all other tests run.
MARKS = {"dam4sam": pytest.mark.slow, "d4sm": pytest.mark.slow}
ALONE = [
    pytest.param(name, marks=MARKS.get(name, ()))
    for name, kind in sorted(STRATEGIES.items())
    if name != "sam2" and not kind.sees_others
]
NAMES = [*ALONE, *(name for name, kind in STRATEGIES.items() if kind.sees_others)]


@dataclass(frozen=True)
class EverySecond(Strategy):
    """One's own: the smallest candidate; prompts and every second frame as memories."""

    state_size: ClassVar[int] = 1
    record_size: ClassVar[int] = 1

    def choose(self, candidates, state):
        sizes = (candidates.masks > 0).sum((2, 3))
        number = state + 1
        return Decided(sizes.argmin(1, keepdim=True), number, (number % 2).float())

    def attend(self, history):
        prompted = [(t, 6) for t in history.conditioning]
        chosen = [t for t in history.past() if t in history.tracked and history.tracked[t].record.item()][:6]
        return Attended(prompted + [(t, row) for row, t in enumerate(chosen)], [(t, 0) for t in history.conditioning])


@pytest.fixture(params=[*NAMES, "own"])
def strategy(request, predictor):
    # Scores on both sides of the thresholds.
    RECIPES["d4sm" if request.param in ("dam4sam", "d4sm") else "samurai_click"].weights(predictor)
    return EverySecond() if request.param == "own" else request.param


@pytest.fixture(scope="module")
def passes():
    return {}


@pytest.fixture
def tracked(strategy, track, passes):
    """Both objects on the first 12 frames; nobody changes it."""
    if strategy not in passes:
        passes[strategy] = track(strategy, PROMPTS, 12)
    return passes[strategy]


def same(a, b):
    assert a.keys() == b.keys()
    for t in a:
        assert torch.equal(a[t], b[t]), t


@pytest.mark.parametrize("strategy", [*ALONE, "own"], indirect=True)
def test_objects_of_a_batch_equal_each_alone(strategy, track, tracked):
    for obj, prompt in enumerate(PROMPTS):
        alone = track(strategy, [prompt], 12)
        for t, logits in alone.logits.items():
            assert relative_error(logits[0], tracked.logits[t][obj]) <= 1e-4, t
            assert t == 0 or alone.attended[t, 0] == tracked.attended[t, obj]


def test_a_stream_gives_the_bits_of_a_session(strategy, track, predictor, tmp_path):
    """And keeps few frames, and goes on where it was saved. Of several hypotheses the last frame shows the best."""
    count, saved = 28, 26  # the first object is away for some of them
    prompts = PROMPTS if strategy == "together" else PROMPTS[:1]
    offline, images = track(strategy, prompts, count), strategy_clip()
    predictor.strategy = strategy
    with predictor.open_stream() as stream:
        for t, image in enumerate(images[:count]):
            if t == saved:
                stream.save(tmp_path / "stream")
                again = predictor.restore_stream(tmp_path / "stream")
            result = stream.step(image, output="low_res")
            if t == 0:
                for obj, prompt in enumerate(prompts):
                    stream.add_new_points_or_box(obj, **prompt)
            elif stream._state.strategy.hypotheses == 1 or t == count - 1:
                assert torch.equal(result.masks, offline.logits[t]), t
            if t >= saved:
                assert torch.equal(result.masks, again.step(image, output="low_res").masks)
        assert max(len(o.tracked) for o in stream._state.objects.values()) <= (26 if strategy != "sam2long" else 3 * 16)
    predictor.strategy = "sam2"


def test_a_session_goes_on_where_it_was_saved(strategy, track, tracked, predictor, frames, tmp_path):
    first = track(strategy, PROMPTS, 8)
    predictor.save_state(first.session, tmp_path / "state")
    predictor.strategy = strategy if isinstance(strategy, Strategy) else "sam2"
    session = predictor.load_state(tmp_path / "state", str(frames))
    predictor.strategy = "sam2"
    assert session.strategy == first.session.strategy == tracked.session.strategy
    later = track(None, [], 4, session=session, start_frame_idx=8)
    same(later.logits, {t: tracked.logits[t] for t in range(8, 12)})


def test_another_strategy_is_not_restored(predictor, track, frames, tmp_path, monkeypatch):
    @dataclass(frozen=True)
    class Own(Samurai):
        more: float = 1.0

    predictor.save_state(track(Own(), PROMPTS[:1], 3).session, tmp_path / "state")
    with pytest.raises(StateError, match="its strategy is .*Own; set the predictor's attribute strategy"):
        predictor.load_state(tmp_path / "state", str(frames))
    monkeypatch.setattr(predictor, "_strategy", Own(more=2.0))
    with pytest.raises(StateError, match="Own with more 1.0, not 2.0"):
        predictor.load_state(tmp_path / "state", str(frames))
    monkeypatch.setattr(predictor, "_strategy", Own())  # its weight becomes the model's
    assert predictor.load_state(tmp_path / "state", str(frames)).strategy == Own(weight=0.25)


def test_a_pass_in_both_directions_with_a_correction(strategy, track, predictor, frames):
    """The second object is as if it were alone, unless the strategy compares them. A second pass gives the same."""
    RECIPES["samurai_box"].weights(predictor)

    def live(objects):
        state = predictor.init_state(str(frames), strategy=strategy)
        for obj in objects:
            predictor.add_new_points_or_box(state, 12, obj, box=[50, 20 + 8 * obj, 84, 60])
        passes = [track(None, [], 5, session=state, start_frame_idx=12)]
        passes += [track(None, [], 5, session=state, start_frame_idx=12, reverse=True)]
        for obj in objects:
            predictor.add_new_points_or_box(state, 14, obj, [[64, 40]], [1])
        passes += [track(None, [], 3, session=state, start_frame_idx=15) for _ in objects]
        if not isinstance(strategy, EverySecond):
            assert all(14 in dict(passes[2].attended[15, obj].memories) for obj in range(len(objects)))
        return [one.logits for one in passes]

    both = live([0, 1])
    same(both[2], both[3])
    assert not torch.equal(both[0][16], both[2][16])
    for expected, found in zip(live([1]) if strategy != "together" else (), both[:3], strict=False):
        for t in expected:
            assert relative_error(expected[t][0], found[t][1]) <= 1e-4, t


def test_a_session_that_forgets_old_frames(strategy, track, predictor, frames, tmp_path):
    """Chooses among those that it has, also after it was copied."""
    session = predictor.init_state(str(frames), strategy=strategy, max_history=16)
    first = track(None, PROMPTS, 18, session=session)
    assert {len(o.tracked) for o in session.objects.values()} == {16}
    assert all(t == 0 or t > f - 17 for (f, _), one in first.attended.items() for t, _ in one.memories)
    moved = predictor.move_state(session)
    assert moved.strategy == session.strategy
    later = [track(None, [], 3, session=s, start_frame_idx=18).logits for s in (session, moved)]
    same(*later)


def test_a_prompt_and_a_reset_begin_anew(strategy, track, predictor):
    first = track(strategy, PROMPTS[:1], 4)
    predictor.reset_state(first.session)
    same(first.logits, track(None, PROMPTS[:1], 4, session=first.session).logits)
    page = first.session.objects[0].conditioning[0].state
    if strategy != EverySecond():
        assert page is None or not first.session.bank.states.read(page).any()  # a box has a single candidate


def test_recorded_steps_equal_eager_ones(strategy, track, tracked, predictor, monkeypatch):
    as_on_a_gpu(monkeypatch)
    recorded_by(monkeypatch, RecordedOps)
    recorded = track(strategy, PROMPTS, 12, fast=True)
    assert RecordedOps.made > 0
    for t, logits in recorded.logits.items():
        assert relative_error(tracked.logits[t], logits) <= 1e-4, t
    assert tracked.attended == recorded.attended


def test_modules_of_ones_own_are_called_object_by_object(strategy, track, predictor):
    expected, calls = track(strategy, PROMPTS, 4), []
    hook = predictor.sam_mask_decoder.register_forward_hook(lambda *args: calls.append(args))
    found = track(strategy, PROMPTS, 4)
    hook.remove()
    assert len(calls) == 2 + 2 * 3 * found.session.strategy.hypotheses
    for t in expected.logits:
        assert relative_error(expected.logits[t], found.logits[t]) <= 1e-4


def test_the_plain_strategy_takes_no_part_in_a_step(track, predictor):
    """And its sessions keep no more than they did."""
    found = track("sam2", PROMPTS, 4)
    assert not found.session.strategy.decides and found.session.bank.states is None
    assert all(one.state is None and not one.record.numel() for one in found.results[0].values())


def test_names(predictor, frames):
    assert predictor.strategy == STRATEGIES["sam2"]()
    with pytest.raises(ValueError, match="'sam3'; expected 'sam2'"):
        predictor.init_state(str(frames), strategy="sam3")
    with pytest.raises(ValueError, match="'sam3'"):
        predictor.strategy = "sam3"
    with pytest.raises(TypeError, match="strategy is 3"):
        predictor.open_stream(strategy=3)


@pytest.mark.parametrize(("attended", "word"), [
    (Attended([(9, 6)], []), "the memory of frame 9"),
    (Attended([(0, 7)], []), "row 7; expected 0 to 6"),
    (Attended([(0, 6)], [], 3), "a span of 3; .* has_span"),
    (Attended(iter([(0, 6)]), []), "returned memory entries <list_iterator"),
    (Attended([0], []), "returned memory entries .0."),
    (Attended([(0, 6)], None), "returned pointer entries None"),
    (Attended([(0, 6)], [(0, "1")]), "distances"),
    (Attended([(0, 6)], [(0, 1)], 2.5), "a span of 2.5"),
    (Attended([(0, 6)], [(0, 1)], factors=([1.0, 1.0], [1.0])), "factors .*; expected 1 numbers and 1"),
    (Attended([(0, 6)], [(0, 1)], factors=[1.0, 1.0]), "factors .1.0, 1.0."),
    (([(0, 6)], []), "a tuple .*; expected Attended"),
])  # fmt: skip
def test_impossible_choices(track, attended, word):
    class Wrong(Strategy):
        has_span = getattr(attended, "span", None) == 2.5
        has_factors = True

        def attend(self, history):
            return attended

    with pytest.raises(ValueError, match=f"Wrong, on frame 1, .*{word}"):
        track(Wrong(), PROMPTS[:1], 2)


@pytest.mark.parametrize(("decide", "word"), [
    (lambda best: Decided(best[:, 0]), r"candidate of shape \(1,\)"),
    (lambda best: Decided([[0]]), "candidate of type list"),
    (lambda best: Decided(best.float()), "candidate of torch.float32"),
    (lambda best: Decided(best, as_prompt=best), "as_prompt of torch.int64"),
    (lambda best: Decided(best, state=[]), "state of type list"),
    (lambda best: Decided(best, masks=best[:, :, None, None].float()), r"masks of shape \(1, 1, 1, 1\); expected .*32"),
    (lambda best: Decided(best, masks=torch.zeros(1, 1, 32, 32) > 0), "masks of torch.bool; expected torch.float32"),
    (lambda best: best, "Tensor; expected Decided"),
])  # fmt: skip
def test_impossible_decisions(track, decide, word):
    class Wrong(Strategy):
        def choose(self, candidates, state):
            return decide(candidates.best())

    with pytest.raises(ValueError, match=f"Wrong.choose .*{word}"):
        track(Wrong(), PROMPTS[:1], 2)


def test_a_strategy_that_cuda_graphs_could_not_tell_apart(predictor):
    """Is refused on every device."""

    @dataclass
    class Changing(Strategy):
        weight: float = 1.0

    with pytest.raises(TypeError, match=r"Changing cannot be hashed .*; make it a @dataclass\(frozen=True\)"):
        predictor.strategy = Changing()


def test_copies_of_predictors_keep_their_strategy(predictor):
    other = copy.copy(predictor)
    other.strategy = "samurai"
    assert copy.deepcopy(other).strategy == other.strategy != predictor.strategy


def test_a_session_as_the_originals_dict_has_no_strategy(predictor, frames):
    state = predictor.init_state(str(frames), strategy="samurai")
    assert len(state["output_dict_per_obj"]) == 0
    with pytest.raises(RuntimeError, match="the strategy Samurai has no effect on a session that is the official dict"):
        predictor.add_new_points_or_box(state, 0, 0, **PROMPTS[0])


def test_what_is_known_comes_from_the_frame_before_in_the_same_direction(predictor, track, frames):
    state = predictor.init_state(str(frames), strategy="samurai")
    predictor.add_new_points_or_box(state, 4, 0, **PROMPTS[0])
    track(None, [], 4, session=state, start_frame_idx=4)
    track(None, [], 4, session=state, start_frame_idx=4, reverse=True)
    tracked = state.objects[0]
    for frame, reverse, before in ((5, False, 4), (7, False, 6), (3, True, 4), (1, True, 2)):
        assert tracked.state_before(frame, reverse) is tracked.kept_on(before).state is not None
    for frame, reverse in ((6, True), (2, False), (9, False), (20, True)):
        assert tracked.state_before(frame, reverse) is None


@pytest.mark.parametrize(
    ("kind", "name", "least"),
    [(Sam2Long, "paths", 1), (Dam4Sam, "every", 1), (Dam4Sam, "conditioning", 1), (Confident, "conditioning", 2)],
)
def test_settings_are_checked(kind, name, least):
    with pytest.raises(ValueError, match=f"{name} is {least - 1}; expected {least} or more"):
        kind(**{name: least - 1})


@torch.no_grad()
def test_candidates_of_a_click_count_as_present_where_the_prompt_does():
    """SAMURAI takes an object for present from a lower score on."""
    given = {"device": "cpu", "strategy": "samurai", "hydra_overrides_extra": ["++model.image_size=128"]}
    predictor = SAM2VideoPredictor.from_pretrained("sam2fast/nano", **given)
    frame = np.zeros((128, 160, 3), np.uint8)
    frame[40:90, 30:90] = 200
    click = [[60, 60]], [1]
    state = predictor.init_state([frame])
    score = predictor.propose_masks(state, 0, 1, *click).score
    predictor.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.sub_(score + 0.5)
    candidates = predictor.propose_masks(state, 0, 1, *click)
    assert candidates.score == pytest.approx(-0.5, abs=1e-4) and (candidates.logits > 0).flatten(1).any(1).all()
