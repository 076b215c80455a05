"""Objects that know each other: the rule against plain numpy, and what sessions tell strategies that compare them."""

import json
import runpy
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis_profiles import FACTOR
from plain_together import PlainMotion, plain_frame
from recorded_ops import RecordedOps, as_on_a_gpu, recorded_by
from strategy_histories import random_batch
from strategy_recordings import RECIPES, disc, strategy_clip

from sam2fast.modeling.memory_selection import MemoryRules
from sam2fast.tracking import saved_state
from sam2fast.tracking.saved_state import StateError
from sam2fast.tracking.session import UnchangedOnError
from sam2fast.tracking.strategies import Decided, MaskCandidates, Strategy, Together
from sam2fast.tracking.strategies.together import overlaps
from sam2fast.utils.testing import relative_error

OBJECTS, IDLE, FRAMES, SIDE = 5, 2, 60, 8
PROMPTS = [RECIPES["samurai_box"].prompt_of(obj) for obj in (0, 1)]
WHOLE, PART = disc(0, 0), disc(0, 0) & (np.arange(disc(0, 0).shape[1]) < 20)
BOTH_WAYS = {(0, 1), (1, 0)}


@pytest.fixture(autouse=True)
def weights(predictor):
    RECIPES["samurai_box"].weights(predictor)


@dataclass(frozen=True)
class Seeing(Strategy):
    """Records what it is told of other rows."""

    count: int = 1
    record_size: ClassVar[int] = 8
    sees_others: ClassVar[bool] = True

    @property
    def hypotheses(self):
        return self.count

    def choose(self, candidates, state):
        best = candidates.best()
        if candidates.prompted:
            assert candidates.valid is candidates.sharing is None
            return Decided(best)
        record = torch.zeros(len(best), 8)
        record[:, 0] = (torch.arange(len(best)) % self.count).float()  # each hypothesis goes on
        record[:, 1] = candidates.valid.sum().float()
        record[:, 2 : 2 + len(best)] = candidates.sharing.float()
        return Decided(best, record=record, parent=record[:, :1].long())


def replayed(predictor, monkeypatch):
    """From here on steps are recorded, with buckets of rows."""
    as_on_a_gpu(monkeypatch)
    recorded_by(monkeypatch, RecordedOps)


def claims(tracked):
    return [logits[:, 0] > 0 for logits in tracked.logits.values()]


@pytest.mark.parametrize("seed", range(3 * FACTOR))
def test_the_rule_on_random_histories(seed):
    """With rows that hold no object, and with exempt pairs."""
    rng, rows, strategy = np.random.default_rng(seed), OBJECTS + IDLE, Together()
    batch = random_batch(seed, rows, FRAMES, SIDE)
    pairs = [(i, j) for j in range(OBJECTS) for i in range(j)]
    exempt = {pair for pair in pairs if rng.random() < 0.3}
    sharing, is_object = torch.zeros(rows, rows, dtype=torch.bool), torch.arange(rows)[:, None] < OBJECTS
    for i, j in set(pairs) - exempt:
        sharing[i, j] = sharing[j, i] = True
    state, motions = torch.zeros(rows, strategy.state_size, dtype=torch.float64), [PlainMotion()] * OBJECTS
    lost = gained = 0
    for t in range(1, FRAMES):
        masks, ious, scores = map(torch.from_numpy, (batch.masks[t], batch.ious[t], batch.scores[t, :, None]))
        masks = torch.where((scores > 0)[..., None, None], masks, -1024.0)
        candidates = MaskCandidates(masks, ious, scores, False, False, 64, (0, 0), is_object, sharing)
        decided = strategy.choose(candidates, state)
        chosen = masks[torch.arange(rows), batch.ious[t].argmax(1)]
        assert decided.candidate[:, 0].tolist() == batch.ious[t].argmax(1).tolist()
        expected, motions = plain_frame(chosen[:OBJECTS].numpy(), motions, exempt)
        assert np.array_equal(decided.masks[:OBJECTS, 0].numpy(), expected), t
        assert torch.equal(decided.masks[OBJECTS:, 0], chosen[OBJECTS:])
        state = decided.state
        known = np.array([astuple(motion) for motion in motions])
        np.testing.assert_allclose(state[:OBJECTS].numpy(), known, rtol=1e-9, atol=1e-9)
        lost += (expected < chosen[:OBJECTS].numpy()).sum()
        gained += (expected > chosen[:OBJECTS].numpy()).sum()
        for i in np.flatnonzero(rng.random(OBJECTS) < 0.02):  # a prompt
            motions[i], state[i] = PlainMotion(), 0
    assert lost > 100 and gained > 10


def test_random_histories_reach_every_rule():
    """Held and forgotten motion, contact for longer than it holds, and several claims to one pixel."""
    seen, motions = set(), [PlainMotion()] * OBJECTS
    batch = random_batch(0, OBJECTS, FRAMES, SIDE)
    for t in range(1, FRAMES):
        chosen = batch.masks[t, np.arange(OBJECTS), batch.ious[t].argmax(1)]
        before = motions
        _, motions = plain_frame(np.where(batch.scores[t, :, None, None] > 0, chosen, -1024), motions, ())
        for a, b in zip(before, motions, strict=True):
            seen |= {"held"} if b.frames == a.frames > 0 and b.contact else set()
            seen |= {"forgotten"} if b.frames == 0 and b.unseen == 4 else set()
            seen |= {"long"} if b.frames > a.frames and b.contact > 12 else set()
            seen |= {"free"} if b.frames > a.frames > 1 and not b.contact else set()
    assert seen == {"held", "forgotten", "long", "free"}


def test_cases_of_the_page():
    """The page without a server decides in TypeScript, and is tested with these cases."""
    frontend = Path(__file__).parents[2] / "frontend"
    stored = json.loads((frontend / "tests" / "unit" / "together_cases.json").read_text())
    made = runpy.run_path(str(frontend / "scripts" / "make_together_cases.py"))["cases"]()
    for one, other in zip(made, stored, strict=True):
        motions = [np.array(clip.pop("motion").split(), float) for clip in (one, other)]
        np.testing.assert_allclose(*motions, rtol=1e-9, atol=1e-9)
    assert made == stored


def kept(sharing):
    """How many pixels each of three objects keeps that claim all 16 equally."""
    numbers = torch.full((3, 1, 4, 4), 20.0), torch.ones(3, 1), torch.ones(3, 1)
    given = MaskCandidates(*numbers, False, False, 64, (0, 0), torch.ones(3, 1, dtype=torch.bool), sharing)
    return (Together().choose(given, torch.zeros(3, 8).double()).masks > 0).sum((1, 2, 3)).tolist()


def test_equal_claims_go_to_the_first():
    assert kept(~torch.eye(3, dtype=torch.bool)) == [16, 0, 0]


def discs(*places, radius=0.1):
    """Discs at these x, bool, in the middle of a frame of 32 x 32."""
    at = (torch.arange(32) + 0.5) / 32
    return [((at - x).square() + (at[:, None] - 0.5).square()) < radius**2 for x in places]


def decided(logits, places, velocities=(0, 0)):
    """Of two objects with these logits ``(2, 32, 32)`` that were at these x, with a radius of 0.1."""
    ones, valid = torch.ones(2, 1), torch.ones(2, 1, dtype=torch.bool)
    state = [[9, x, 0.5, v, 0, np.pi * 0.1**2, 0, 0] for x, v in zip(places, velocities, strict=True)]
    sharing = ~torch.eye(2, dtype=torch.bool)
    given = MaskCandidates(logits[:, None], ones, ones, False, False, 64, (0, 0), valid, sharing)
    return Together().choose(given, torch.tensor(state).double())


def test_objects_in_contact_move_with_what_they_claim():
    """Two at 0.3 and 0.5 claim two discs, both of them, a quarter of the frame further on."""
    one, other = discs(0.55, 0.75)
    found = decided(torch.where(one | other, 5.0, -5.0).expand(2, 32, 32), (0.3, 0.5))
    assert torch.equal(found.masks[0, 0] > 0, one) and torch.equal(found.masks[1, 0] > 0, other)
    assert torch.allclose(found.state[:, 1], torch.tensor([0.55, 0.75]).double(), atol=0.01)


@pytest.mark.parametrize(("gap", "is_given"), [(0.14, False), (0.18, True)])
def test_an_object_gets_back_what_another_one_claims_of_its_place(gap, is_given):
    """If they are expected apart by 1.5 radii."""
    one, other = discs(0.4, 0.4 + gap)
    logits = torch.where(one | other, 5.0, -5.0).expand(2, 32, 32).clone()
    logits[0] = -3.0
    found = decided(logits, (0.4, 0.4 + gap))
    kept = found.masks[:, 0] > 0
    assert torch.equal(kept.any(0), one | other) and not kept.all(0).any()
    assert kept[0].any() == is_given
    if is_given:
        assert torch.equal(kept[0, :, :13], one[:, :13]) and found.masks[0].max() == 5 and found.masks[1].min() == -10


@pytest.mark.parametrize(("logit", "has_turned"), [(1.0, False), (5.0, True)])
def test_two_that_turn_back_exchange_their_motion(logit, has_turned):
    """If each is where the other is expected; with weak logits they are believed to pass."""
    one, other = discs(0.4, 0.6)
    logits = torch.where(torch.stack([other, one]), logit, -logit)
    found = decided(logits, (0.42, 0.58), (-0.02, 0.02))
    for mask, kept in zip([other, one] if has_turned else [one, other], found.masks[:, 0] > 0, strict=True):
        assert kept[mask].float().mean() > 0.8
    expected = [[0.4, -0.02], [0.6, 0.02]]
    held = found.state[:, [1, 3]]
    assert torch.allclose(held, torch.tensor(expected[::-1] if has_turned else expected).double())


def test_parts_of_a_whole_are_compared_with_each_other():
    sharing = torch.zeros(3, 3, dtype=torch.bool)
    sharing[1, 2] = sharing[2, 1] = True
    assert kept(sharing) == [16, 16, 0]


def test_counts_of_shared_pixels_are_exact_under_autocast():
    masks = torch.zeros(2, 100, 100, dtype=torch.bool)
    masks[0].view(-1)[:3009] = masks[1].view(-1)[3009 - 301 : 7000] = True
    with torch.autocast("cpu", torch.bfloat16):
        assert overlaps(masks)[0, 1]
    masks[0, 0, 0] = True
    masks[1].view(-1)[3008] = False  # 300 of 3009
    assert not overlaps(masks)[0, 1]


@pytest.mark.parametrize("fast", [False, True])
def test_one_object_has_sam2s_bits(fast, track, predictor, monkeypatch):
    if fast:
        replayed(predictor, monkeypatch)
    expected, found = (track(name, PROMPTS[:1], 9, fast) for name in ("sam2", "together"))
    assert all(torch.equal(logits, found.logits[t]) for t, logits in expected.logits.items())


def test_no_pixel_is_of_two_objects(track, predictor, monkeypatch):
    """But where holes are filled. Memories are of what is kept, so that later frames differ, too."""
    monkeypatch.setattr(predictor, "fill_hole_area", 0)
    expected, found = (track(name, PROMPTS, 20) for name in ("sam2", "together"))
    shared = [sum(int(c.all(0).sum()) for c in claims(each)) for each in (expected, found)]
    assert shared[0] > 1000 and shared[1] == 0
    touched = next(t for t, c in enumerate(claims(expected)) if c.all(0).any())
    assert all(torch.equal(logits, found.logits[t]) for t, logits in expected.logits.items() if t < touched)
    bank = found.session.bank
    memories = [bank.read_memory(one.session.objects[0].tracked[touched].memory) for one in (expected, found)]
    assert not torch.equal(*memories)


def test_recorded_steps_with_idle_rows(track, predictor, monkeypatch):
    """Three objects have a bucket of four rows."""
    prompts = [*PROMPTS, {"box": [40, 10, 70, 40]}]
    eager = track("together", prompts, 8)
    replayed(predictor, monkeypatch)
    made = RecordedOps.made
    recorded = track("together", prompts, 8, fast=True)
    assert RecordedOps.made > made
    for t, logits in eager.logits.items():
        assert relative_error(logits, recorded.logits[t]) <= 1e-4, t
    told = track(Seeing(), prompts, 3, fast=True)
    for obj, results in enumerate(told.results):
        record = results[2].record[0].tolist()
        assert record[1] == 3 and record[2:6] == [float(i < 3 and i != obj) for i in range(4)]


def test_hypotheses_are_compared_with_those_of_the_same_number(track):
    told = track(Seeing(count=2), [*PROMPTS, {"box": [40, 10, 70, 40]}], 4)
    rows = [one.tracked[3].record[0, 2:].tolist() for o in told.session.objects.values() for one in o.hypotheses(2)]
    assert rows == [[float(i != j and i % 2 == j % 2) for j in range(6)] for i in range(6)]


def test_others_are_not_compared_unless_a_strategy_asks(track, predictor):
    for name, columns in (("sam2", 0), ("samurai", 0), ("together", 2)):
        session = track(name, PROMPTS, 2).session
        assert session.bank.emptied().capacity(2, 1, MemoryRules.of(predictor)).others == columns


def test_masks_of_ones_own_are_shown_and_remembered(track):
    class Square(Strategy):
        def choose(self, candidates, state):
            masks = torch.full_like(candidates.masks[:, :1], -5.0)
            masks[:, :, 4:20, 4:20] = 5.0
            return Decided(candidates.best(), masks=masks)

    found, plain = track(Square(), PROMPTS, 4), track("sam2", PROMPTS, 4)
    square = torch.zeros(2, 32, 32, dtype=torch.bool)
    square[:, 4:20, 4:20] = True
    assert all(torch.equal(c, square) for c in claims(found))  # on the prompted frame, too
    memories = [one.session.bank.read_memory(one.results[0][1].memory) for one in (found, plain)]
    assert relative_error(*memories) > 0.01


def test_saved_in_contact(predictor, track, frames, tmp_path):
    """A session and a stream go on with the same bits."""
    expected, touching = track("together", PROMPTS, 15), 12
    session = track("together", PROMPTS, touching).session
    state = session.bank.states.read(session.objects[0].tracked[touching - 1].state)
    assert state[0] > 1 and state[6] > 0
    predictor.save_state(session, tmp_path / "state")
    later = track(None, [], 3, session=predictor.load_state(tmp_path / "state", str(frames)), start_frame_idx=touching)
    assert all(torch.equal(logits, expected.logits[t]) for t, logits in later.logits.items())
    images = strategy_clip()
    with predictor.open_stream(strategy="together") as stream:
        stream.step(images[0])
        for obj, prompt in enumerate(PROMPTS):
            stream.add_new_points_or_box(obj, **prompt)
        for image in images[1:touching]:
            stream.step(image)
        stream.save(tmp_path / "stream")
    with predictor.restore_stream(tmp_path / "stream") as stream:
        for t in range(touching, 15):
            assert torch.equal(stream.step(images[t], output="low_res").masks, expected.logits[t]), t


def test_a_part_and_its_whole_share_pixels(track, predictor, frames, tmp_path):
    """They have SAM 2's bits, also after they were saved; until one of them is removed, or is prompted elsewhere."""
    prompts = [{"mask": WHOLE}, {"mask": PART}]
    expected, found = (track(name, prompts, 8) for name in ("sam2", "together"))
    assert all(torch.equal(logits, found.logits[t]) for t, logits in expected.logits.items())
    assert found.session.exempt == BOTH_WAYS and not expected.session.exempt
    predictor.save_state(found.session, tmp_path / "state")
    again = predictor.load_state(tmp_path / "state", str(frames))
    assert again.exempt == predictor.move_state(again).exempt == BOTH_WAYS
    later, after = (track(None, [], 4, session=s, start_frame_idx=8).logits for s in (expected.session, again))
    assert all(torch.equal(logits, after[t]) for t, logits in later.items())
    predictor.add_new_mask(again, 0, 1, disc(0, 1))
    predictor.propagate_in_video_preflight(again)
    assert not again.exempt
    predictor.remove_object(found.session, 1)
    assert not found.session.exempt
    track(None, [{"mask": WHOLE}, {"mask": PART}], 2, session=found.session)
    assert found.session.exempt == BOTH_WAYS
    predictor.reset_state(found.session)
    assert not found.session.exempt


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_part_that_comes_later(is_stream, track, predictor, frames):
    """Its first prompt is compared with tracked masks. A correction is not: they may be what it corrects."""
    late = 3
    if is_stream:
        stream = predictor.open_stream(strategy="together")
        for t, image in enumerate(strategy_clip()[: late + 1]):
            stream.step(image)
            if t == 0:
                stream.add_new_mask(0, WHOLE)
        session, add = stream._state, stream.add_new_mask
    else:
        session = track("together", [{"mask": WHOLE}], late + 1).session
        add = lambda obj, mask: predictor.add_new_mask(session, late, obj, mask)  # noqa: E731
    masks = session.objects[0].tracked[late].mask[0, 0] > 0
    large = torch.nn.functional.interpolate(masks[None, None].float(), disc(0, 0).shape)[0, 0] > 0
    columns = torch.nonzero(large.any(0))[:, 0]
    part = large & (torch.arange(large.shape[1]) < columns.float().mean())
    add(1, part)

    def go_on(t):
        if is_stream:
            stream.step(strategy_clip()[t])
        else:
            track(None, [], 1, session=session, start_frame_idx=t)

    go_on(late + 1)
    assert session.exempt == BOTH_WAYS
    late += 1  # both are tracked there
    session.exempt = frozenset()
    add(1, part)
    go_on(late + 1)
    assert not session.exempt


def test_prompts_of_other_frames_are_not_compared(predictor, track, frames):
    session = predictor.init_state(str(frames), strategy="together")
    predictor.add_new_mask(session, 0, 0, WHOLE)
    predictor.add_new_mask(session, 2, 1, WHOLE)
    track(None, [], 4, session=session)
    assert not session.exempt


def test_exempt_pairs_after_an_error_and_of_a_damaged_file(predictor, track, frames):
    session = track("together", [{"mask": WHOLE}, {"mask": PART}], 3).session
    with pytest.raises(KeyboardInterrupt), UnchangedOnError(session, ()):
        session.exempt = frozenset()
        raise KeyboardInterrupt
    assert session.exempt == BOTH_WAYS
    packed = saved_state.packed(session)
    for damage in ([[0, 7]], [[0]], 3, [["0", 1]]):
        damaged = replace_facts(packed, exempt=damage)
        with pytest.raises(StateError, match="cannot be restored"):
            saved_state.unpacked(damaged, predictor._tracker, session.frames)
    before = {name: value for name, value in packed.facts.items() if name != "exempt"}  # a file from before
    assert not saved_state.unpacked(packed._replace(facts=before), predictor._tracker, session.frames).exempt


def replace_facts(packed, **facts):
    return packed._replace(facts={**packed.facts, **facts})
