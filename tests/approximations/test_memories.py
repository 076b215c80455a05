"""Fewer memories: what is attended to."""

import gc
import random
from dataclasses import replace

import pytest
import torch
from graph_sessions import recorded_steps
from video import Session

from sam2fast.modeling.memory_selection import MemoryRules, recent_frames, select_memories
from sam2fast.tracking import attending, step
from sam2fast.tracking.approximations import Approximations
from sam2fast.utils.testing import relative_error


def long_life(s: Session) -> None:
    """Objects come, are corrected, taken back and removed."""
    s.points(0, "a", (60, 40, 1))
    s.points(2, "b", box=[20, 20, 70, 60])
    s.propagate(max_frame_num_to_track=5)
    s.points(4, "a", (65, 45, 0))
    s.points(8, "a", (30, 45, 1))
    s.propagate(start_frame_idx=4, max_frame_num_to_track=5)
    s.clear(8, "a")
    s.remove("b")
    s.propagate(start_frame_idx=9, max_frame_num_to_track=3, reverse=True)


class Attended:
    """Pages and tokens of every object that attended to something."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pages: list[int] = []
        self.tokens: list[int] = []
        right = attending.attended_by_tables

        def counted(*arguments):
            memory = right(*arguments)
            filled = (memory.page_table >= 0).sum(dim=1)
            self.pages += filled.tolist()
            self.tokens += (filled * memory.pages.shape[1]).tolist()
            return memory

        for module in (attending, step):
            monkeypatch.setattr(module, "attended_by_tables", counted)


def one_object(predictor, video, frames=12):
    s = Session(predictor, video)
    s.points(0, 1, (60, 40, 1))
    s.propagate(max_frame_num_to_track=frames)
    return s


@pytest.mark.parametrize("slots", [1, 2, 4, 7])
def test_the_nearest_frames_are_attended_to(slots):
    """Of the frames attended to without it, the conditioning ones and the slots - 1 nearest; pointers as ever."""
    rng = random.Random(slots)
    for _ in range(300):
        tracked = rng.sample(range(1, 30), rng.randint(0, 29))
        given = rng.randrange(31), [0], tracked, 31, rng.random() < 0.5
        rules = MemoryRules(7, rng.choice([1, 2]), -1, True, 16, True, True)
        exact = select_memories(*given, rules)
        fewer = select_memories(*given, replace(rules, memory_slots=slots))
        assert fewer.pointers == exact.pointers
        assert fewer.memories == [(t, row) for t, row in exact.memories if t == 0 or row < slots - 1]
    assert len(recent_frames(20, False, MemoryRules(7, 1, -1, True, 16, True, True, memory_slots=slots))) == slots - 1


@pytest.mark.parametrize(
    ("asked", "pages", "tokens"),
    [(None, [*range(1, 8)], [16 * n for n in range(1, 8)]), ("memory_slots=3", [1, 2, *[3] * 5], [16, 32, *[48] * 5])],
)
def test_so_much_is_attended_to(asked, pages, tokens, rough, video, monkeypatch):
    attended = Attended(monkeypatch)
    rough.approximations = asked
    one_object(rough, video, 7)
    assert (attended.pages, attended.tokens) == (pages, tokens)


def test_all_slots_and_none_again_are_exact(exact, rough, video):
    rough.approximations = {"memory_slots": 7}
    all_slots = one_object(rough, video)
    rough.approximations = ["memory_slots=2", "still_frames=1"]
    first = one_object(rough, video)
    rough.approximations = None
    expected, again = one_object(exact, video), one_object(rough, video)
    for a, *others in zip(expected.records, all_slots.records, again.records, strict=True):
        assert all(torch.equal(a.masks, b.masks) for b in others)
    assert not torch.equal(first.records[-1].masks, again.records[-1].masks)


ALL = Approximations(memory_slots=4, still_frames=0.01)


@pytest.mark.parametrize("approximations", ["memory_slots=2", ALL], ids=str)
def test_replayed_steps_give_the_same_masks(rough, replaying, video, approximations):
    rough.approximations = replaying.approximations = approximations
    sessions = [Session(p, video) for p in (rough, replaying)]
    for s in sessions:
        long_life(s)
    for a, b in zip(*(s.records for s in sessions), strict=True):
        assert relative_error(a.masks, b.masks) < 1e-5, a.step
    rules, steps = replaying._tracker.rules(sessions[1].state), recorded_steps(replaying, sessions[1])
    conditioning = {shape.pointers - 15 for (_, shape, _), *_ in steps._calls}
    assert {shape.memories for (_, shape, _), *_ in steps._calls} == {rules.recent + n for n in conditioning}


def test_sessions_keep_what_they_were_opened_with(exact, rough, replaying, video):
    """Also after another setting; a workspace with room for all memories is not taken over by fewer."""
    rough.approximations = replaying.approximations = "memory_slots=2"
    fewer = [Session(p, video) for p in (rough, replaying)]
    for s in fewer:
        s.points(0, 1, (60, 40, 1))
    rough.approximations = replaying.approximations = None
    gc.freeze()  # the collection passes over what is older
    whole = one_object(replaying, video, 4)
    records = whole.records
    del whole
    gc.collect()
    assert replaying._tracker.steps._idle
    for s in fewer:
        s.propagate(max_frame_num_to_track=4)
    for expected, actual in ((fewer[0].records, fewer[1].records), (one_object(exact, video, 4).records, records)):
        for a, b in zip(expected, actual, strict=True):
            assert relative_error(a.masks, b.masks) < 1e-5, a.step
    replaying.reset_state(fewer[1].state)
    assert fewer[1].state.bank.approximations == Approximations(memory_slots=2)
